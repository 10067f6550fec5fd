"""The plugin system's public module: base class, context, and the manager that runs plugins.

The endpoint, the dispatcher and `main` call the manager; every hook runs under its supervisor.
Invariants: no method raises what a plugin raised; an event born on a connection is handled
by that connection's copy of a plugin, all others by the registered instance.
"""

import asyncio
import copy
from typing import Any

from backend.app.schemas.websocket_events import WebSocketEventType
from backend.app.websocket.call_result import CallResult, CallState
from backend.app.websocket.plugin_base import WebSocketPlugin
from backend.app.websocket.plugin_checks import PluginError
from backend.app.websocket.plugin_context import CopyState, EventEnvelope, PluginContext
from backend.app.websocket.plugin_on import on
from backend.app.websocket.plugin_replacement import PluginReplacement, ReplacementError

__all__ = [
    "CallResult",
    "CallState",
    "EventEnvelope",
    "PluginContext",
    "PluginError",
    "ReplacementError",
    "WebSocketPlugin",
    "WebSocketPluginManager",
    "on",
    "plugin_manager",
]


class WebSocketPluginManager(PluginReplacement):
    """Registers plugins and runs their hooks: in parallel, each contained, supervised and counted."""

    async def dispatch(self, event_type: str, event_data: Any, context: PluginContext) -> None:
        """Hand an event to every plugin that listens to it, in parallel, and return when all are done.

        Never raises what a plugin raised. A cancelled caller cancels the handlers and gets its CancelledError.
        """
        plugins = self.listening(event_type)
        await asyncio.gather(*(self.call_event(plugin, event_type, event_data, context) for plugin in plugins))

    async def call_event(
        self, plugin: WebSocketPlugin, event_type: str, event_data: Any, context: PluginContext
    ) -> CallResult:
        """Run one plugin's `handle_event` with a copy of the data; the result says how it went."""
        name = str(event_type)
        known = WebSocketEventType.__members__.get(name, event_type)
        own = self.context_for(plugin, context)
        return await self._call_for(context, plugin, "handle_event", name, known, copy_of(event_data), own)

    async def handle_message(self, message_type: str, message: dict[str, Any], context: PluginContext) -> CallResult:
        """Let the plugin that claims a message type answer it; the result's `value` is the reply, a dict or None.

        A type that nobody claims raises KeyError. Any other value than a dict or None is the plugin's failure.
        """
        plugin = self.message_types[message_type]
        own = self.context_for(plugin, context)
        return await self._call_for(context, plugin, "handle_message", message_type, copy_of(message), own)

    def instance_for(self, plugin: WebSocketPlugin, context: PluginContext) -> WebSocketPlugin | None:
        """Return which object handles what was born on this connection; None: the plugin must not be called for it.

        That is the connection's copy if it has one, nobody while its `initialize` runs or if it failed,
        and the registered instance where there is no connection or it is gone.
        """
        if self._why_down(plugin) is not None:
            return None
        found = context._connection_plugins.find(plugin)
        if found is None:
            return plugin
        return found.instance if found.state is CopyState.READY else None

    async def _call_for(
        self, context: PluginContext, plugin: WebSocketPlugin, hook: str, event_type: str, *arguments: Any
    ) -> CallResult:
        """Call a hook on the object that is responsible for this connection; clean-up and stop wait for the end."""
        instance = self.instance_for(plugin, context)
        if instance is None:
            down = self._why_down(plugin)
            copy_ = context._connection_plugins.find(plugin)
            is_for_now = down is not None or (copy_ is not None and copy_.state is CopyState.STARTING)
            reason = down or "it is not initialized on this connection"
            return CallResult(CallState.REFUSED, reason=reason, is_for_now=is_for_now)
        found = context._connection_plugins.find(plugin)
        calls = self._standing(plugin).calls if found is None else found.calls
        scope = None if found is None else found.scope
        running: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        calls.add(running)
        try:
            return await self._call(plugin, instance, hook, *arguments, event_type=event_type, scope=scope)
        finally:
            calls.discard(running)
            running.set_result(None)


_IMMUTABLE = (str, int, float, bool, type(None))


def copy_of(value: Any) -> Any:
    """Return a deep copy of a payload; what cannot be copied (a lock, a mock's insides) is shared."""
    kind = type(value)
    if kind in _IMMUTABLE:
        return value
    if kind is dict:
        return {key: copy_of(item) for key, item in value.items()}
    if kind is list:
        return [copy_of(item) for item in value]
    try:
        return copy.deepcopy(value)
    except Exception:  # noqa: BLE001 - any object may be passed to a direct `dispatch`, and copying runs its code
        return value


plugin_manager = WebSocketPluginManager()
"""The manager of this process. Works without a server, too: `register`, then `dispatch`."""
