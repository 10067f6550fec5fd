"""A real server whose plugin blocks its event loop: named while it sleeps, then shown, then not called any more."""

import asyncio
import time
from pathlib import Path

from tests.integration.metrics_page import metric
from tests.integration.server_process import server_process

SLEEPY = """
import time
from backend.app.websocket.plugin import WebSocketPlugin

class SleepyPlugin(WebSocketPlugin):
    event_types = ["DEPLOYMENT_CREATED"]
    async def handle_event(self, event_type, event_data, context):
        self.doze(event_data["deploymentId"])

    def doze(self, deployment):
        time.sleep(3)
        print("awake", time.monotonic(), file=open(AWAKE, "a"), flush=True)
"""


async def test_a_handler_that_sleeps_is_named_while_it_sleeps(own_database: dict[str, str], tmp_path: Path) -> None:
    """`time.sleep(3)`: the log has file, line and function before it is over; then REST, metrics and the breaker."""
    plugins, awake = tmp_path / "plugins", tmp_path / "awake"
    plugins.mkdir()
    file = plugins / "sleepy.py"
    file.write_text(SLEEPY.replace("AWAKE", repr(str(awake))), encoding="utf-8")
    settings = {"PLUGINS_DIR": str(plugins), "LOOP_BLOCK_OFFENCES": "1"}
    async with (
        server_process(tmp_path, settings | own_database) as server,
        server.client(await server.login()) as client,
    ):
        making = asyncio.create_task(client.post("/deployments", json={"name": "one"}))
        named: list[str] = []
        give_up = time.monotonic() + 20
        while not named and time.monotonic() < give_up:
            named = [each["message"] for each in server.logged() if "plugin sleepy" in each["message"]]
            await asyncio.sleep(0.02)
        named_at = time.monotonic()
        assert not awake.exists(), "it was named only when it was over"
        line = SLEEPY.splitlines().index("        time.sleep(3)") + 1
        assert named == [f"plugin sleepy: handle_event blocks the event loop for over 0.1 s: {file}:{line} in doze"], (
            named
        )
        assert (await making).status_code == 201
        shown = (await client.get("/plugins/sleepy")).json()
        assert float(awake.read_text(encoding="utf-8").split()[1]) - named_at > 1
        assert (shown["loopBlocks"], shown["breaker"]) == (1, "open"), shown
        assert "blocked the event loop for 3" in shown["lastError"]
        assert shown["breakerReason"].startswith("it blocked the event loop once within 60 s")
        assert await metric(server.url, 'windflow_plugin_loop_blocks_total{plugin="sleepy"}') == 1
        assert await metric(server.url, "windflow_loop_blocked_seconds_total") >= 2.8
