"""Loads a new generation of one plugin from where discovery found it, beside the old one.

Called by the reloads. Invariant: loading registers nothing, and `discard` leaves the imported modules as they were.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

from backend.app.websocket import plugins as package
from backend.app.websocket.discovery import Discovered, Source
from backend.app.websocket.plugin import ReplacementError, WebSocketPlugin
from backend.app.websocket.plugin_base import name_of
from backend.app.websocket.plugin_checks import error_text
from backend.app.websocket.plugin_modules import (
    forget,
    forget_file,
    import_anew,
    import_file,
    line_of,
    name_shown,
    plugin_classes,
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A new instance, and what takes its modules back."""

    plugin: WebSocketPlugin
    discard: Callable[[], None]


def load_generation(place: Discovered, name: str) -> Loaded:
    """Run the code of a plugin's file, module or entry point anew and return the plugin of that name in it.

    Raises ReplacementError with file, line and reason, whatever the code does. Nothing is registered.
    """
    file = Path(place.location) if place.source in (Source.FOLDER, Source.PACKAGE) else None
    discard: Callable[[], None] = _nothing
    try:
        with package.default_plugins.collected() as appended:
            loaded, discard = _import(place)
        return Loaded(_pick(loaded, appended, name, place.location), discard)
    except ReplacementError:
        discard()
        raise
    except BaseException as error:  # a plugin file may raise anything, sys.exit() included
        discard()
        line = line_of(error, file)
        where = place.location if line is None else f"{place.location}:{line}"
        raise ReplacementError(f"{error_text(error)} ({where})") from error


def _import(place: Discovered) -> tuple[object, Callable[[], None]]:
    if place.source is Source.FOLDER:
        module = import_file(Path(place.location))
        return module, partial(forget, module.__name__)
    if place.source is Source.PACKAGE:
        name, attribute = f"{package.__name__}.{Path(place.location).stem}", ""
    elif place.source is Source.ENTRY_POINT:
        name, _, attribute = place.location.partition(":")
    else:
        raise ReplacementError("it comes with the server or with the application: restart that instead")
    put_back = import_anew(name)
    try:
        loaded: object = sys.modules[name]
        for part in filter(None, attribute.split(".")):
            loaded = getattr(loaded, part)
    except BaseException:
        put_back()
        raise
    return loaded, put_back


def _pick(loaded: object, appended: Sequence[WebSocketPlugin], name: str, location: str) -> WebSocketPlugin:
    for plugin in appended:
        if name_shown(plugin) == name:
            return plugin
    if isinstance(loaded, WebSocketPlugin):
        return loaded
    makers: Sequence[Callable[[], WebSocketPlugin]] = ()
    if isinstance(loaded, ModuleType) and not appended:
        makers = plugin_classes(loaded)
    elif isinstance(loaded, type) and issubclass(loaded, WebSocketPlugin):
        makers = (loaded,)
    # The class whose name says it first: the others need not be made.
    for make in sorted(makers, key=lambda each: name_of(getattr(each, "__name__", "")) != name):
        plugin = make()
        if name_shown(plugin) == name:
            return plugin
    raise ReplacementError(f"there is no plugin {name} any more in {location}")


def forget_old(old: WebSocketPlugin, others: Sequence[WebSocketPlugin]) -> None:
    """Let go of the modules of a generation that is gone, unless another plugin came from the same file."""
    module = type(old).__module__.partition(".")[0]
    if not any(type(plugin).__module__.partition(".")[0] == module for plugin in others):
        forget_file(old)


def _nothing() -> None:
    """Take nothing back: nothing was imported."""
