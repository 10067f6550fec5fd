"""Registering: names, replacement, what is refused and how the error says it."""

import math
from typing import Any

import pytest

from backend.app.schemas.websocket_events import WebSocketEventType
from backend.app.websocket import PluginContext, PluginError, WebSocketPlugin, WebSocketPluginManager
from tests.plugin_world import make_manager, make_plugin


async def handle_event(self: Any, event_type: str, event_data: dict[str, Any], context: PluginContext) -> None:
    """A correct hook."""


async def handle_message(self: Any, message: dict[str, Any], context: PluginContext) -> None:
    """A correct hook."""


def test_the_same_instance_again_changes_nothing() -> None:
    """`register(plugin)`; the same instance again is a no-op."""
    plugin = make_plugin(handle_event=handle_event)
    manager = make_manager(plugin)
    manager.register(plugin)
    assert manager._plugins == [plugin]
    assert manager.plugins == (plugin,)
    assert manager.get("probe") is plugin
    assert manager.get("other") is None


def test_another_instance_under_the_same_name_is_refused_unless_it_replaces() -> None:
    """Another one under the same name is refused unless `replace=True`."""
    first, second = make_plugin(handle_event=handle_event), make_plugin(handle_event=handle_event)
    manager = make_manager(first)
    with pytest.raises(PluginError, match="plugin probe: name: is in use by another instance"):
        manager.register(second)
    assert manager.plugins == (first,)
    manager.register(second, replace=True)
    assert manager.plugins == (second,)


def test_a_replacement_that_is_wrong_leaves_the_old_one() -> None:
    """Registering raises and changes nothing."""
    first = make_plugin()
    manager = make_manager(first)
    with pytest.raises(PluginError):
        manager.register(make_plugin(event_types=["NONSENSE"]), replace=True)
    assert manager.plugins == (first,)


def test_unregistering_removes_a_plugin_and_an_unknown_name_is_an_error() -> None:
    """`unregister(name)` is a public way."""
    manager = make_manager(make_plugin(handle_event=handle_event))
    assert manager.listening("AUTH_LOGOUT")
    manager.unregister("probe")
    assert manager.plugins == ()
    assert manager.listening("AUTH_LOGOUT") == ()
    with pytest.raises(KeyError, match="probe"):
        manager.unregister("probe")


def test_undeclared_event_types_mean_every_event_and_an_empty_list_none() -> None:
    """`event_types` not declared = every event; an empty list = none; members and texts are the same."""
    every = make_plugin("EveryPlugin", handle_event=handle_event)
    none = make_plugin("NonePlugin", event_types=[], handle_event=handle_event)
    member = make_plugin("MemberPlugin", event_types=[WebSocketEventType.AUTH_LOGOUT], handle_event=handle_event)
    text = make_plugin("TextPlugin", event_types=("AUTH_LOGOUT",), handle_event=handle_event)
    deaf = make_plugin("DeafPlugin")
    manager = make_manager(every, none, member, text, deaf)
    assert manager.listening("AUTH_LOGOUT") == (every, member, text)
    assert manager.listening(WebSocketEventType.AUTH_LOGOUT) == (every, member, text)
    assert manager.listening("NOTIFICATION_SENT") == (every,)
    assert manager.listening("SOMETHING_ELSE") == (every,)


def test_listening_follows_registrations() -> None:
    """What was derived from the list of plugins is never stale."""
    manager = make_manager()
    assert manager.listening("AUTH_LOGOUT") == ()
    plugin = make_plugin(handle_event=handle_event)
    manager.register(plugin)
    assert manager.listening("AUTH_LOGOUT") == (plugin,)
    other = make_plugin("OtherPlugin", handle_event=handle_event)
    manager.register(other)
    assert manager.listening("AUTH_LOGOUT") == (plugin, other)


def test_callbacks_hear_of_registrations_until_they_are_undone() -> None:
    """`on_registered` returns its undo."""
    manager = make_manager(make_plugin("EarlyPlugin"))
    heard: list[str] = []
    undo = manager.on_registered(lambda plugin: heard.append(plugin.name))
    manager.register(make_plugin())
    with pytest.raises(PluginError):
        manager.register(make_plugin())
    undo()
    undo()
    manager.register(make_plugin("LatePlugin"))
    assert heard == ["probe"]


def test_message_types_lead_to_their_plugin() -> None:
    """`message_types` maps each client message to its plugin."""
    plugin = make_plugin(message_types=["ask", "tell"], handle_message=handle_message)
    manager = make_manager(plugin, make_plugin("OtherPlugin"))
    assert dict(manager.message_types) == {"ask": plugin, "tell": plugin}


def test_failures_are_listed_until_the_plugin_is_registered() -> None:
    """`failures` shows what could not be loaded, each with its reason."""
    manager = make_manager()
    manager.list_failure("probe", "no such module")
    manager.list_failure("other", "broken")
    assert dict(manager.failures) == {"probe": "no such module", "other": "broken"}
    manager.register(make_plugin())
    assert dict(manager.failures) == {"other": "broken"}


