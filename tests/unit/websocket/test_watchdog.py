"""What blocks the event loop is named while it does, once; what only keeps it busy is nobody's fault."""

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from backend.app.websocket.circuit_breaker import BreakerState
from backend.app.websocket.containment import create_task
from backend.app.websocket.loop_blocks import LoopBlocks
from backend.app.websocket.supervisor import Supervisor
from backend.app.websocket.watchdog import Block, Watchdog
from tests.plugin_world import LOOPS, make_plugin

BLOCK_SECONDS = 0.05
LONG = BLOCK_SECONDS * 8


@contextmanager
def watched(*plugins: object) -> Iterator[list[Block]]:
    """Watch the running loop; what was reported."""
    found: list[Block] = []
    watchdog = Watchdog(BLOCK_SECONDS, found.append, lambda: plugins)  # type: ignore[arg-type,return-value]
    watchdog.start()
    try:
        yield found
    finally:
        watchdog.stop()


def block(seconds: float) -> None:
    """Block for so long."""
    time.sleep(seconds)


def sleep_deeply() -> None:
    """Block; the position that is named is in here, not in the library's code."""
    threading.Event().wait(LONG)


@pytest.mark.parametrize("loop", sorted(LOOPS))
def test_a_handler_that_blocks_is_named_while_it_does(loop: str, caplog: pytest.LogCaptureFixture) -> None:
    """Plugin, hook, event, file, line and function, logged before the block is over, once; reported afterwards."""
    seen_before_the_end: list[logging.LogRecord] = []

    async def handler() -> None:
        await asyncio.sleep(0)
        sleep_deeply()
        seen_before_the_end.extend(caplog.records)

    async def main() -> list[Block]:
        with watched() as found:
            await Supervisor().call("slow", "handle_event", handler, event_type="AUTH_LOGOUT")
            await asyncio.sleep(BLOCK_SECONDS)
        return found

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        (found,) = runner.run(main())
    assert (found.plugin, found.hook, found.event_type) == ("slow", "handle_event", "AUTH_LOGOUT")
    line = sleep_deeply.__code__.co_firstlineno + 2
    assert found.position == f"{__file__}:{line} in sleep_deeply"
    (record,) = [each for each in caplog.records if "blocks the event loop" in each.message]
    assert record in seen_before_the_end
    assert record.levelno == logging.ERROR
    assert record.message == f"plugin slow: handle_event blocks the event loop for over 0.05 s: {found.position}"


async def test_a_task_and_a_callback_of_a_plugin_are_its_own(caplog: pytest.LogCaptureFixture) -> None:
    """A task is named by the hook that made it, a callback of the loop by the plugin's file."""

    async def work() -> None:
        sleep_deeply()

    async def handler() -> None:
        await create_task(work())
        asyncio.get_running_loop().call_soon(sleep_deeply)
        await asyncio.sleep(BLOCK_SECONDS)

    plugin = make_plugin("HerePlugin")
    type(plugin).__module__ = __name__
    with watched(plugin) as found:
        await Supervisor().call("here", "startup", handler)
        await asyncio.sleep(BLOCK_SECONDS)
    assert [(each.plugin, each.hook) for each in found] == [("here", "startup"), ("here", "callback")]


async def test_what_is_no_plugins_is_the_servers_own(caplog: pytest.LogCaptureFixture) -> None:
    """Logged as a warning with its place; many short turns of plugins that add up accuse none of them."""
    supervisor = Supervisor()

    async def short() -> None:
        block(BLOCK_SECONDS / 10)

    with watched() as found:
        await asyncio.sleep(BLOCK_SECONDS)
        sleep_deeply()
        await asyncio.sleep(BLOCK_SECONDS)
        await asyncio.gather(*(supervisor.call(f"p{number}", "handle_event", short) for number in range(80)))
        await asyncio.sleep(BLOCK_SECONDS)
    assert len(found) >= 2
    assert {each.plugin for each in found} == {None}
    assert "in sleep_deeply" in found[0].position
    levels = {each.levelno for each in caplog.records if "blocks the event loop" in each.message}
    assert levels == {logging.WARNING}


async def test_a_loop_that_turns_is_not_accused() -> None:
    """Work in short turns for many times the limit: nothing is reported."""
    with watched() as found:
        until = time.monotonic() + LONG
        while time.monotonic() < until:
            block(BLOCK_SECONDS / 20)
            await asyncio.sleep(0)
    assert found == []


def test_repeated_offences_open_the_breaker() -> None:
    """So many within the window, each counted and shown; the server's own and other plugins' do not count."""
    supervisor, now = Supervisor(), 100.0
    blocks = LoopBlocks(supervisor, 3, 60, lambda: now)

    def offend(plugin: str | None) -> None:
        blocks(Block("p.py:3 in f", now - 0.2, plugin, "handle_event"))

    offend("slow")
    now += 50
    offend("slow")
    now += 50
    offend("slow")
    offend(None)
    offend("other")
    assert supervisor.breaker_of("slow").state is BreakerState.CLOSED
    offend("slow")
    breaker = supervisor.breaker_of("slow")
    assert breaker.state.value == "open"
    assert breaker.reason == "it blocked the event loop 3 times within 60 s; the last: p.py:3 in f"
    stats = supervisor.stats_of("slow")
    assert stats.loop_blocks == 4
    assert stats.last_error == "handle_event blocked the event loop for 0.2 s at p.py:3 in f"
    assert supervisor.stats_of("other").loop_blocks == 1
    breaker.reset()
    offend("slow")
    assert breaker.state.value == "closed"
