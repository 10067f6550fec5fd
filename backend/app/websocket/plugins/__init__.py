"""The plugins that come with WindFlow, and the folder for modules dropped beside them.

`default_plugins` is registered at start-up; what is appended to it later is registered at
once, by the manager that is attached to it. Importing this registers nothing.
"""

import contextlib
import importlib
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Self, SupportsIndex

from backend.app.websocket.plugin import WebSocketPlugin, WebSocketPluginManager
from backend.app.websocket.plugins.audit_logger import AuditLoggerPlugin
from backend.app.websocket.plugins.deployment_monitor import DeploymentMonitorPlugin

_OPTIONAL = {
    "failure_notifier": "FailureNotifierPlugin",
    "webhook": "WebhookPlugin",
}
"""Plugins that are registered only on a server that has settings for them, by module, which is their name, too."""
OPTIONAL_NAMES = frozenset(_OPTIONAL)
CORE_MODULES = frozenset({"audit_logger", "deployment_monitor"}) | OPTIONAL_NAMES
"""The modules of this folder that are WindFlow's own; every other one was dropped in."""


class DefaultPlugins(list[WebSocketPlugin]):
    """A list that registers what is added to it with the managers it is attached to."""

    def __init__(self, plugins: Iterable[WebSocketPlugin] = ()) -> None:
        super().__init__(plugins)
        self._managers: list[WebSocketPluginManager] = []

    def attach(self, manager: WebSocketPluginManager) -> Callable[[], None]:
        """Register with this manager every plugin that is added from now on; return what ends that."""
        self._managers.append(manager)

        def undo() -> None:
            with contextlib.suppress(ValueError):
                self._managers.remove(manager)

        return undo

    def add_configured(self, names: Collection[str]) -> Callable[[], None]:
        """Add the optional plugins that are named, letter case aside; return what takes them out again.

        What nobody configured is not even imported.
        """
        wanted = {name.lower() for name in names}
        added: list[WebSocketPlugin] = []
        for name, class_name in _OPTIONAL.items():
            if name in wanted:
                added.append(getattr(importlib.import_module(f"{__name__}.{name}"), class_name)())
        super().extend(added)

        def undo() -> None:
            self[:] = [plugin for plugin in self if not any(plugin is each for each in added)]

        return undo

    @contextlib.contextmanager
    def collected(self) -> Iterator[list[WebSocketPlugin]]:
        """Collect what is added within the block, instead of adding and registering it."""
        before, managers = list(self), self._managers
        found: list[WebSocketPlugin] = []
        self._managers = []
        try:
            yield found
        finally:
            found += [plugin for plugin in self if not any(plugin is known for known in before)]
            self._managers = managers
            self[:] = before

    def exchange(self, old: WebSocketPlugin, new: WebSocketPlugin) -> None:
        """Put a new generation into the place of the old one, if that is in the list."""
        self[:] = [new if plugin is old else plugin for plugin in self]

    def append(self, plugin: WebSocketPlugin, /) -> None:
        """Add a plugin; on a running server it is registered at once, or refused with PluginError."""
        self.insert(len(self), plugin)

    def insert(self, index: SupportsIndex, plugin: WebSocketPlugin, /) -> None:
        """Add a plugin at a position, unless a manager refuses it."""
        for manager in tuple(self._managers):
            manager.register(plugin)
        super().insert(index, plugin)

    def extend(self, plugins: Iterable[WebSocketPlugin], /) -> None:
        """Add several plugins, one after another; a refused one ends it."""
        for plugin in tuple(plugins):
            self.append(plugin)

    def __iadd__(self, plugins: Iterable[WebSocketPlugin], /) -> Self:  # type: ignore[override, misc]
        self.extend(plugins)
        return self


default_plugins = DefaultPlugins([AuditLoggerPlugin(), DeploymentMonitorPlugin()])
"""What is registered at start-up. `default_plugins.append(MyPlugin())` adds one, before or after."""

__all__ = ["OPTIONAL_NAMES", "AuditLoggerPlugin", "DefaultPlugins", "DeploymentMonitorPlugin", "default_plugins"]
