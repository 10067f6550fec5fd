"""The plugin system of the WebSocket side: what a plugin author imports.

Importing this starts nothing and discovers nothing.
"""

from backend.app.websocket.plugin import (
    EventEnvelope,
    PluginContext,
    PluginError,
    WebSocketPlugin,
    WebSocketPluginManager,
    plugin_manager,
)

__all__ = [
    "EventEnvelope",
    "PluginContext",
    "PluginError",
    "WebSocketPlugin",
    "WebSocketPluginManager",
    "plugin_manager",
]
