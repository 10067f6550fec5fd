"""`@on(event type)`: a handler of its own for an event, which takes the payload as its model instead of a dict.

Sugar over `handle_event`, which a plugin with such handlers must not have. Works without a server and for copies of a
plugin alike: nothing but the class holds the table.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from backend.app.schemas.websocket_events import core_catalogue

if TYPE_CHECKING:
    from backend.app.websocket.plugin_context import PluginContext

F = TypeVar("F", bound=Callable[..., Any])
Handlers = Mapping[str, tuple[str, ...]]
"""Names of methods, by the event type that they handle, in the order of their definition."""

_MARK = "__windflow_on__"


def on(*event_types: str) -> Callable[[F], F]:
    """Make an `async def` method `(self, payload, context)` the handler of these events.

    Raises TypeError for a method that cannot be one, and where no event type is given.
    """
    names = tuple(str(name) for name in event_types if isinstance(name, str))
    if not names or len(names) != len(event_types):
        raise TypeError("@on: give it one or more event types: @on(WebSocketEventType.DEPLOYMENT_STATUS_CHANGED)")

    def mark(method: F) -> F:
        if not inspect.iscoroutinefunction(method):
            raise TypeError(f"@on: {getattr(method, '__qualname__', method)} must be an `async def` method")
        try:
            inspect.signature(method).bind("self", "payload", "context")
        except TypeError:
            takes = inspect.signature(method)
            raise TypeError(f"@on: {method.__qualname__} must take (self, payload, context), takes {takes}") from None
        setattr(method, _MARK, (*getattr(method, _MARK, ()), *names))
        return method

    return mark


def handlers_of(owner: type) -> Handlers:
    """Return the handlers of a class, those that it inherited and did not replace included."""
    found: dict[str, tuple[str, ...]] = {}
    names = dict.fromkeys(name for base in reversed(owner.__mro__) for name in vars(base))
    for name in names:
        for event_type in getattr(inspect.getattr_static(owner, name), _MARK, ()):
            found[event_type] = (*found.get(event_type, ()), name)
    return found


@cache
def _catalogue() -> Mapping[str, Any]:
    return core_catalogue()


async def handle_typed(
    plugin: object, handlers: Handlers, event_type: str, event_data: dict[str, Any], context: "PluginContext"
) -> None:
    """Give an event to its handlers, one after the other, each with the payload's model."""
    for name in handlers.get(str(event_type), ()):
        payload = _catalogue()[str(event_type)].payload.model_validate(event_data)
        await getattr(plugin, name)(payload, context)
