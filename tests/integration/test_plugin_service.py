"""A plugin that fails on a running server, and what an operator does about it: breaker, reset, disable, enable."""

import asyncio
from pathlib import Path
from typing import Any

import httpx

from tests.integration.cli_process import Person
from tests.integration.metrics_page import metric
from tests.integration.server_process import PASSWORD, ServerProcess, server_process
from tests.integration.sockets import open_socket

FRAGILE = """
from pathlib import Path
from backend.app.websocket.plugin import WebSocketPlugin

class FragilePlugin(WebSocketPlugin):
    event_types = ["NOTIFICATION_SENT"]

    def note(self, text):
        with Path({out!r}).open("a") as file:
            file.write(text + "\\n")

    async def startup(self, context):
        self.note("startup")

    async def shutdown(self, context):
        self.note("shutdown")

    async def initialize(self, context):
        self.note("initialize")

    async def cleanup(self, context):
        self.note("cleanup")

    async def handle_event(self, event_type, event_data, context):
        if event_data["title"] == "bad":
            raise ValueError("it is bad")
        self.note(event_data["title"])
"""
SETTINGS = {"BREAKER_FAILURES": "3", "BREAKER_OPEN_SECONDS": "3600", "PLUGIN_RETRY_SECONDS": "0.05"}


class World:
    """A folder with the plugin, and what it noted."""

    def __init__(self, folder: Path, database: dict[str, str]) -> None:
        self.out = folder / "noted"
        self.out.touch()
        (folder / "plugins").mkdir()
        text = FRAGILE.format(out=str(self.out))
        (folder / "plugins" / "fragile.py").write_text(text, encoding="utf-8")
        self.settings = {"PLUGINS_DIR": str(folder / "plugins"), **SETTINGS, **database}
        self._seen = 0

    async def take(self, count: int) -> list[str]:
        """Wait for the next so many that the plugin notes."""
        found: list[str] = []
        async with asyncio.timeout(20):
            while len(found) < count:
                await asyncio.sleep(0.02)
                found = self.out.read_text(encoding="utf-8").split()[self._seen :]
        self._seen += len(found)
        return found

    async def noted(self, *expected: str) -> None:
        """Wait for what the plugin notes next, in order; fail if it is anything else."""
        assert await self.take(len(expected)) == list(expected)


async def notify(client: httpx.AsyncClient, *titles: str) -> None:
    for title in titles:
        answer = await client.post("/notifications", json={"title": title, "message": ""})
        assert answer.status_code == 201, answer.text


async def breaker_is(client: httpx.AsyncClient, state: str) -> dict[str, Any]:
    """Wait until the breaker is in a state; return what is shown of the plugin then."""
    shown: dict[str, Any] = {}
    async with asyncio.timeout(20):
        while shown.get("breaker") != state:
            await asyncio.sleep(0.02)
            shown = (await client.get("/plugins/fragile")).json()
    return shown


async def begun(server: ServerProcess, folder: Path) -> Person:
    return await Person(server.url, folder).login("admin", PASSWORD)


async def test_what_a_failing_plugin_gets_waits_and_an_operator_decides(
    own_database: dict[str, str], tmp_path: Path
) -> None:
    """Three failures open the breaker; events wait and come in order after a reset; disabled, also after a restart,
    it gets nothing, and enabled it begins with the next event. Sockets notice nothing.
    """
    world = World(tmp_path, own_database)
    async with server_process(tmp_path / "server", world.settings) as server:
        token = await server.login()
        operator = await begun(server, tmp_path / "operator")
        async with server.client(token) as client, open_socket(server.socket_url, token) as socket:
            await world.noted("startup", "initialize")
            await notify(client, "bad", "bad", "good", "bad", "bad", "bad")
            shown = await breaker_is(client, "open")
            assert shown["breakerReason"] == "3 failures in a row; the last: handle_event failed: ValueError"
            assert await metric(server.url, 'windflow_plugin_breaker{plugin="fragile"}') == 2
            await world.noted("good")
            await notify(client, "one", "two", "three")
            async with open_socket(server.socket_url, token):
                # A connection that comes now is made up for.
                listed = await operator.run("plugin", "list")
                assert "open" in next(line for line in listed.out.splitlines() if "fragile" in line)
                assert (await client.get("/plugins/fragile")).json()["waiting"] == 3
                done = await operator.run("plugin", "reset", "fragile")
                assert (done.status, done.out.strip()) == (0, "Plugin fragile is called again.")
                found = await world.take(4)
                found.remove("initialize")
                assert found == ["one", "two", "three"]
                done = await operator.run("plugin", "disable", "fragile")
                assert (done.status, done.out.strip()) == (0, "Plugin fragile is out of service.")
                await world.noted("cleanup", "cleanup", "shutdown")
            await notify(client, "unheard")
            assert (await client.get("/plugins/fragile")).json()["state"] == "disabled"
            await socket.send("ping")
            await socket.until("pong")
        assert (await operator.run("plugin", "disable", "nobody")).status == 1
        loud = [record["message"] for record in server.logged() if record.get("plugin") == "fragile"]
        assert "plugin fragile: breaker open, not called for 3600 s: 3 failures in a row; the last: " \
            "handle_event failed: ValueError" in loud  # fmt: skip
    async with server_process(tmp_path / "server", world.settings) as server:
        token = await server.login()
        operator = await begun(server, tmp_path / "operator")
        async with server.client(token) as client, open_socket(server.socket_url, token):
            await notify(client, "unheard")
            shown = (await operator.run("--json", "plugin", "info", "fragile")).json()
            assert (shown["state"], shown["calls"]) == ("disabled", 0)
            assert (await operator.run("plugin", "enable", "fragile")).status == 0
            await notify(client, "heard")
            await world.noted("startup", "initialize", "heard")
            await asyncio.gather(*(client.post("/plugins/fragile/disable") for _ in range(4)))
            await asyncio.gather(*(client.post("/plugins/fragile/enable") for _ in range(4)))
            await world.noted("cleanup", "shutdown", "startup", "initialize")


async def test_only_superusers_and_only_plugins_that_exist(own_database: dict[str, str], tmp_path: Path) -> None:
    """404 for an unknown plugin; a failed start is tried again by a reset."""
    (tmp_path / "plugins").mkdir()
    flag = tmp_path / "flag"
    (tmp_path / "plugins" / "late.py").write_text(
        "from pathlib import Path\nfrom backend.app.websocket.plugin import WebSocketPlugin\n"
        "class LatePlugin(WebSocketPlugin):\n"
        "    async def startup(self, context):\n"
        f"        Path({str(flag)!r}).read_text()\n",
        encoding="utf-8",
    )
    settings = {"PLUGINS_DIR": str(tmp_path / "plugins"), **own_database}
    async with server_process(tmp_path, settings) as server, server.client(await server.login()) as client:
        for act in ("enable", "disable", "reset"):
            assert (await client.post(f"/plugins/nobody/{act}")).json()["code"] == "not_found"
        shown = (await client.post("/plugins/late/reset")).json()
        assert shown["state"] == "failed"
        assert "FileNotFoundError" in shown["reason"]
        flag.touch()
        assert (await client.post("/plugins/late/reset")).json()["state"] == "enabled"
        viewer = {"username": "vic", "password": "correct horse battery", "role": "viewer"}
        assert (await client.post("/users", json=viewer)).status_code == 201
        async with server.client(await server.login("vic", viewer["password"])) as vic:
            assert (await vic.post("/plugins/late/disable")).status_code == 403
