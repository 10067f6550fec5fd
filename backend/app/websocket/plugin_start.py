"""The part of a server's start that is about plugins: found, registered, started; undone in reverse order."""

import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack

from backend.app.config import Settings
from backend.app.websocket.contexts import Contexts
from backend.app.websocket.discovery import discover, names_without_plugin
from backend.app.websocket.dispatcher import Dispatcher
from backend.app.websocket.plugin import WebSocketPlugin, plugin_manager
from backend.app.websocket.plugin_reloads import Reloads
from backend.app.websocket.plugin_settings import PluginValues
from backend.app.websocket.plugin_switchboard import Switchboard
from backend.app.websocket.plugins import OPTIONAL_NAMES, default_plugins

logger = logging.getLogger("windflow")


async def start_plugins(
    stack: AsyncExitStack,
    settings: Settings,
    contexts: Contexts,
    dispatcher: Dispatcher,
    switchboard: Switchboard,
    reloads: Reloads,
) -> None:
    """Register the default plugins and the discovered ones but those out of service, and start them."""
    before = plugin_manager.plugins
    plugin_manager.configure(settings)
    stack.callback(default_plugins.add_configured(settings.plugin))
    reloads.found = found = discover(plugin_manager, settings)
    values = PluginValues(settings.plugin)
    for sentence in values.unclaimed(plugin_manager.plugins, names_without_plugin(found) | OPTIONAL_NAMES):
        logger.warning(sentence)
    stack.callback(default_plugins.attach(plugin_manager))
    stack.callback(plugin_manager.drop_aside, before)
    await switchboard.apply()
    dispatcher.start(plugin_manager.plugins)
    stack.callback(plugin_manager.on_registered(dispatcher.welcome))
    stack.callback(plugin_manager.on_unregistered(dispatcher.forget))
    stack.callback(plugin_manager.on_succeeded(dispatcher.succeed))
    plugin_manager.hold = dispatcher.hold
    stack.callback(setattr, plugin_manager, "hold", None)
    stack.callback(_unregister_all_but, before)
    stack.push_async_callback(plugin_manager.shutdown_all)
    stack.push_async_callback(dispatcher.stop, settings.plugin_timeout_seconds)
    await plugin_manager.startup_all(contexts.for_startup())


def _unregister_all_but(kept: Sequence[WebSocketPlugin]) -> None:
    for plugin in plugin_manager.plugins:
        # By identity: plugin code decides what is equal.
        if not any(plugin is each for each in kept):
            plugin_manager.unregister(plugin.name)
