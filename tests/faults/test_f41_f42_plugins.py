"""Rows F41 and F42: periodic tasks of connections that come and go; plugins that go round in circles, or are registered
twice, during dispatch, broken, or under a name in use.
"""

from pathlib import Path
from typing import Any

import httpx

from tests.faults.baseline import metrics
from tests.faults.control import control
from tests.faults.faulty_world import faulty_world
from tests.faults.raw_socket import RawSocket
from tests.waiting import eventually

PERIODIC = """
import asyncio
from backend.app.websocket.plugin import WebSocketPlugin

class PeriodicPlugin(WebSocketPlugin):
    def __init__(self):
        super().__init__()
        self._task = None

    async def initialize(self, context):
        self._task = asyncio.create_task(self._check(context))

    async def _check(self, context):
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                break

    async def cleanup(self, context):
        if self._task:
            self._task.cancel()
            try:
                await self._task
            except asyncio.CancelledError:
                pass
"""
CIRCLE = """
from backend.app.websocket.plugin import WebSocketPlugin

class _Echo(WebSocketPlugin):
    event_types = ["NOTIFICATION_SENT"]
    async def handle_event(self, event_type, event_data, context):
        if event_data["title"] == self.hears:
            answer = {"title": self.says, "message": ""}
            await context.broadcast_to_event_subscribers("NOTIFICATION_SENT", answer)

class ToPlugin(_Echo):
    hears, says = "there", "back"

class FroPlugin(_Echo):
    hears, says = "back", "there"
"""
TWIN = """
from backend.app.websocket.plugin import WebSocketPlugin

class TwinPlugin(WebSocketPlugin):
    event_types = []
    version = "{version}"
"""
REGISTRAR = """
from backend.app.websocket.plugin import WebSocketPlugin, plugin_manager

class _LatePlugin(WebSocketPlugin):
    name = "late"
    event_types = ["NOTIFICATION_SENT"]
    async def handle_event(self, event_type, event_data, context): pass

_late = _LatePlugin()

class RegistrarPlugin(WebSocketPlugin):
    event_types = ["NOTIFICATION_SENT"]
    async def handle_event(self, event_type, event_data, context):
        if event_data["title"] == "register":
            plugin_manager.register(_late)
            plugin_manager.register(_late)
        elif event_data["title"] == "another":
            plugin_manager.register(_LatePlugin())
"""


def write(folder: Path, **files: str) -> dict[str, str]:
    folder.mkdir()
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return {"PLUGINS_DIR": str(folder)}


async def notify(client: httpx.AsyncClient, title: str) -> None:
    answer = await client.post("/notifications", json={"title": title, "message": ""})
    assert answer.status_code == 201, answer.text


async def shows(client: httpx.AsyncClient, name: str, **expected: Any) -> None:
    """Wait until a plugin is shown with these."""

    async def is_so() -> bool:
        shown = (await client.get(f"/plugins/{name}")).json()
        return all(shown.get(key) == value for key, value in expected.items())

    await eventually(is_so, 20)


async def test_f41_periodic_tasks_end_with_their_connections(own_database: dict[str, str], tmp_path: Path) -> None:
    """100 connects and disconnects with a plugin that makes a task for each: afterwards not one of them is left."""
    settings = {**write(tmp_path / "plugins", periodic=PERIODIC), **own_database}
    async with faulty_world(tmp_path, settings) as world, control(*world.control):
        before = (await metrics(world.server))["windflow_asyncio_tasks"]
        for number in range(100):
            with await RawSocket.connect(world.server.url) as socket:
                await socket.authenticate(world.tokens["polite"])
                if number % 2:  # Half of them say goodbye, the others are just gone.
                    await socket.say_goodbye()

        async def are_gone() -> bool:
            return (await metrics(world.server))["windflow_asyncio_tasks"] <= before

        await eventually(are_gone, 20)
        async with world.server.client(world.tokens["admin"]) as client:
            shown = (await client.get("/plugins/periodic")).json()
            assert (shown["failures"], shown["abandoned"], shown["breaker"]) == (0, 0, "closed")


async def test_f42_circles_and_registrations_hurt_nobody(own_database: dict[str, str], tmp_path: Path) -> None:
    """A circle of broadcasts ends with the hop limit and is the failure of who went on; what is broken is listed."""
    settings = {
        **write(
            tmp_path / "plugins", circle=CIRCLE, registrar=REGISTRAR, broken="import nothing_of_the_kind",
            twin_a=TWIN.format(version="a"), twin_b=TWIN.format(version="b"),
        ),
        "MAX_HOPS": "8",
        **own_database,
    }  # fmt: skip
    async with (
        faulty_world(tmp_path, settings) as world,
        control(*world.control, errors=("plugin ",)),
        world.server.client(world.tokens["admin"]) as client,
    ):
        listed = {item["name"]: item for item in (await client.get("/plugins")).json()["items"]}
        assert "ModuleNotFoundError" in listed["broken"]["reason"]
        assert (listed["twin"]["state"], listed["twin"]["version"]) == ("enabled", "a")
        assert "in use" in listed["twin_b"]["reason"]

        await notify(client, "there")
        await shows(client, "to", failures=1)
        assert "hop" in (await client.get("/plugins/to")).json()["lastError"]
        titles = [item["title"] for item in (await client.get("/notifications")).json()["items"]]
        assert (titles.count("there"), titles.count("back")) == (5, 4)

        await notify(client, "register")
        await shows(client, "late", state="enabled")
        await notify(client, "for everyone")
        await shows(client, "late", calls=1)
        await shows(client, "registrar", failures=0)
        await notify(client, "another")
        await shows(client, "registrar", failures=1)
        assert "in use" in (await client.get("/plugins/registrar")).json()["lastError"]