async def _generates(self: Any, event_type: str, event_data: Any, context: Any) -> Any:
    yield event_type


def _short(self: Any, event_type: str, event_data: Any) -> None:
    """One argument too few."""


def _keyword(self: Any, context: Any, *, more: int) -> None:
    """Cannot be called with the context alone."""


def _long(self: Any, context: Any, more: int) -> None:
    """One argument too many."""


def _optional(self: Any, context: Any, more: int = 0) -> None:
    """Callable with the context alone."""


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"event_types": ["DEPLOYMENT_STATUS_CHANGE"]}, "event_types: no event is called DEPLOYMENT_STATUS_CHANGE; did"),
    ({"event_types": ["?"]}, r"event_types: no event is called \?$"),
    ({"event_types": "AUTH_LOGOUT"}, "event_types: must be a list, is 'AUTH_LOGOUT'"),
    ({"event_types": [3]}, "event_types: must hold event types or texts, holds 3"),
    ({"event_types": ["AUTH_LOGOUT", WebSocketEventType.AUTH_LOGOUT]}, "event_types: names 'AUTH_LOGOUT' twice"),
    ({"event_types": 3}, "event_types: must be a list, is 3"),
    (
        {"message_types": ["subscribe"], "handle_message": handle_message},
        "message_types: subscribe belongs to the core",
    ),
    ({"message_types": ["WEBSOCKET_PING"], "handle_message": handle_message}, "message_types: WEBSOCKET_PING belongs"),
    ({"message_types": ["taken"], "handle_message": handle_message}, "message_types: taken belongs to plugin first"),
    ({"message_types": ["", "b"], "handle_message": handle_message}, "message_types: must hold event types or texts"),
    ({"message_types": None}, "message_types: must be a list, is None"),
    ({"message_types": ["ask"]}, "message_types: are declared, but there is no handle_message"),
    ({"timeout_seconds": 0}, "timeout_seconds: must be seconds above 0 or None, is 0"),
    ({"timeout_seconds": True}, "timeout_seconds: .* is True"),
    ({"timeout_seconds": math.inf}, "timeout_seconds: .* is inf"),
    ({"timeout_seconds": "5"}, "timeout_seconds: .* is '5'"),
    ({"retries": -1}, "retries: must be a number from 0 to 100, is -1"),
    ({"retries": 101}, "retries: must be a number from 0 to 100, is 101"),
    ({"retries": True}, "retries: must be a number from 0 to 100, is True"),
    ({"version": 2}, "version: must be a text, is 2"),
    ({"handle_event": _short}, r"handle_event: must take \(event_type, event_data, context\), takes \(event_type"),
    ({"handle_event": _generates}, "handle_event: must not yield"),
    ({"handle_event": 3}, "handle_event: must be a method, is 3"),
    ({"initialize": _keyword}, r"initialize: must take \(context\), takes \(context: Any, \*, more: int\)"),
    ({"startup": _long}, r"startup: must take \(context\)"),
]


@pytest.mark.parametrize(("attributes", "message"), REFUSED)
def test_registering_says_which_plugin_and_which_argument_is_wrong(attributes: dict[str, Any], message: str) -> None:
    """Registering validates hook signatures, event types, duplicate types, and names plugin and argument."""
    first = make_plugin("FirstPlugin", message_types=["taken"], handle_message=handle_message)
    manager = make_manager(first)
    with pytest.raises(PluginError, match=f"plugin probe: {message}") as caught:
        manager.register(make_plugin(**attributes))
    assert (caught.value.plugin, caught.value.argument) == ("probe", message.split(":")[0])
    assert manager.plugins == (first,)


@pytest.mark.parametrize("name", ["", "with space", "1st", "a/b", "x" * 65, 3, None])
def test_a_name_must_fit_addresses_and_settings(name: Any) -> None:
    """The name is used by CLI, REST and settings."""
    with pytest.raises(PluginError, match="plugin ProbePlugin: name: must be"):
        make_manager().register(make_plugin(name=name))


def test_a_class_and_a_stranger_are_refused_with_a_hint() -> None:
    """The two mistakes of a first plugin."""
    manager = make_manager()
    with pytest.raises(PluginError, match=r"WebSocketPlugin: plugin: is the class; .*: WebSocketPlugin\(\)"):
        manager.register(WebSocketPlugin)  # type: ignore[arg-type]
    with pytest.raises(PluginError, match="plugin object: plugin: is not a WebSocketPlugin"):
        manager.register(object())  # type: ignore[arg-type]


def test_hooks_with_further_optional_arguments_are_fine() -> None:
    """Only what a call would break on is refused."""
    star = make_plugin("StarPlugin", handle_event=lambda *arguments, **options: None)
    make_manager(make_plugin(initialize=_optional), star)


def test_each_manager_has_its_own_catalogue() -> None:
    """One process may hold several servers, as tests do."""
    assert WebSocketPluginManager().catalogue is not WebSocketPluginManager().catalogue
