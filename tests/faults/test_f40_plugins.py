"""Row F40: every misbehaviour of a plugin in every hook and in tasks, on one server with a control connection.

The plugins misbehave all at once. Each must be named in the log, in the metrics and over REST, a sound plugin and the
control connection must notice nothing.
"""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.baseline import http_get
from tests.faults.control import control
from tests.faults.faulty_world import World, faulty_world

SHOWN_SECONDS = 30.0
HOOKS = ("startup", "shutdown", "initialize", "cleanup", "handle_event", "handle_message", "task")
RAISING = {
    "raises": "RuntimeError",
    "exits": "SystemExit",
    "interrupts": "KeyboardInterrupt",
    "cancels": "CancelledError",
}
ACTS = {
    "raises": 'raise RuntimeError("broken")',
    "exits": "sys.exit(3)",
    "interrupts": "raise KeyboardInterrupt",
    "cancels": "raise asyncio.CancelledError",
    "hangs": "await asyncio.Event().wait()",
    "swallows": "await swallow(1.5)",
    "blocks": "time.sleep(0.4)",
    "leaves": "asyncio.create_task(asyncio.sleep(3600))",
}
OUTCOMES = dict.fromkeys(RAISING, "raised") | {"hangs": "timed out", "swallows": "abandoned"}
IMPATIENT = ("hangs", "swallows")
ARGUMENTS = {"handle_event": "event_type, event_data, context", "handle_message": "message, context"}
HEAD = """
import asyncio, sys, time
from backend.app.websocket.plugin import WebSocketPlugin

async def swallow(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            await asyncio.sleep(0.1)
        except asyncio.CancelledError:
            continue
"""
SOUND = """
class SoundPlugin(WebSocketPlugin):
    event_types = ["DEPLOYMENT_CREATED"]
    message_types = ["sound"]
    timeout_seconds = 60
    async def startup(self, context): await asyncio.sleep(0)
    async def initialize(self, context): await asyncio.sleep(0)
    async def cleanup(self, context): await asyncio.sleep(0)
    async def handle_event(self, event_type, event_data, context): await asyncio.sleep(0)
    async def handle_message(self, message, context): await asyncio.sleep(0)
"""
FIVE_TIMES = """
class FiveTimesPlugin(WebSocketPlugin):
    event_types = []
    message_types = ["five_times"]
    async def handle_message(self, message, context): raise RuntimeError("again")
"""


def is_a_case(act: str, hook: str) -> bool:
    """A task may wait for as long as it likes; what the process's hooks leave is ended only with the plugin."""
    if hook == "task":
        return act in RAISING or act == "blocks"
    return act != "leaves" or hook in ("startup", "shutdown", "initialize", "cleanup")


CASES = [(act, hook) for act in ACTS for hook in HOOKS if is_a_case(act, hook)]


def plugin_text(act: str, hook: str) -> str:
    """Return the file of a plugin that misbehaves in one hook."""
    name = "".join(part.title() for part in f"{act}_{hook}".split("_"))
    lines = [
        f"class {name}Plugin(WebSocketPlugin):",
        f"    event_types = {['DEPLOYMENT_CREATED'] if hook in ('handle_event', 'task') else []}",
        f"    message_types = {[f'{act}_{hook}'] if hook == 'handle_message' else []}",
        f"    timeout_seconds = {0.3 if act in IMPATIENT else 60}",
    ]
    if hook == "task":
        lines += [
            "    async def handle_event(self, event_type, event_data, context):",
            "        context.create_task(self.work())",
            "    async def work(self):",
        ]
    else:
        lines += [f"    async def {hook}(self, {ARGUMENTS.get(hook, 'context')}):"]
    return HEAD + "\n".join([*lines, f"        {ACTS[act]}", ""])


@dataclass(frozen=True, slots=True)
class Seen:
    """What could be seen of all plugins: before the server stopped, and in its log when it had."""

    shown: dict[str, dict[str, Any]]
    metrics: dict[str, float]
    log: list[dict[str, Any]]

    def records(self, name: str) -> list[dict[str, Any]]:
        """Return what was logged of a plugin."""
        return [record for record in self.log if record.get("plugin") == name]


async def provoke(world: World) -> None:
    """Have every hook called at least once that is called while a server runs."""
    async with world.publisher("rude"), await world.socket("rude") as socket:
        for act, hook in CASES:
            if hook == "handle_message":
                await socket.send_json(f"{act}_{hook}")
        for _ in range(5):
            await socket.send_json("five_times")
        await socket.send_json("sound")
        await socket.send_json("ping", id=1)
        # After all of the above: what hangs, swallows and blocks in `handle_message` comes before it.
        answer = await socket.until(lambda message: message.get("reply_to") == 1, SHOWN_SECONDS)
        assert answer["type"] == "pong"


