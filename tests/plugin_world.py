"""What the plugin system's tests share: contexts, plugins made of functions, short time-outs, two event loops."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from unittest.mock import AsyncMock, MagicMock

import uvloop

from backend.app.websocket.plugin import PluginContext, WebSocketPlugin, WebSocketPluginManager
from backend.app.websocket.supervisor import Supervisor

T = TypeVar("T")

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
DEADLINE_SECONDS = 10
"""That something happens at all."""


def make_context(user_id: str = "user-123", **changes: Any) -> PluginContext:
    """A context of mocks, as the specification's own test makes it."""
    values: dict[str, Any] = {
        "db": None,
        "user": MagicMock(id=user_id, organization_id="org-123"),
        "websocket": AsyncMock(),
        "logger": MagicMock(),
        "broadcast_to_user": AsyncMock(),
        "broadcast_to_event_subscribers": AsyncMock(),
    }
    return PluginContext(**{**values, **changes})


def make_plugin(class_name: str = "ProbePlugin", **attributes: Any) -> WebSocketPlugin:
    """An instance of a plugin class with these attributes; functions become its hooks."""
    plugin: WebSocketPlugin = type(class_name, (WebSocketPlugin,), attributes)()
    return plugin


def make_manager(
    *plugins: WebSocketPlugin, timeout_seconds: float = 0.1, cancel_grace_seconds: float = 0.05
) -> WebSocketPluginManager:
    """A manager with short time-outs, and these plugins registered."""
    manager = WebSocketPluginManager(Supervisor(timeout_seconds, cancel_grace_seconds=cancel_grace_seconds))
    for plugin in plugins:
        manager.register(plugin)
    return manager


async def within(awaitable: Coroutine[Any, Any, T]) -> T:
    """Await something that must happen, with a deadline for the case that it does not."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        return await awaitable


async def until(condition: Callable[[], bool], seconds: float = DEADLINE_SECONDS) -> None:
    """Wait until a condition holds, for at most the deadline."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - any condition, also one nobody signals
            await asyncio.sleep(0.005)


def other_tasks() -> set[asyncio.Task[Any]]:
    """All tasks of the loop but the running one."""
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


def plugin_errors(records: list[logging.LogRecord]) -> list[tuple[str, str, str | None]]:
    """The plugin, hook and event type that each ERROR record names."""
    return [
        (record.__dict__["plugin"], record.__dict__["hook"], record.__dict__["event_type"])
        for record in records
        if record.name == "windflow.plugins" and record.levelno == logging.ERROR
    ]
