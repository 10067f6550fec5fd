"""`WebSocketPlugin`: what an author derives a plugin from. Every hook is optional.

Called by the manager only. What `__init__` makes is shared by all connections; what
`initialize` assigns belongs to that connection alone (it runs on a shallow copy).
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from backend.app.websocket.plugin_context import PluginContext
from backend.app.websocket.plugin_on import handle_typed, handlers_of

PLUGIN_API_VERSION = 1
"""Raised when plugins that were written before no longer work as they are."""

HOOKS = {
    "startup": ("context",),
    "shutdown": ("context",),
    "initialize": ("context",),
    "cleanup": ("context",),
    "handle_event": ("event_type", "event_data", "context"),
    "handle_message": ("message", "context"),
}
"""Every hook with the arguments it is called with, by position."""

REPLACEMENT_HOOKS = {"carry_over": ("old",)}
"""The hooks of a new generation alone."""


@lru_cache(maxsize=1024)  # asked with every call of a plugin
def name_of(class_name: str) -> str:
    """Return a class name in snake_case without `_plugin`: `AuditLoggerPlugin` → `audit_logger`."""
    words = re.sub(r"(?<=[^\W_])(?=[A-Z][a-z])|(?<=[a-z0-9])(?=[A-Z])", "_", class_name.strip("_"))
    name = words.lower()
    return name.removesuffix("_plugin") or name


class _NameOfClass:
    """The default of `name`: derived from the class, replaced by any class or instance attribute."""

    def __get__(self, instance: object, owner: type) -> str:
        return name_of(owner.__name__)


class WebSocketPlugin:
    """Reacts to events. Derive from it and override the hooks you need, as `async def` or plain `def`.

    A plain `def` hook runs in a thread: it may block, and cannot use the context's coroutines.
    Whatever a hook raises is logged and counted and hurts nobody else. A subclass need not call
    `super().__init__()`.
    """

    event_types: Sequence[str] | None = None
    """The events to handle, as `WebSocketEventType` members or names. Not declared: every event; `[]`: none."""
    message_types: Sequence[str] = ()
    """Types of client messages that `handle_message` answers."""
    timeout_seconds: float | None = None
    """Longest run of one hook (seconds); None: the server's `PLUGIN_TIMEOUT_SECONDS`."""
    retries: int = 0
    """How often an event whose handler raised or ran out of time is tried again, after growing pauses."""
    version: str = "1.0"
    api_version: int = PLUGIN_API_VERSION
    """The version of the plugin API that it was written for; a server with another one does not load it."""
    settings_model: type[BaseModel] | None = None
    """What an operator can set, as a pydantic model: each hook finds an instance in `context.settings`."""

    if TYPE_CHECKING:
        name: str
        """Short name for commands, addresses and settings; the class name in snake_case unless set."""
    else:
        name = _NameOfClass()

    def __init_subclass__(cls, **named: Any) -> None:
        """Make the methods marked with `@on` its `handle_event`; TypeError for a class that has one besides."""
        super().__init_subclass__(**named)
        handlers = handlers_of(cls)
        if not handlers:
            return
        if "handle_event" in vars(cls):
            raise TypeError(f"{cls.__name__} has handlers with @on and handle_event: it can have one or the other")

        async def handle_event(
            self: WebSocketPlugin, event_type: str, event_data: dict[str, Any], context: PluginContext
        ) -> None:
            await handle_typed(self, handlers, event_type, event_data, context)

        setattr(cls, "handle_event", handle_event)  # noqa: B010 - a class has no other way to be given a method
        if cls.event_types is None or "event_types" not in vars(cls):
            cls.event_types = tuple(handlers)

    async def startup(self, context: PluginContext) -> None:
        """Run once when the server starts. If it fails, the plugin is out of service until it is started again."""

    async def shutdown(self, context: PluginContext) -> None:
        """Run once when the server stops, if `startup` succeeded."""

    async def initialize(self, context: PluginContext) -> None:
        """Run for each connection, after its authentication. What it assigns to `self` is this connection's own.

        If it fails, this connection's events are not given to the plugin and `cleanup` is not called for it.
        """

    async def cleanup(self, context: PluginContext) -> None:
        """Run once for each initialized connection when it ended and its running handlers have returned."""

    async def handle_event(self, event_type: str, event_data: dict[str, Any], context: PluginContext) -> None:
        """Handle an event; `event_data` is this plugin's own copy of the payload, in wire spelling."""

    async def handle_message(self, message: dict[str, Any], context: PluginContext) -> dict[str, Any] | None:
        """Answer a client's message of one of `message_types`; a dict is sent as the reply, None sends nothing."""
        return None

    async def carry_over(self, old: "WebSocketPlugin") -> None:
        """Take over what the old generation has, when the plugin is reloaded.

        Run on the new instance after `startup`, and on each connection's new copy after its `initialize`,
        with the old instance or copy. Events wait meanwhile. If it fails, the old one stays.
        """


def overrides(plugin: WebSocketPlugin, hook: str) -> bool:
    """Tell whether a plugin has its own version of a hook; the base's do nothing and are never called."""
    own = getattr(plugin, hook)
    return getattr(own, "__func__", own) is not getattr(WebSocketPlugin, hook)


def is_per_connection(plugin: WebSocketPlugin) -> bool:
    """Tell whether each connection works on a copy of its own of this plugin."""
    return overrides(plugin, "initialize") or overrides(plugin, "cleanup")
