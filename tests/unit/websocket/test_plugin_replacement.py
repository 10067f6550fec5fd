"""A new generation takes the place of the old one in one step, or nothing changes."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from backend.app.websocket.plugin import PluginContext, ReplacementError, WebSocketPlugin, WebSocketPluginManager
from tests.plugin_world import make_context, make_manager, other_tasks, until, within


class Noting(WebSocketPlugin):
    """Notes its calls with its generation; fails in one hook if told so."""

    name = "noting"
    event_types = ("AUTH_LOGOUT",)

    def __init__(self, generation: int, log: list[str], fails_in: str = "") -> None:
        self.generation, self.log, self.fails_in = generation, log, fails_in
        self.gate: asyncio.Event | None = None
        self.state = 0

    def _note(self, hook: str) -> None:
        self.log.append(f"{hook} {self.generation}")
        if hook == self.fails_in:
            raise RuntimeError(f"no {hook}")

    async def startup(self, context: PluginContext) -> None:
        context.create_task(asyncio.Event().wait())
        self._note("startup")

    async def shutdown(self, context: PluginContext) -> None:
        self._note("shutdown")

    async def initialize(self, context: PluginContext) -> None:
        self._note("initialize")

    async def cleanup(self, context: PluginContext) -> None:
        self._note("cleanup")

    async def carry_over(self, old: Any) -> None:
        self._note("carry_over")
        self.state = old.state

    async def handle_event(self, event_type: str, event_data: dict[str, Any], context: PluginContext) -> None:
        if self.gate is not None:
            await self.gate.wait()
        self.state += 1
        self._note(f"handle_event[{self.state}]")


@pytest.fixture
async def manager() -> AsyncIterator[WebSocketPluginManager]:
    """A manager of a running server; a breaker opens with the second failure."""
    manager = make_manager(timeout_seconds=10)
    manager.supervisor.breaker_failures = 2
    await manager.startup_all(make_context())
    yield manager
    await within(manager.shutdown_all())


async def started(manager: WebSocketPluginManager, log: list[str]) -> tuple[Noting, list[PluginContext]]:
    """Register the first generation, with three connections; the log is empty then."""
    old, contexts = Noting(1, log), [make_context() for _ in range(3)]
    manager.register(old)
    await within(manager.settled())
    for context in contexts:
        await manager.initialize_all(context)
    log.clear()
    return old, contexts


async def test_the_new_one_takes_over_everywhere_with_what_the_old_one_had(manager: WebSocketPluginManager) -> None:
    """startup, initialize and carry_over of the new one; then cleanup and shutdown of the old one."""
    log: list[str] = []
    old, contexts = await started(manager, log)
    await manager.dispatch("AUTH_LOGOUT", {}, contexts[0])
    log.clear()
    new = Noting(2, log)
    await within(manager.succeed_by(old, new))
    expected = ["startup 2", *["initialize 2"] * 3, *["carry_over 2"] * 4, *["cleanup 1"] * 3, "shutdown 1"]
    assert log == expected
    assert manager.plugins == (new,)
    log.clear()
    for context in (*contexts, make_context()):
        await manager.dispatch("AUTH_LOGOUT", {}, context)
    assert log == ["handle_event[2] 2", *["handle_event[1] 2"] * 3]


@pytest.mark.parametrize("hook", ["startup", "initialize", "carry_over"])
async def test_what_fails_changes_nothing(manager: WebSocketPluginManager, hook: str) -> None:
    """The old one stays in service with its breaker closed; what the new one began is undone."""
    log: list[str] = []
    old, contexts = await started(manager, log)
    before = other_tasks()
    with pytest.raises(ReplacementError, match=f"^{hook} raised: RuntimeError: no {hook}$"):
        await within(manager.succeed_by(old, Noting(2, log, fails_in=hook)))
    assert other_tasks() == before
    assert log.count("shutdown 2") == (0 if hook == "startup" else 1)
    assert log.count("cleanup 2") == (3 if hook == "carry_over" else 0)
    assert not [entry for entry in log if entry.endswith(" 1")]
    assert manager.plugins == (old,)
    assert manager.supervisor.breaker_of("noting").state == "closed"
    log.clear()
    for context in contexts:
        await manager.dispatch("AUTH_LOGOUT", {}, context)
    assert log == ["handle_event[1] 1"] * 3
    for context in contexts:
        await manager.cleanup_all(context)
    assert log[3:] == ["cleanup 1"] * 3


async def test_the_old_ones_handlers_end_before_it_is_stopped(manager: WebSocketPluginManager) -> None:
    """A handler that runs at the switch goes on to its end on the old generation; `cleanup` waits for it."""
    log: list[str] = []
    old, contexts = await started(manager, log)
    copy = contexts[0]._connection_plugins.find(old)
    assert copy is not None
    assert isinstance(copy.instance, Noting)
    copy.instance.gate = asyncio.Event()
    handling = asyncio.create_task(manager.dispatch("AUTH_LOGOUT", {}, contexts[0]))
    await asyncio.sleep(0)
    new = type("Plain", (Noting,), {"carry_over": WebSocketPlugin.carry_over})(2, log)
    replacing = asyncio.create_task(manager.succeed_by(old, new))
    await until(lambda: manager.plugins == (new,))
    await manager.dispatch("AUTH_LOGOUT", {}, contexts[0])
    assert "handle_event[1] 2" in log
    assert log.count("cleanup 1") < 3
    copy.instance.gate.set()
    async with asyncio.timeout(10):
        await asyncio.gather(handling, replacing)
    assert log.index("handle_event[1] 1") < len(log) - 1 - log[::-1].index("cleanup 1")
    assert log[-1] == "shutdown 1"


async def test_connections_that_come_and_go_meanwhile_get_the_right_generation(manager: WebSocketPluginManager) -> None:
    """One that comes during the reload has a copy of the new one; one that ended is cleaned up by both."""
    log: list[str] = []
    old, contexts = await started(manager, log)
    gate = asyncio.Event()

    class Slow(Noting):
        async def initialize(self, context: PluginContext) -> None:
            if context in contexts:
                await gate.wait()
            await super().initialize(context)

    new, late = Slow(2, log), make_context()
    replacing = asyncio.create_task(manager.succeed_by(old, new))
    await until(lambda: "startup 2" in log)
    await asyncio.sleep(0.01)
    await manager.initialize_all(late)
    ending = asyncio.create_task(manager.cleanup_all(contexts[0]))
    await asyncio.sleep(0)
    gate.set()
    async with asyncio.timeout(10):
        await asyncio.gather(replacing, ending)
    assert (log.count("initialize 2"), log.count("cleanup 2"), log.count("cleanup 1")) == (4, 1, 4)
    log.clear()
    await manager.dispatch("AUTH_LOGOUT", {}, late)
    assert log == ["handle_event[1] 2"]
