"""Finds plugins at start-up: the defaults, modules dropped beside them, files, entry points.

`main` calls `discover` once, the command line `discover_file`. Invariant: whatever is wrong
with a plugin, it is listed as failed with file, line and reason, and the server starts.
"""

import importlib.metadata
import logging
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Protocol

from backend.app.websocket import plugins as package
from backend.app.websocket.plugin import PluginError, WebSocketPlugin, WebSocketPluginManager
from backend.app.websocket.plugin_base import name_of
from backend.app.websocket.plugin_checks import error_text
from backend.app.websocket.plugin_modules import (
    import_file,
    import_module,
    is_constructible,
    is_defined_in,
    is_from_file,
    line_of,
    name_shown,
    plugin_classes,
    plugin_names_in,
)

logger = logging.getLogger("windflow.plugins")

ENTRY_POINTS = "windflow.plugins"
"""The entry point group in which an installed package names its plugin classes, instances or modules."""


class PluginSettings(Protocol):
    """The settings that discovery reads."""

    @property
    def plugins_dir(self) -> Path | None: ...
    @property
    def plugins_allow(self) -> Sequence[str]: ...
    @property
    def plugins_deny(self) -> Sequence[str]: ...


class Source(StrEnum):
    """Where a plugin came from."""

    DEFAULT = "default"
    PACKAGE = "package"
    FOLDER = "folder"
    ENTRY_POINT = "entry point"


class Outcome(StrEnum):
    """What became of it."""

    REGISTERED = "registered"
    FAILED = "failed"
    SKIPPED = "skipped"
    """Kept out by the allow or the deny list."""


@dataclass(frozen=True, slots=True)
class Discovered:
    """One plugin, or one file without any. `location` is a file or an entry point's value."""

    name: str
    source: Source
    location: str
    outcome: Outcome
    reason: str | None = None
    line: int | None = None


@dataclass(frozen=True, slots=True)
class _Candidate:
    """Something that may hold plugins; `load` runs its code. `name` is its file's, module's or entry point's name."""

    name: str
    source: Source
    location: str
    load: Callable[[], object]
    file: Path | None = None
    """The file, or the folder of a package."""


@dataclass(frozen=True, slots=True)
class _Lists:
    """The allow and the deny list: names of plugins, or of files, modules and entry points."""

    allow: frozenset[str]
    deny: frozenset[str]

    def why_not_loaded(self, candidate: _Candidate) -> str | None:
        """Say why the code must not even run, or None: it may hold an allowed plugin."""
        if candidate.name in self.deny:
            return "it is on PLUGINS_DENY"
        if not self.allow or candidate.name in self.allow:
            return None
        file = candidate.file
        names = plugin_names_in(file / "__init__.py" if file.is_dir() else file) if file else set()
        return None if names & self.allow else "it is not on PLUGINS_ALLOW"

    def why_not_registered(self, name: str, candidate: str | None = None) -> str | None:
        """Say why a plugin must not be registered, or None."""
        if name in self.deny:
            return "it is on PLUGINS_DENY"
        if self.allow and name not in self.allow and candidate not in self.allow:
            return "it is not on PLUGINS_ALLOW"
        return None


def discover(manager: WebSocketPluginManager, settings: PluginSettings) -> list[Discovered]:
    """Register the default plugins and all that can be found, in this order: modules, files, entry points.

    Returns what was found, what failed and what the allow and deny lists kept out. Nothing that a
    plugin's code does makes it raise; failures are logged and shown in `manager.failures`, too.
    """
    manager.forget_failures()
    # What files of an earlier start in this process appended is loaded anew from those files.
    package.default_plugins[:] = [plugin for plugin in package.default_plugins if not is_from_file(plugin)]
    lists = _Lists(frozenset(settings.plugins_allow), frozenset(settings.plugins_deny))
    discovery = _Discovery(manager, lists)
    for plugin in tuple(package.default_plugins):
        discovery.take(plugin, _Candidate(name_shown(plugin), Source.DEFAULT, type(plugin).__module__, lambda: None))
    for candidate in (*_modules(), *discovery.folder(settings.plugins_dir), *_entry_points()):
        discovery.load(candidate)
    found = {each.name for each in discovery.found if each.outcome is not Outcome.SKIPPED}
    for name in sorted(lists.allow - found - discovery.used):
        logger.warning("PLUGINS_ALLOW names %s, and there is no such plugin", name)
    return discovery.found


