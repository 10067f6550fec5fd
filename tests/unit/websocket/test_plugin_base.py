"""The class and the context that a plugin author sees."""

import dataclasses
from typing import Any

import pytest

from backend.app.schemas.websocket_events import WebSocketEventType
from backend.app.websocket import PluginContext, WebSocketPlugin
from backend.app.websocket.plugin import EventEnvelope
from backend.app.websocket.plugin_base import is_per_connection, name_of, overrides
from tests.plugin_world import make_context, make_manager, make_plugin


@pytest.mark.parametrize(
    ("class_name", "name"),
    [
        ("AuditLoggerPlugin", "audit_logger"),
        ("MyPlugin", "my"),
        ("Shown", "shown"),
        ("HTTPWebhookPlugin", "http_webhook"),
        ("Listening0", "listening0"),
        ("Top10ListPlugin", "top10_list"),
        ("Plugin", "plugin"),
        ("already_snake_plugin", "already_snake"),
        ("_PrivatePlugin", "private"),
        ("ÉtatPlugin", "état"),
        ("PluginHostPlugin", "plugin_host"),
    ],
)
def test_a_name_is_the_class_name_in_snake_case_without_plugin(class_name: str, name: str) -> None:
    """A plugin's `name` is its class name in snake_case without `_plugin`."""
    assert name_of(class_name) == name
    assert make_plugin(class_name).name == name


def test_a_name_can_be_set_on_the_class_and_on_the_instance() -> None:
    """Two instances of one class can be registered under names of their own."""

    class NamedPlugin(WebSocketPlugin):
        name = "chosen"

    class DerivedPlugin(NamedPlugin):
        pass

    assert (NamedPlugin.name, NamedPlugin().name, DerivedPlugin().name) == ("chosen", "chosen", "chosen")
    plugin = make_plugin("OtherPlugin")
    plugin.name = "own"
    assert (plugin.name, type(plugin).name) == ("own", "other")


def test_the_base_class_can_be_instantiated_and_does_nothing() -> None:
    """`WebSocketPlugin` is instantiable without overriding anything."""
    plugin = WebSocketPlugin()
    assert plugin.event_types is None
    assert (tuple(plugin.message_types), plugin.timeout_seconds) == ((), None)
    assert not is_per_connection(plugin)


async def test_every_hook_of_the_base_class_can_be_awaited_with_super() -> None:
    """A subclass may call super() in each hook."""
    plugin, context = WebSocketPlugin(), make_context()
    for hook in (plugin.startup, plugin.shutdown, plugin.initialize, plugin.cleanup):
        await hook(context)
    await plugin.handle_event("AUTH_LOGOUT", {}, context)
    assert await plugin.handle_message({}, context) is None


async def test_a_subclass_that_forgets_super_init_works() -> None:
    """A subclass that forgets `super().__init__()` must work, with state of its own."""

    class Forgetful(WebSocketPlugin):
        def __init__(self) -> None:
            self.seen: list[str] = []

        async def initialize(self, context: PluginContext) -> None:
            self.initialized = True

        async def handle_event(self, event_type: str, event_data: dict[str, Any], context: PluginContext) -> None:
            assert self.initialized
            self.seen.append(event_type)

    plugin, context = Forgetful(), make_context()
    manager = make_manager(plugin)
    await manager.initialize_all(context)
    await manager.dispatch("AUTH_LOGOUT", {}, context)
    await manager.cleanup_all(context)
    assert plugin.seen == ["AUTH_LOGOUT"]


def test_overriding_is_seen_on_the_class_and_on_the_instance() -> None:
    """A hook replaced on an instance, as a test may do it, counts as overridden."""
    plugin = WebSocketPlugin()
    assert not overrides(plugin, "handle_event")
    plugin.handle_event = lambda *arguments: None  # type: ignore[method-assign, assignment]
    assert overrides(plugin, "handle_event")

    async def cleanup(self: Any, context: PluginContext) -> None:
        pass

    assert is_per_connection(make_plugin(cleanup=cleanup))


def test_the_context_takes_the_six_fields_of_the_specification_by_position() -> None:
    """A dataclass with the spec's six fields first, in the spec's order; no validation of what is passed."""
    marks = [object() for _ in range(6)]
    context = PluginContext(*marks)  # type: ignore[arg-type]
    assert [getattr(context, field.name) for field in dataclasses.fields(context)][:6] == marks
    assert (context.event, context.organization_id, context.settings, context.session, context.send) == (None,) * 5
    context.db = None
    assert context.db is None


def test_replace_keeps_the_connections_plugins_and_other_contexts_have_their_own() -> None:
    """The copies hang on the connection, which the context carries in a private field that `replace` keeps."""
    context = make_context()
    event = EventEnvelope("id", WebSocketEventType.AUTH_LOGOUT)
    replaced = dataclasses.replace(context, event=event, organization_id="org")
    assert replaced._connection_plugins is context._connection_plugins
    assert make_context()._connection_plugins is not context._connection_plugins
    assert "_connection_plugins" not in repr(context)
    assert dataclasses.replace(context) == context


def test_the_envelope_cannot_be_changed() -> None:
    """All plugins get the same envelope."""
    envelope = EventEnvelope("id", "AUTH_LOGOUT")
    assert (envelope.hop, envelope.offset) == (0, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        envelope.hop = 3  # type: ignore[misc]
