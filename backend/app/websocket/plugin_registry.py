"""Which plugins there are, what each listens to, and which could not be loaded.

The base of the plugin manager, which adds running them. Invariants: names and message types
are unique; whoever iterates over `plugins` or `listening()` is not disturbed by a registration.
"""

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import ParamSpec

from backend.app.schemas.event_spec import Delivery, EventCatalogue
from backend.app.schemas.messages import Command
from backend.app.schemas.websocket_events import core_catalogue
from backend.app.websocket.plugin_base import WebSocketPlugin, overrides
from backend.app.websocket.plugin_checks import PluginError, check
from backend.app.websocket.plugin_settings import PluginValues

logger = logging.getLogger("windflow.plugins")

Undo = Callable[[], None]
P = ParamSpec("P")


class PluginRegistry:
    """The registered plugins, in the order of their registration."""

    def __init__(self, catalogue: EventCatalogue | None = None) -> None:
        self.catalogue = core_catalogue() if catalogue is None else catalogue
        self._plugins: list[WebSocketPlugin] = []
        self._aside: dict[str, WebSocketPlugin] = {}
        self._failures: dict[str, str] = {}
        self._callbacks: list[Callable[[WebSocketPlugin], None]] = []
        self._farewells: list[Callable[[WebSocketPlugin], None]] = []
        self._successions: list[Callable[[WebSocketPlugin, WebSocketPlugin], None]] = []
        self._listening: dict[str, tuple[WebSocketPlugin, ...]] = {}
        self._values: PluginValues | None = None
        """What the operator set; None until somebody says."""

    @property
    def plugins(self) -> tuple[WebSocketPlugin, ...]:
        """The registered instances."""
        return tuple(self._plugins)

    @property
    def aside(self) -> Mapping[str, WebSocketPlugin]:
        """The plugins that were set aside, by name."""
        return MappingProxyType(self._aside)

    @property
    def message_types(self) -> Mapping[str, WebSocketPlugin]:
        """The client messages that plugins answer, each with its plugin."""
        return {str(kind): plugin for plugin in self._plugins for kind in plugin.message_types}

    @property
    def failures(self) -> Mapping[str, str]:
        """What could not be loaded or started, by name, each with its reason."""
        return MappingProxyType(self._failures)

    def list_failure(self, name: str, reason: str) -> None:
        """Show a plugin or a file among the failed ones; registering a plugin of that name takes it off."""
        self._failures[name] = reason

    def forget_failures(self) -> None:
        """Empty `failures`, before everything is looked for again."""
        self._failures.clear()

    def get(self, name: str) -> WebSocketPlugin | None:
        """Return the plugin of that name, or None."""
        return next((plugin for plugin in self._plugins if plugin.name == name), None)

    def register(self, plugin: WebSocketPlugin, *, replace: bool = False) -> None:
        """Register a plugin; the same instance again changes nothing.

        Raises PluginError, and changes nothing, for a plugin that cannot work (the error names the
        argument), for one whose settings have a wrong value, and for another instance under a name in
        use unless `replace` is True.
        """
        if any(known is plugin for known in self._plugins):
            return
        old = self.get(plugin.name) if isinstance(plugin, WebSocketPlugin) else None
        check(plugin, self.catalogue, self._taken_messages(except_of=old))
        if self._values is not None:
            self._values.read(plugin)
        if old is not None:
            if not replace:
                rule = "is in use by another instance; give this one another name, or pass replace=True"
                raise PluginError(plugin.name, "name", rule)
            self._remove(old)
        self._plugins.append(plugin)
        self._added(plugin)

    def unregister(self, name: str) -> None:
        """Remove a plugin; a name that is not registered raises KeyError. Calls that are running go on."""
        plugin = self.get(name)
        if plugin is None:
            raise KeyError(name)
        self._remove(plugin)

    def set_aside(self, name: str) -> None:
        """Unregister a plugin, and keep it for `bring_back`; a name that is not registered raises KeyError."""
        plugin = self.get(name)
        if plugin is None:
            raise KeyError(name)
        self._aside[name] = plugin
        self._remove(plugin)

    def bring_back(self, name: str) -> None:
        """Register a plugin that was set aside; KeyError for any other, and what `register` raises."""
        self.register(self._aside[name])
        del self._aside[name]

    def exchange_aside(self, name: str, new: WebSocketPlugin) -> None:
        """Put a new generation into the place of a plugin that was set aside; raise PluginError if it cannot be."""
        self.check_successor(self._aside[name], new)
        self._aside[name] = new

    def drop_aside(self, kept: Sequence[WebSocketPlugin]) -> None:
        """Forget what was set aside; those of `kept` are registered again."""
        aside, self._aside = self._aside, {}
        for plugin in aside.values():
            if any(plugin is each for each in kept):
                self.register(plugin)

    def on_registered(self, callback: Callable[[WebSocketPlugin], None]) -> Undo:
        """Call back with every plugin that is registered from now on; return what ends that."""
        return _add_to(self._callbacks, callback)

    def on_unregistered(self, callback: Callable[[WebSocketPlugin], None]) -> Undo:
        """Call back with every plugin that is unregistered or replaced from now on; return what ends that."""
        return _add_to(self._farewells, callback)

    def on_succeeded(self, callback: Callable[[WebSocketPlugin, WebSocketPlugin], None]) -> Undo:
        """Call back with the old and the new generation of each plugin that is reloaded from now on."""
        return _add_to(self._successions, callback)

    def check_successor(self, old: WebSocketPlugin, new: WebSocketPlugin) -> None:
        """Raise PluginError if a plugin cannot take the place of another."""
        check(new, self.catalogue, self._taken_messages(except_of=old))
        if new.name != old.name:
            raise PluginError(new.name, "name", f"must stay {old.name}")
        if self._values is not None:
            self._values.read(new)

    def listening(self, event_type: str) -> Sequence[WebSocketPlugin]:
        """Return the plugins that handle an event type, in the order of their registration."""
        event_type = str(event_type)
        found = self._listening.get(event_type)
        if found is None:
            found = tuple(plugin for plugin in self._plugins if self._listens(plugin, event_type))
            if event_type in self.catalogue:  # Else any text would grow the table.
                self._listening[event_type] = found
        return found

    def stream_types(self, plugin: WebSocketPlugin) -> Sequence[str] | None:
        """Return the types that a plugin handles of those that the log keeps; None: all, also unknown ones."""
        if self._listens(plugin, ""):  # No type is called so: only who declares none hears it.
            return None
        kept = (name for name, spec in self.catalogue.items() if spec.delivery is Delivery.STREAM)
        return tuple(name for name in kept if self._listens(plugin, name))

    def _listens(self, plugin: WebSocketPlugin, event_type: str) -> bool:
        try:
            if not overrides(plugin, "handle_event"):
                return False
            return plugin.event_types is None or event_type in plugin.event_types
        except BaseException as error:
            name = type(plugin).__name__
            logger.error("plugin %s does not say what it listens to", name, exc_info=error, extra={"plugin": name})
            return False

    def _taken_messages(self, except_of: WebSocketPlugin | None) -> dict[str, str]:
        taken = dict.fromkeys(self.catalogue, "the core's events")
        taken.update((command.value, "the core's commands") for command in Command)
        for plugin in self._plugins:
            if plugin is not except_of:
                taken.update((str(kind), f"plugin {plugin.name}") for kind in plugin.message_types)
        return taken

    def _added(self, plugin: WebSocketPlugin) -> None:
        self._listening.clear()
        self._failures.pop(plugin.name, None)
        for callback in tuple(self._callbacks):
            callback(plugin)

    def _succeed(self, old: WebSocketPlugin, new: WebSocketPlugin) -> None:
        """Put a plugin into the place of another, in one step."""
        self._plugins[:] = [new if known is old else known for known in self._plugins]
        self._listening.clear()
        self._failures.pop(new.name, None)
        for callback in tuple(self._successions):
            callback(old, new)

    def _remove(self, plugin: WebSocketPlugin) -> None:
        self._plugins[:] = [known for known in self._plugins if known is not plugin]
        self._listening.clear()
        self._failures.pop(plugin.name, None)
        for callback in tuple(self._farewells):
            callback(plugin)


def _add_to(callbacks: list[Callable[P, None]], callback: Callable[P, None]) -> Undo:
    callbacks.append(callback)

    def undo() -> None:
        with contextlib.suppress(ValueError):
            callbacks.remove(callback)

    return undo
