"""Every misbehaviour in every hook and in tasks, on both event loops: nobody else notices."""

import asyncio
import logging
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from backend.app.websocket.plugin import WebSocketPlugin
from backend.app.websocket.plugin_base import HOOKS
from tests.plugin_world import (
    DEADLINE_SECONDS,
    LOOPS,
    make_context,
    make_manager,
    make_plugin,
    other_tasks,
    plugin_errors,
    until,
    within,
)

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=sorted(LOOPS))
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine to its end on a loop of its own; SystemExit of a plugin would come out of it."""

    def run_to_the_end(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param], debug=True) as runner:
            runner.run(within(main))

    return run_to_the_end


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """Lets go of blocked threads when the test is over."""
    event = threading.Event()
    yield event
    event.set()


async def _raise(_: threading.Event) -> None:
    raise RuntimeError("broken")


async def _exit(_: threading.Event) -> None:
    sys.exit(3)


async def _interrupt(_: threading.Event) -> None:
    raise KeyboardInterrupt


async def _cancel_itself(_: threading.Event) -> None:
    raise asyncio.CancelledError


async def _hang(_: threading.Event) -> None:
    await asyncio.Event().wait()


async def _swallow(_: threading.Event) -> None:
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue


def _block(released: threading.Event) -> None:
    released.wait(DEADLINE_SECONDS)


def _exit_in_thread(_: threading.Event) -> None:
    sys.exit(4)


MISBEHAVIOURS: dict[str, Callable[[threading.Event], Any]] = {
    "raises": _raise,
    "exits": _exit,
    "interrupts": _interrupt,
    "cancels": _cancel_itself,
    "hangs": _hang,
    "swallows": _swallow,
    "blocks": _block,
    "exits in a thread": _exit_in_thread,
}


def _bad(hook: str, misbehave: Callable[[threading.Event], Any], released: threading.Event) -> WebSocketPlugin:
    if asyncio.iscoroutinefunction(misbehave):

        async def act(self: WebSocketPlugin, *arguments: Any) -> None:
            await misbehave(released)
    else:

        def act(self: WebSocketPlugin, *arguments: Any) -> None:  # type: ignore[misc]
            misbehave(released)

    return make_plugin("BadPlugin", message_types=("bad",) if hook == "handle_message" else (), **{hook: act})


def _sound(called: list[str]) -> WebSocketPlugin:
    def recording(hook: str) -> Any:
        async def act(self: WebSocketPlugin, *arguments: Any) -> None:
            await asyncio.sleep(0)
            called.append(hook)

        return act

    hooks = {hook: recording(hook) for hook in HOOKS}
    return make_plugin("SoundPlugin", message_types=["sound"], timeout_seconds=10, **hooks)


@pytest.mark.parametrize("misbehaviour", MISBEHAVIOURS)
@pytest.mark.parametrize("hook", HOOKS)
def test_whatever_a_plugin_does_in_a_hook_everyone_else_goes_on(
    hook: str, misbehaviour: str, run: Run, released: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """Raises anything, exits, hangs, swallows, blocks, in any hook: logged with plugin and event, counted."""
    called: list[str] = []
    bad = _bad(hook, MISBEHAVIOURS[misbehaviour], released)
    manager = make_manager(bad, _sound(called))

    async def live() -> None:
        context = make_context()
        await manager.startup_all(context)
        await manager.initialize_all(context)
        await manager.dispatch("DEPLOYMENT_PROGRESS", {"progress": 1}, context)
        for message_type in manager.message_types:
            await manager.handle_message(message_type, {"type": message_type}, context)
        await manager.cleanup_all(context)
        await manager.shutdown_all()

    run(live())
    assert sorted(called) == sorted(HOOKS)
    event_type = {"handle_event": "DEPLOYMENT_PROGRESS", "handle_message": "bad"}.get(hook)
    assert plugin_errors(caplog.records) == [("bad", hook, event_type)]
    stats = manager.supervisor.stats["bad"]
    assert (stats.failures, stats.consecutive_failures) == (1, 1)
    assert stats.timeouts == (1 if misbehaviour == "hangs" else 0)
    assert stats.abandoned == (1 if misbehaviour in ("swallows", "blocks") else 0)
    assert stats.last_error is not None
    assert manager.supervisor.stats["sound"].failures == 0


FAILING_TASKS = ["raises", "exits", "interrupts", "cancels"]


@pytest.mark.parametrize("how", ["plain", "context"])
@pytest.mark.parametrize("misbehaviour", FAILING_TASKS)
def test_a_task_that_a_plugin_made_cannot_end_the_process(
    misbehaviour: str, how: str, run: Run, released: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """Raises anything, BaseException included, in a task it created: logged with the plugin, counted."""

    async def initialize(self: Any, context: Any) -> None:
        create = asyncio.create_task if how == "plain" else context.create_task
        self.task = create(MISBEHAVIOURS[misbehaviour](released))

    manager = make_manager(make_plugin("BadPlugin", initialize=initialize))

    async def live() -> None:
        context = make_context()
        await manager.startup_all(context)
        await manager.initialize_all(context)
        await until(lambda: manager.supervisor.stats["bad"].task_failures == 1)
        await manager.cleanup_all(context)
        await manager.shutdown_all()

    with caplog.at_level(logging.ERROR):
        run(live())
    assert plugin_errors(caplog.records) == [("bad", "task", None)]
    assert [record for record in caplog.records if record.name == "asyncio"] == []


@pytest.mark.parametrize("how", ["plain", "context"])
@pytest.mark.parametrize("misbehaviour", ["hangs", "swallows"])
def test_tasks_left_behind_after_cleanup_are_ended(
    misbehaviour: str, how: str, run: Run, released: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """Leaves tasks behind after `cleanup`: cancelled and awaited; counted."""

    async def initialize(self: Any, context: Any) -> None:
        (asyncio.create_task if how == "plain" else context.create_task)(MISBEHAVIOURS[misbehaviour](released))

    manager = make_manager(make_plugin("BadPlugin", initialize=initialize))

    async def live() -> None:
        before = other_tasks()
        context = make_context()
        await manager.startup_all(context)
        await manager.initialize_all(context)
        assert len(other_tasks() - before) == 1
        await manager.cleanup_all(context)
        assert len(other_tasks() - before) == (1 if misbehaviour == "swallows" else 0)
        await manager.shutdown_all()
        assert other_tasks() - before == set()

    run(live())
    stats = manager.supervisor.stats["bad"]
    assert stats.tasks_left_behind == 1
    assert stats.abandoned == (1 if misbehaviour == "swallows" else 0)
    assert "left 1 tasks behind" in caplog.text


def test_a_loop_closes_although_a_plugin_swallows_every_cancellation(run: Run, released: threading.Event) -> None:
    """A plugin that hangs stops neither the server nor its end; here nobody shuts the manager down."""

    async def handle_event(self: Any, event_type: str, event_data: Any, context: Any) -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except BaseException:  # noqa: BLE001 - the plugin that is tested
                continue

    manager = make_manager(make_plugin("BadPlugin", handle_event=handle_event))
    run(manager.dispatch("AUTH_LOGOUT", {}, make_context()))
    assert manager.supervisor.stats["bad"].abandoned_now == 0