def names_without_plugin(found: Sequence[Discovered]) -> set[str]:
    """Return the plugin names of what was kept out or failed: settings for them are no mistake."""
    names = set()
    for each in found:
        if each.outcome is not Outcome.REGISTERED:
            path = Path(each.location)
            names |= {each.name, *plugin_names_in(path / "__init__.py" if path.is_dir() else path)}
    return names


def discover_file(manager: WebSocketPluginManager, path: Path) -> list[Discovered]:
    """Load one plugin file, or folder, as `discover` would, and register what is in it."""
    discovery = _Discovery(manager, _Lists(frozenset(), frozenset()))
    discovery.load(_file(path))
    return discovery.found


def discover_again(manager: WebSocketPluginManager, settings: PluginSettings, place: Discovered) -> list[Discovered]:
    """Load a file or folder once more, or for the first time, and register what is in it, as `discover` would."""
    discovery = _Discovery(manager, _Lists(frozenset(settings.plugins_allow), frozenset(settings.plugins_deny)))
    candidates = [_file(Path(place.location))] if place.source is Source.FOLDER else [*_modules(), *_entry_points()]
    for candidate in candidates:
        if candidate.location == place.location:
            discovery.load(candidate)
    return discovery.found


def _modules() -> Iterator[_Candidate]:
    """Yield the modules that were dropped into `websocket/plugins/`, by name."""
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda each: each.name):
        if module.name in package.CORE_MODULES or module.name.startswith("_"):
            continue
        name = f"{package.__name__}.{module.name}"
        folder = Path(getattr(module.module_finder, "path", ""))
        file = folder / module.name if module.ispkg else folder / f"{module.name}.py"
        yield _Candidate(module.name, Source.PACKAGE, str(file), partial(import_module, name), file)


def plugin_paths(folder: Path) -> list[Path]:
    """Return the files and packages of a folder that hold plugins, by name; raise OSError if it cannot be read."""
    return [
        path
        for path in sorted(folder.iterdir())
        if not path.name.startswith(("_", "."))
        and (path.suffix == ".py" if path.is_file() else (path / "__init__.py").is_file())
    ]


def _file(path: Path) -> _Candidate:
    return _Candidate(path.stem, Source.FOLDER, str(path), partial(import_file, path), path)


def _entry_points() -> Iterator[_Candidate]:
    for point in sorted(importlib.metadata.entry_points(group=ENTRY_POINTS), key=lambda each: each.name):
        yield _Candidate(point.name, Source.ENTRY_POINT, point.value, point.load)


