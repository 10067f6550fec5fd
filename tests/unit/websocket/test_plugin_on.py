"""`@on`: typed handlers, inheritance, and what is refused when the class is made."""

from typing import Any

import pytest

from backend.app.schemas.websocket_events import DeploymentStatusChanged, WebSocketEventType
from backend.app.websocket.plugin import PluginContext, PluginError, WebSocketPlugin, on
from tests.plugin_world import make_context, make_manager, make_plugin

CHANGED = {"deployment_id": "d1", "old_status": "running", "new_status": "success"}

CREATED = {"deployment_id": "d1", "deployment_name": "web"}


class TypedPlugin(WebSocketPlugin):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    @on(WebSocketEventType.DEPLOYMENT_STATUS_CHANGED)
    async def changed(self, payload: DeploymentStatusChanged, context: PluginContext) -> None:
        self.seen.append((payload.deployment_id, payload.new_status))

    @on("AUTH_LOGOUT", "DEPLOYMENT_STATUS_CHANGED")
    async def anything(self, payload: Any, context: PluginContext) -> None:
        self.seen.append(type(payload).__name__)


class QuietPlugin(TypedPlugin):
    """Replaces an inherited handler by one that is none, and adds one."""

    async def changed(self, payload: Any, context: PluginContext) -> None:
        raise AssertionError("it is no handler any more")

    @on("DEPLOYMENT_CREATED")
    async def created(self, payload: Any, context: PluginContext) -> None:
        self.seen.append(payload.deployment_name)


async def test_each_handler_gets_the_model_of_its_event() -> None:
    """Without a server, by the manager: models instead of dicts, in the order of definition."""
    plugin = TypedPlugin()
    manager = make_manager(plugin)
    assert plugin.event_types == ("DEPLOYMENT_STATUS_CHANGED", "AUTH_LOGOUT")
    await manager.dispatch("DEPLOYMENT_STATUS_CHANGED", CHANGED, make_context())
    assert plugin.seen == [("d1", "success"), "DeploymentStatusChanged"]


async def test_a_subclass_replaces_and_adds() -> None:
    """What a subclass defines anew is a handler only if it is marked again."""
    plugin = QuietPlugin()
    manager = make_manager(plugin)
    for event_type, data in (("DEPLOYMENT_STATUS_CHANGED", CHANGED), ("DEPLOYMENT_CREATED", CREATED)):
        await manager.dispatch(event_type, data, make_context())
    assert plugin.seen == ["DeploymentStatusChanged", "web"]


async def test_data_that_is_no_payload_is_the_calls_failure() -> None:
    """It counts as any other failure of the handler."""
    manager = make_manager(TypedPlugin())
    await manager.dispatch("DEPLOYMENT_STATUS_CHANGED", {}, make_context())
    assert "ValidationError" in (manager.supervisor.stats["typed"].last_error or "")


def test_what_cannot_be_a_handler_is_refused_when_the_class_is_made() -> None:
    """No event type, no coroutine, other arguments, a handle_event besides: a sentence that names it."""
    with pytest.raises(TypeError, match="one or more event types"):
        on()
    with pytest.raises(TypeError, match="one or more event types"):
        on(lambda: None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be an `async def` method"):
        on("AUTH_LOGOUT")(lambda self, payload, context: None)

    async def short(self: object, payload: object) -> None: ...

    with pytest.raises(TypeError, match=r"must take \(self, payload, context\)"):
        on("AUTH_LOGOUT")(short)

    async def right(self: object, payload: object, context: object) -> None: ...

    async def handle_event(self: object, event_type: str, event_data: object, context: object) -> None: ...

    with pytest.raises(TypeError, match="one or the other"):
        make_plugin(right=on("AUTH_LOGOUT")(right), handle_event=handle_event)


def test_an_unknown_event_and_another_api_are_refused_at_registering() -> None:
    """As for every plugin: the error names the attribute and the rule."""

    async def right(self: object, payload: object, context: object) -> None: ...

    with pytest.raises(PluginError, match="no event is called AUTH_LOGOFF; did you mean AUTH_LOGOUT"):
        make_manager(make_plugin(right=on("AUTH_LOGOFF")(right)))
    with pytest.raises(PluginError, match="api_version: the plugin was written for version 2; this server has 1"):
        make_manager(make_plugin(api_version=2))
