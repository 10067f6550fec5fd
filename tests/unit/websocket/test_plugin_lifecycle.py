"""The life of plugins on a running server: startup and shutdown, and each connection's initialize and cleanup."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from backend.app.websocket.plugin import PluginContext, WebSocketPlugin, WebSocketPluginManager
from tests.plugin_world import make_context, make_manager, until, within


class Calls(WebSocketPlugin):
    """Notes which hook was called, and waits in those that have a gate."""

    name = "calls"

    def __init__(self) -> None:
        self.log: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}

    async def _note(self, hook: str) -> None:
        self.log.append(f"{hook}…")
        if hook in self.gates:
            await self.gates[hook].wait()
        self.log.append(hook)

    async def startup(self, context: PluginContext) -> None:
        await self._note("startup")

    async def shutdown(self, context: PluginContext) -> None:
        await self._note("shutdown")

    async def initialize(self, context: PluginContext) -> None:
        await self._note("initialize")

    async def cleanup(self, context: PluginContext) -> None:
        await self._note("cleanup")

    async def handle_event(self, event_type: str, event_data: dict[str, Any], context: PluginContext) -> None:
        await self._note("handle_event")


@pytest.fixture
async def manager() -> AsyncIterator[WebSocketPluginManager]:
    """A manager of a running server without plugins; calls have 10 s."""
    manager = make_manager(timeout_seconds=10)
    await manager.startup_all(make_context())
    yield manager
    await within(manager.shutdown_all())


async def test_a_plugin_that_comes_while_a_connection_goes_is_cleaned_up(manager: WebSocketPluginManager) -> None:
    """`cleanup` runs exactly once for each `initialize` that succeeded."""
    plugin, context = Calls(), make_context()
    plugin.gates["initialize"] = asyncio.Event()
    await manager.initialize_all(context)
    manager.register(plugin)
    await until(lambda: "initialize…" in plugin.log)
    ending = asyncio.create_task(manager.cleanup_all(context))
    await asyncio.sleep(0)
    plugin.gates["initialize"].set()
    await within(_result(ending))
    assert plugin.log == ["startup…", "startup", "initialize…", "initialize", "cleanup…", "cleanup"]


async def test_shutdown_comes_after_the_handlers_that_run(manager: WebSocketPluginManager) -> None:
    """Drain the running handlers, then `shutdown`."""
    plugin, context = Calls(), make_context()
    plugin.gates["handle_event"] = asyncio.Event()
    manager.register(plugin)
    await until(lambda: "startup" in plugin.log)
    handling = asyncio.create_task(manager.dispatch("AUTH_LOGOUT", {}, context))
    await until(lambda: "handle_event…" in plugin.log)
    manager.unregister("calls")
    await asyncio.sleep(0.02)
    assert "shutdown…" not in plugin.log
    plugin.gates["handle_event"].set()
    await within(_result(handling))
    await until(lambda: "shutdown" in plugin.log)
    assert plugin.log[-3:] == ["handle_event", "shutdown…", "shutdown"]


async def test_a_plugin_that_was_stopped_is_not_called_any_more(manager: WebSocketPluginManager) -> None:
    """After `shutdown` no hook of a plugin is called, also by who still holds the plugin."""
    plugin = Calls()
    manager.register(plugin)
    await until(lambda: "startup" in plugin.log)
    manager.unregister("calls")
    await until(lambda: "shutdown" in plugin.log)
    result = await manager.call_event(plugin, "AUTH_LOGOUT", {}, make_context())
    assert not result.is_ok
    assert plugin.log[-1] == "shutdown"


async def test_a_plugin_that_was_unregistered_can_come_back(manager: WebSocketPluginManager) -> None:
    """Registering it again starts it again."""
    plugin = Calls()
    for _ in range(2):
        manager.register(plugin)
        await until(lambda: manager._why_down(plugin) is None)
        assert plugin.log[-1] == "startup"
        assert (await manager.call_event(plugin, "AUTH_LOGOUT", {}, make_context())).is_ok
        manager.unregister("calls")
        await until(lambda: plugin.log[-1:] == ["shutdown"])


async def test_a_startup_error_that_cannot_be_shown_keeps_out_this_plugin_alone() -> None:
    """A plugin whose `startup` fails is out of service; the server starts."""

    class Shy(Exception):
        def __repr__(self) -> str:
            raise SystemExit(3)

        __str__ = __repr__

    class ShyPlugin(WebSocketPlugin):
        async def startup(self, context: PluginContext) -> None:
            raise Shy

    other = Calls()
    manager = make_manager(ShyPlugin(), other)
    await within(manager.startup_all(make_context()))
    assert "Shy" in manager.failures["shy"]
    assert other.log == ["startup…", "startup"]
    await within(manager.shutdown_all())


async def _result(task: "asyncio.Task[None]") -> None:
    await task
