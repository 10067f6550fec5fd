"""The pytest plugin in a repository that is not this one: an empty folder, and pytest in a process of its own."""

from pathlib import Path

from tests.elsewhere import PLAIN, run

PLUGIN = '''
import asyncio

from backend.app.websocket.plugin import PluginContext, WebSocketPlugin


class TallyPlugin(WebSocketPlugin):
    """Counts failed deployments."""

    event_types = ["DEPLOYMENT_STATUS_CHANGED"]
    message_types = ["tally"]

    def __init__(self):
        self.failed = 0

    async def initialize(self, context):
        self.greeting = context.user.username

    async def handle_event(self, event_type, event_data, context):
        if event_data["newStatus"] == "failed":
            self.failed += 1
            data = {"title": "Failed", "message": event_data["deploymentId"], "level": "error"}
            await context.broadcast_to_event_subscribers("NOTIFICATION_SENT", data)
            await context.broadcast_to_user("user-2", {"type": "tally"})
        if event_data["newStatus"] == "running":
            raise LookupError("no such luck")
        if event_data["newStatus"] == "success":
            await context.broadcast_to_event_subscribers("NOTIFICATION_SENT", {"level": "error"})
        if event_data["newStatus"] == "cancelled":
            context.create_task(self.break_down())
            await asyncio.sleep(0.01)

    async def break_down(self):
        raise LookupError("in a task")

    async def handle_message(self, message, context):
        await context.send({"type": "hello", "data": {"to": self.greeting}})
        return {"data": {"failed": self.failed}}
'''

TESTS = """
import asyncio

import pytest


def status(new):
    return "DEPLOYMENT_STATUS_CHANGED", {"deploymentId": "d1", "newStatus": new}


def test_events_and_what_came_of_them(run_plugin, plugin_context):
    async def scenario():
        async with run_plugin("tally.py") as running:
            await running.event(*status("failed"))
            assert running.plugin.failed == 1
            async with running.connection() as connection:
                assert await running.message({"type": "tally"}, connection) == {"data": {"failed": 1}}
            assert connection.sent == [{"type": "hello", "data": {"to": "user-1"}}]

    asyncio.run(scenario())
    assert [each["message"] for each in plugin_context.notifications] == ["d1"]
    assert [each.user_id for each in plugin_context.user_messages] == ["user-2"]


def test_what_fails_is_not_silent(run_plugin):
    async def scenario(new, rule):
        with pytest.raises(AssertionError, match=rule):
            async with run_plugin("tally.py") as running:
                await running.event(*status(new))

    asyncio.run(scenario("running", "no such luck"))
    asyncio.run(scenario("success", "title"))
    asyncio.run(scenario("cancelled", "in a task"))


def test_an_event_it_does_not_hear(run_plugin):
    async def scenario():
        async with run_plugin("tally.py") as running:
            with pytest.raises(AssertionError, match="does not listen to CUSTOM_EVENT"):
                await running.event("CUSTOM_EVENT", {})

    asyncio.run(scenario())


def test_a_server(live_server):
    server = live_server(plugins=".", plugins_allow="tally")
    assert server.plugin("tally")["state"] == "enabled"
    answer = server.client.post("deployments", json={"name": "web"})
    assert answer.status_code == 201, answer.text
    assert any(record["message"] for record in server.logged())
"""


def test_its_fixtures_work_in_an_empty_folder(tmp_path: Path) -> None:
    """`plugin_context`, `run_plugin` and `live_server` from the installed package; failures are failures."""
    (tmp_path / "tally.py").write_text(PLUGIN)
    (tmp_path / "test_tally.py").write_text(TESTS)
    done = run(tmp_path, "-m", "pytest", "-q", "-W", "error", *PLAIN)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


def test_it_imports_nothing_until_it_is_used(tmp_path: Path) -> None:
    """A repository that has WindFlow installed and does not test plugins pays for no import of it."""
    (tmp_path / "test_other.py").write_text(
        "import sys\n\n\ndef test_what_is_imported():\n"
        '    assert "backend.app.plugin_testing.fixtures" in sys.modules\n'
        '    heavy = ("sqlalchemy", "fastapi", "httpx", "backend.app.config", "backend.app.websocket.plugin")\n'
        "    assert [name for name in heavy if name in sys.modules] == []\n"
    )
    done = run(tmp_path, "-m", "pytest", "-q", *PLAIN)
    assert done.returncode == 0, done.stdout + done.stderr
