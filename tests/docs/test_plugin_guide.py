"""What the plugin author's guide says of its examples happens: as plugin files on a real server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from tests.docs.conftest import DocsServer
from tests.docs.examples import GUIDE, guide_block, load, only_plugin, plugin_blocks
from tests.docs.markdown_files import blocks
from tests.docs.transcripts import replay
from tests.integration.server_process import server_process
from tests.integration.sockets import open_socket
from tests.plugin_world import make_context, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def states(server: DocsServer) -> dict[str, dict[str, Any]]:
    """Every plugin of the server by name, as `windflow plugin list` shows it."""
    async with server.process.client(server.people.tokens["admin"]) as client:
        answer = await client.get("/plugins")
        return {item["name"]: item for item in answer.json()["items"]}


async def logged(server: DocsServer, message: str, **fields: Any) -> dict[str, Any]:
    """Wait for a log record with this message and these fields."""

    def find() -> list[dict[str, Any]]:
        records = [record for record in server.process.logged() if record["message"] == message]
        return [record for record in records if fields.items() <= record.items()]

    await until(lambda: bool(find()))
    return find()[0]


@asynccontextmanager
async def deployment(server: DocsServer, user: str = "olga") -> AsyncIterator[tuple[Any, str]]:
    """A REST client of a user, and a new deployment."""
    async with server.process.client(server.people.tokens[user]) as client:
        answer = await client.post("/deployments", json={"name": "web"})
        assert answer.status_code == 201, answer.text
        yield client, answer.json()["id"]


async def test_all_examples_load(docs_server: DocsServer) -> None:
    """A file in the plugins folder needs nothing; a module that makes its plugins itself says which ones."""
    found = await states(docs_server)
    expected = {
        "failure_bell", "error_lines", "event_rate", "visit_length", "deployment_counts",
        "exit_status", "log_file", "outcomes", "thanks", "login_name", "greeting", "room_kitchen",
    }  # fmt: skip
    assert len(expected) == len([block for block in plugin_blocks() if block.file == GUIDE])
    assert expected | {"audit_logger", "deployment_monitor"} <= set(found)
    assert {found[name]["state"] for name in expected} == {"enabled"}


async def test_a_message_is_answered_by_the_plugin_that_claims_its_type(docs_server: DocsServer) -> None:
    """DeploymentCountsPlugin: what the client sends and gets, as printed; of the own organization alone."""
    (transcript,) = blocks(GUIDE, "transcript")
    async with (
        deployment(docs_server, "bob"),
        open_socket(docs_server.process.socket_url, docs_server.people.tokens["bob"]) as socket,
    ):
        assert await replay(transcript, socket, {}) == 1
    assert (await states(docs_server))["deployment_counts"]["failures"] == 0


async def test_a_plugin_is_set_by_the_operator(docs_server: DocsServer) -> None:
    """GreetingPlugin answers as it is set: by variables, lists as JSON."""
    async with open_socket(docs_server.process.socket_url, docs_server.people.tokens["vic"]) as socket:
        answer = await socket.ask("greeting")
        assert answer["data"] == {"text": "Hello", "languages": ["en", "fr"]}


async def test_a_failed_deployment_becomes_a_notification(docs_server: DocsServer) -> None:
    """FailureBellPlugin: a failed deployment becomes a notification for everybody in its organization."""
    async with (
        deployment(docs_server) as (client, deployment_id),
        open_socket(docs_server.process.socket_url, docs_server.people.tokens["vic"]) as vic,
        open_socket(docs_server.process.socket_url, docs_server.people.tokens["bob"]) as bob,
    ):
        for socket in (vic, bob):
            await socket.ask("subscribe", {"event_type": "NOTIFICATION_SENT"})
        await client.put(f"/deployments/{deployment_id}/status", json={"status": "running"})
        await client.put(f"/deployments/{deployment_id}/status", json={"status": "failed", "reason": "disk full"})
        sent = await vic.until("NOTIFICATION_SENT")
        assert (sent["data"]["title"], sent["data"]["message"]) == ("Deployment failed", "web: disk full")
        await bob.ask("ping")
        assert "NOTIFICATION_SENT" not in [message["type"] for message in bob.seen]
        listed = (await client.get("/notifications")).json()["items"]
        assert listed[0]["title"] == "Deployment failed"
    await logged(docs_server, "deployment failed", deployment_id=deployment_id)


async def test_lines_reach_typed_and_plain_handlers(docs_server: DocsServer) -> None:
    """ErrorLinesPlugin logs the lines that speak of an error; LogFilePlugin appends each line to a file."""
    async with deployment(docs_server) as (client, deployment_id):
        body = {"firstLine": 1, "lines": [{"text": "fine"}, {"text": "Error: no space"}]}
        assert (await client.post(f"/deployments/{deployment_id}/logs", json=body)).status_code == 200
    record = await logged(docs_server, "error line", deployment_id=deployment_id)
    assert (record["level"], record["line"]) == ("WARNING", 2)
    file = docs_server.folder / "deployment-logs" / f"{deployment_id}.log"
    await until(file.exists)
    await until(lambda: file.read_text(encoding="utf-8") == "fine\nError: no space\n")


async def test_a_connection_has_state_of_its_own(docs_server: DocsServer) -> None:
    """VisitLengthPlugin counts per connection what was read over it; ThanksPlugin thanks on all and on this one."""
    url, tokens = docs_server.process.socket_url, docs_server.people.tokens
    async with docs_server.process.client(tokens["olga"]) as client:
        sent = await client.post("/notifications", json={"title": "Hello", "message": "there"})
        notification_id = sent.json()["id"]
    async with open_socket(url, tokens["vic"]) as other:
        async with open_socket(url, tokens["vic"]) as reader:
            await reader.ask("NOTIFICATION_READ", {"notificationIds": [notification_id]})
            thanks = [await reader.until("thanks"), await reader.until("thanks_here"), await other.until("thanks")]
            assert [each.get("message") for each in thanks] == ["1 read", None, "1 read"]
            assert thanks[1]["data"] == {"read": 1}
        assert (await logged(docs_server, "visit ended", read=1))["users"] >= 1
        await other.ask("ping")
        assert "thanks_here" not in [message["type"] for message in other.seen]
    await logged(docs_server, "visit ended", read=0)


async def test_a_plugin_reads_the_database(docs_server: DocsServer) -> None:
    """LoginNamePlugin logs since when a user who logs in exists."""
    await docs_server.process.login("ada")
    assert (await logged(docs_server, "login", username="ada"))["since"].endswith("+00:00")


async def test_no_example_failed(docs_server: DocsServer) -> None:
    """After all that, no plugin has a failure, and every one was called."""
    found = await states(docs_server)
    assert {name: item["lastError"] for name, item in found.items() if item["failures"]} == {}


async def test_a_plugin_tells_the_rest_when_the_server_stops(tmp_path: Path) -> None:
    """EventRatePlugin: startup and shutdown run once per process; it hears every event."""
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "rate.py").write_text(guide_block("EventRatePlugin").text, encoding="utf-8")
    async with server_process(tmp_path, {"PLUGINS_DIR": str(plugins)}) as server:
        token = await server.login()
        async with server.client(token) as client:
            assert (await client.post("/deployments", json={"name": "web"})).status_code == 201
        assert await server.stop() == 0
        (record,) = [each for each in server.logged() if each["message"] == "events since the last report"]
        assert record["events"] == {"AUTH_LOGIN_SUCCESS": 1, "DEPLOYMENT_CREATED": 1}


async def test_a_task_of_startup_reports_again_and_again_and_ends_with_the_plugin(tmp_path: Path) -> None:
    """EventRatePlugin logs every interval which events came; its task ends with the plugin."""
    manager, _ = load(guide_block("EventRatePlugin"), tmp_path)
    plugin: Any = only_plugin(manager)
    plugin.interval_seconds = 0.01
    logger = MagicMock()
    context = make_context(logger=logger)
    await manager.startup_all(context)
    await manager.dispatch("AUTH_LOGOUT", {"userId": "u"}, context)

    def reports() -> list[Any]:
        calls = [call for call in logger.info.call_args_list if call.args == ("events of the last minute",)]
        return [call.kwargs["extra"]["events"] for call in calls]

    await until(lambda: len(reports()) >= 3)
    assert {"AUTH_LOGOUT": 1} in reports()
    task: asyncio.Task[None] = plugin.reports
    await manager.shutdown_all()
    assert task.cancelled()
    assert manager.supervisor.stats_of("event_rate").failures == 0


@pytest.mark.parametrize("file", ["README.md", "README.fr.md", GUIDE])
async def test_the_first_plugin_rings_for_failures_only(file: str, tmp_path: Path) -> None:
    """A first plugin: a failed deployment becomes a notification; any other status does not."""
    (block,) = [each for each in plugin_blocks() if each.file == file and "class FailureBellPlugin(" in each.text]
    manager, _ = load(block, tmp_path)
    context = make_context()
    broadcast: Any = context.broadcast_to_event_subscribers
    for status in ("running", "success", "failed"):
        await manager.dispatch("DEPLOYMENT_STATUS_CHANGED", {"deploymentId": "d1", "newStatus": status}, context)
    broadcast.assert_awaited_once()
    event_type, payload = broadcast.await_args.args
    assert (event_type, payload["level"]) == ("NOTIFICATION_SENT", "error")
    assert "d1" in payload["message"]
