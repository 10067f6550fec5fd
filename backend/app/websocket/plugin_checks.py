"""What is wrong with a plugin, precisely, when it is registered and not when its first event comes.

Called by the registry. Invariant: `check` changes nothing, and its error names the plugin,
the attribute or hook, and the rule that is broken.
"""

import difflib
import inspect
import math
from collections.abc import Collection, Iterable, Mapping, Sequence

from pydantic import BaseModel

from backend.app.websocket.plugin_base import (
    HOOKS,
    PLUGIN_API_VERSION,
    REPLACEMENT_HOOKS,
    WebSocketPlugin,
    overrides,
)

NAME_LENGTH = 64
"""Longest name (characters): it stands in addresses, settings and table columns."""

MOST_RETRIES = 100
"""Most `retries`: while an event is tried again, those of its subject wait."""


class PluginError(ValueError):
    """A plugin was refused; `plugin` and `argument` say which one and what about it."""

    def __init__(self, plugin: str, argument: str, rule: str) -> None:
        self.plugin = plugin
        self.argument = argument
        self.rule = rule
        super().__init__(f"plugin {plugin}: {argument}: {rule}")


def error_text(error: BaseException) -> str:
    """Return an error's type and text; one that cannot be shown has its type alone."""
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:  # noqa: BLE001 - showing it runs plugin code
        return f"{type(error).__name__} (an error that cannot be shown)"


def check(plugin: object, known_events: Collection[str], taken_messages: Mapping[str, str]) -> WebSocketPlugin:
    """Return the plugin if it can be registered, else raise PluginError.

    `taken_messages` are the message types that are spoken for, each with its owner.
    """
    if inspect.isclass(plugin):
        raise PluginError(plugin.__name__, "plugin", f"is the class; register an instance: {plugin.__name__}()")
    if not isinstance(plugin, WebSocketPlugin):
        raise PluginError(type(plugin).__name__, "plugin", "is not a WebSocketPlugin; derive its class from it")
    name = _checked_name(plugin)
    if plugin.api_version != PLUGIN_API_VERSION:
        rule = f"the plugin was written for version {plugin.api_version!r}; this server has {PLUGIN_API_VERSION}"
        raise PluginError(name, "api_version", rule)
    _check_events(name, plugin, known_events)
    _check_messages(name, plugin, taken_messages)
    _check_timeout(name, plugin.timeout_seconds)
    _check_retries(name, plugin.retries)
    if not isinstance(plugin.version, str):
        raise PluginError(name, "version", f"must be a text, is {plugin.version!r}")
    _check_settings_model(name, plugin.settings_model)
    for hook, arguments in (HOOKS | REPLACEMENT_HOOKS).items():
        _check_hook(name, plugin, hook, arguments)
    return plugin


def _checked_name(plugin: WebSocketPlugin) -> str:
    name: object = plugin.name
    if not isinstance(name, str):
        raise PluginError(type(plugin).__name__, "name", f"must be a text, is {name!r}")
    if not name.isidentifier() or len(name) > NAME_LENGTH:
        rule = f"must be letters, digits and underscores, not begin with a digit, at most {NAME_LENGTH}; is {name!r}"
        raise PluginError(type(plugin).__name__, "name", rule)
    return name


def _check_names(name: str, attribute: str, value: object) -> Sequence[str]:
    """Check a list of texts without duplicates."""
    if isinstance(value, (str, bytes)) or not isinstance(value, (Sequence, frozenset, set)):
        raise PluginError(name, attribute, f"must be a list, is {value!r}")
    items = list(value)
    for item in items:
        if not isinstance(item, str) or not item:
            raise PluginError(name, attribute, f"must hold event types or texts, holds {item!r}")
        if items.count(item) > 1:
            raise PluginError(name, attribute, f"names {str(item)!r} twice")
    return items


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, [str(name) for name in known], 1)
    return f"; did you mean {near[0]}?" if near else ""


def _check_events(name: str, plugin: WebSocketPlugin, known: Collection[str]) -> None:
    if plugin.event_types is None:
        return
    for event_type in _check_names(name, "event_types", plugin.event_types):
        if event_type not in known:
            raise PluginError(name, "event_types", f"no event is called {event_type}{_nearest(event_type, known)}")


def _check_messages(name: str, plugin: WebSocketPlugin, taken: Mapping[str, str]) -> None:
    types = _check_names(name, "message_types", plugin.message_types)
    for message_type in types:
        if message_type in taken:
            raise PluginError(name, "message_types", f"{message_type} belongs to {taken[message_type]}")
    if types and not overrides(plugin, "handle_message"):
        raise PluginError(name, "message_types", "are declared, but there is no handle_message")


def _check_timeout(name: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (math.isfinite(value) and value > 0):
        raise PluginError(name, "timeout_seconds", f"must be seconds above 0 or None, is {value!r}")


def _check_retries(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_RETRIES:
        raise PluginError(name, "retries", f"must be a number from 0 to {MOST_RETRIES}, is {value!r}")


def _check_settings_model(name: str, value: object) -> None:
    if value is not None and not (inspect.isclass(value) and issubclass(value, BaseModel)):
        raise PluginError(name, "settings_model", f"must be a class derived from pydantic.BaseModel, is {value!r}")


def _check_hook(name: str, plugin: WebSocketPlugin, hook: str, arguments: tuple[str, ...]) -> None:
    function = getattr(plugin, hook)
    if not callable(function):
        raise PluginError(name, hook, f"must be a method, is {function!r}")
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise PluginError(name, hook, "must not yield")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # A builtin or a C function: it has no signature to look at.
    try:
        signature.bind(*arguments)
    except TypeError:
        rule = f"must take ({', '.join(arguments)}), takes {signature}"
        raise PluginError(name, hook, rule) from None