class _Discovery:
    """One pass over all sources."""

    def __init__(self, manager: WebSocketPluginManager, lists: _Lists) -> None:
        self._manager = manager
        self._lists = lists
        self.found: list[Discovered] = []
        self.used: set[str] = set()
        """Names of loaded files, modules and entry points."""

    def folder(self, folder: Path | None) -> Iterator[_Candidate]:
        """Yield the files and packages of the plugin folder, by name; one that cannot be read is a failure."""
        if folder is None:
            return
        folder = folder.absolute()
        try:
            paths = plugin_paths(folder)
        except OSError as error:
            candidate = _Candidate(folder.name, Source.FOLDER, str(folder), lambda: None)
            self._fail(folder.name, candidate, f"the folder cannot be read: {error.strerror}", error)
            return
        for path in paths:
            yield _file(path)

    def load(self, candidate: _Candidate) -> None:
        """Run a candidate's code unless the lists forbid it, and register the plugins that are in it."""
        if (reason := self._lists.why_not_loaded(candidate)) is not None:
            self._add(candidate.name, candidate, Outcome.SKIPPED, reason)
            return
        self.used.add(candidate.name)
        appended, registered = tuple(package.default_plugins), self._manager.plugins
        try:
            makers = self._makers(candidate.load(), appended, registered)
        except BaseException as error:  # noqa: BLE001 - a plugin file may raise anything, sys.exit() included
            self._roll_back(appended, registered)
            self._fail(candidate.name, candidate, error_text(error), error)
            return
        if not makers:
            reason = (
                "there is no plugin in it: no subclass of WebSocketPlugin that can be made without arguments, "
                "and nothing was appended to default_plugins"
            )
            self._fail(candidate.name, candidate, reason, None)
        for name, make in makers:
            try:
                plugin = make()
            except BaseException as error:  # noqa: BLE001 - so may a constructor
                self._fail(name, candidate, error_text(error), error)
            else:
                self.take(plugin, candidate)

    def take(self, plugin: WebSocketPlugin, candidate: _Candidate) -> None:
        """Register one plugin, unless the lists forbid it; a refusal is a failure."""
        name = name_shown(plugin)
        if (reason := self._lists.why_not_registered(name, candidate.name)) is not None:
            if self._manager.get(name) is plugin:
                self._manager.unregister(name)
            self._add(name, candidate, Outcome.SKIPPED, reason)
            return
        try:
            self._manager.register(plugin)
        except BaseException as error:  # noqa: BLE001 - registering looks at attributes that plugin code computes
            reason = str(error) if isinstance(error, PluginError) else error_text(error)
            self._fail(name, candidate, reason, error, plugin)
        else:
            self._add(name, candidate, Outcome.REGISTERED)

    def _makers(
        self, loaded: object, appended: Sequence[WebSocketPlugin], registered: Sequence[WebSocketPlugin]
    ) -> list[tuple[str, Callable[[], WebSocketPlugin]]]:
        """Return what makes each plugin of a loaded object: those it added itself, else one of each class."""
        added = _news(package.default_plugins, appended) + _news(self._manager.plugins, registered)
        if isinstance(loaded, ModuleType) and not added:
            # Imported earlier, by other code: what it appended then is in the list already.
            added = [plugin for plugin in package.default_plugins if is_defined_in(type(plugin), loaded)]
            added += [plugin for plugin in self._manager.plugins if is_defined_in(type(plugin), loaded)]
        if added:
            unique = {id(plugin): plugin for plugin in added}
            return [(name_shown(plugin), _given(plugin)) for plugin in unique.values()]
        if isinstance(loaded, ModuleType):
            return [(name_of(cls.__name__), cls) for cls in plugin_classes(loaded)]
        if isinstance(loaded, type) and issubclass(loaded, WebSocketPlugin) and is_constructible(loaded):
            return [(name_of(loaded.__name__), loaded)]
        if isinstance(loaded, WebSocketPlugin):
            return [(name_shown(loaded), _given(loaded))]
        return []

    def _roll_back(self, appended: Sequence[WebSocketPlugin], registered: Sequence[WebSocketPlugin]) -> None:
        """Take out what a module had added before it failed."""
        news = _news(package.default_plugins, appended)
        package.default_plugins[:] = [
            plugin for plugin in package.default_plugins if not any(plugin is new for new in news)
        ]
        for plugin in _news(self._manager.plugins, registered):
            self._manager.unregister(plugin.name)

    def _fail(
        self,
        name: str,
        candidate: _Candidate,
        reason: str,
        error: BaseException | None,
        plugin: WebSocketPlugin | None = None,
    ) -> None:
        line = line_of(error, candidate.file, plugin) if error is not None else None
        self._add(name, candidate, Outcome.FAILED, reason, line)
        place = candidate.location if line is None else f"{candidate.location}:{line}"
        # Refused for its name, it must not make the plugin that has the name look failed.
        free = (each for each in (name, candidate.name) if self._manager.get(each) is None)
        self._manager.list_failure(next(free, Path(candidate.location).name), f"{reason} ({place})")
        logger.error("plugin %s cannot be loaded: %s (%s)", name, reason, place, exc_info=error, extra={"plugin": name})

    def _add(
        self, name: str, candidate: _Candidate, outcome: Outcome, reason: str | None = None, line: int | None = None
    ) -> None:
        self.found.append(Discovered(name, candidate.source, candidate.location, outcome, reason, line))
        if outcome is Outcome.SKIPPED:
            logger.info("plugin %s is not loaded: %s", name, reason, extra={"plugin": name})


def _given(plugin: WebSocketPlugin) -> Callable[[], WebSocketPlugin]:
    return lambda: plugin


def _news(now: Sequence[WebSocketPlugin], before: Sequence[WebSocketPlugin]) -> list[WebSocketPlugin]:
    """Return what was added, by identity: a plugin may compare equal to another."""
    return [plugin for plugin in now if not any(plugin is known for known in before)]