async def run(folder: Path, settings: dict[str, str]) -> Seen:
    """Let all of them loose on one server, and look."""
    plugins = folder / "plugins"
    plugins.mkdir(parents=True)
    for act, hook in CASES:
        (plugins / f"{act}_{hook}.py").write_text(plugin_text(act, hook), encoding="utf-8")
    (plugins / "others.py").write_text(HEAD + SOUND + FIVE_TIMES, encoding="utf-8")
    short = {"PLUGINS_DIR": str(plugins), "PLUGIN_CANCEL_GRACE_SECONDS": "0.2", "LOOP_BLOCK_OFFENCES": "1000"}
    shown: dict[str, dict[str, Any]] = {}
    async with faulty_world(folder, settings | short) as world, world.server.client(world.tokens["admin"]) as client:
        async with control(*world.control, errors=("plugin ",)):
            await provoke(world)
            deadline = time.monotonic() + SHOWN_SECONDS
            while True:
                shown = {each["name"]: each for each in (await client.get("/plugins")).json()["items"]}
                hidden = [case for case in CASES if not is_shown(*case, shown["_".join(case)])]
                if not hidden:
                    break
                assert time.monotonic() < deadline, [shown["_".join(case)] for case in hidden]
                await asyncio.sleep(0.2)
        _, text = await http_get(world.server.url, "/metrics")
        log = world.server
    rows = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return Seen(shown, {key: float(value) for key, value in rows}, log.logged())


def is_shown(act: str, hook: str, shown: dict[str, Any]) -> bool:
    """Tell whether REST says what the plugin did; of its shutdown only the log can."""
    if hook == "shutdown" or act == "leaves":
        return True
    return bool(shown["loopBlocks"] if act == "blocks" else shown["failures"])


@pytest.fixture(scope="module")
def seen(module_database: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """One server for all of them; the control connection has judged it when this returns."""
    return asyncio.run(run(tmp_path_factory.mktemp("f40"), module_database))


@pytest.mark.parametrize(("act", "hook"), CASES, ids=[f"{hook}-{act}" for act, hook in CASES])
def test_f40_who_misbehaves_is_contained_and_named(act: str, hook: str, seen: Seen) -> None:
    """The plugin and its hook stand in the log with what was raised, in the metrics and in its REST answer."""
    name = f"{act}_{hook}"
    logged = [record for record in seen.records(name) if record.get("hook") == hook]
    if act == "leaves":
        assert any("left 1 tasks behind" in record["message"] for record in seen.records(name)), seen.records(name)
        return
    if act == "blocks":
        place = f"{name}.py:"
        blamed = [record for record in seen.records(name) if "blocks the event loop" in record["message"]]
        assert blamed, seen.records(name)
        assert all(place in record["message"] for record in blamed)
        if hook != "shutdown":
            assert seen.metrics[f'windflow_plugin_loop_blocks_total{{plugin="{name}"}}'] > 0
        return
    assert logged, seen.records(name)
    assert logged[0]["level"] == "ERROR"
    if act in RAISING:
        assert RAISING[act] in str(logged[0]), logged[0]
    if hook == "shutdown":
        return
    if hook == "task":
        assert seen.metrics[f'windflow_plugin_task_failures_total{{plugin="{name}"}}'] > 0
    else:
        labels = f'hook="{hook}",outcome="{OUTCOMES[act]}",plugin="{name}"'
        assert seen.metrics[f"windflow_plugin_calls_total{{{labels}}}"] > 0
    assert seen.shown[name]["lastError"]
    assert (seen.shown[name]["state"] == "failed") == (hook == "startup")


def test_f40_who_fails_five_times_in_a_row_is_not_called(seen: Seen) -> None:
    """Its breaker is open in log, metrics and REST."""
    assert seen.shown["five_times"]["breaker"] == "open"
    assert seen.metrics['windflow_plugin_breaker{plugin="five_times"}'] == 2
    assert any("breaker open" in record["message"] for record in seen.records("five_times"))


def test_f40_a_sound_plugin_among_them_notices_nothing(seen: Seen) -> None:
    """All its hooks were called, none failed, none was refused."""
    sound = seen.shown["sound"]
    assert (sound["state"], sound["failures"], sound["refused"], sound["breaker"]) == ("enabled", 0, 0, "closed")
    for hook in ("startup", "initialize", "cleanup", "handle_event", "handle_message"):
        assert seen.metrics[f'windflow_plugin_calls_total{{hook="{hook}",outcome="ok",plugin="sound"}}'] > 0, hook
    assert seen.records("sound") == []
