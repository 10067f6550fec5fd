"""A `PluginContext` that records what a plugin does with it.

Invariant: a broadcast is checked as on a server, as far as that needs no database: the type exists, plugins
may publish it, its payload is right.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from backend.app.auth.permissions import may_send
from backend.app.models.user import User
from backend.app.realtime.event import check_payload
from backend.app.schemas.errors import ErrorCode, WindFlowError
from backend.app.schemas.event_spec import EventCatalogue, Sender
from backend.app.schemas.websocket_events import core_catalogue
from backend.app.websocket.plugin_context import PluginContext


@dataclass(frozen=True, slots=True)
class Broadcast:
    """One event that a plugin published; `data` is the payload as it would cross the wire."""

    event_type: str
    data: dict[str, Any]
    organization_id: str | None = None
    user_id: str | None = None
    """The one user it is for; None: the organization."""


@dataclass(frozen=True, slots=True)
class UserMessage:
    """One message, of a type that is no event, that a plugin sent to a user."""

    user_id: str
    message: dict[str, Any]


@dataclass
class RecordingContext(PluginContext):
    """A context with lists of what was done with it, oldest first. Copies of it share the lists."""

    broadcasts: list[Broadcast] = field(default_factory=list)
    """Events, to an organization or to one user."""
    user_messages: list[UserMessage] = field(default_factory=list)
    sent: list[dict[str, Any]] = field(default_factory=list)
    """What `send` got, for the connection."""

    @property
    def notifications(self) -> list[dict[str, Any]]:
        """The payloads of the notifications among the broadcasts."""
        return [each.data for each in self.broadcasts if each.event_type == "NOTIFICATION_SENT"]


class _Own:
    """Stands for: the organization of the context."""


_OWN = _Own()


def recording_context(organization_id: str = "organization-1") -> RecordingContext:
    """Return a new context of a user `user-1`, not on a connection: neither `websocket` nor `send`."""
    catalogue = core_catalogue()
    broadcasts: list[Broadcast] = []
    user_messages: list[UserMessage] = []

    async def to_subscribers(
        event_type: str, data: Mapping[str, Any], *, organization_id: str | _Own | None = _OWN
    ) -> None:
        chosen = own if isinstance(organization_id, _Own) else organization_id
        broadcasts.append(Broadcast(str(event_type), _payload(catalogue, str(event_type), data), chosen))

    async def to_user(user_id: str, message: Mapping[str, Any]) -> None:
        event_type = message.get("type")
        if isinstance(event_type, str) and event_type in catalogue:
            payload = _payload(catalogue, event_type, message.get("data", {}))
            broadcasts.append(Broadcast(str(event_type), payload, own, str(user_id)))
        else:
            user_messages.append(UserMessage(str(user_id), dict(message)))

    own = organization_id
    user = User(
        id="user-1",
        username="user-1",
        organization_id=own,
        role="operator",
        is_superuser=False,
        is_active=True,
    )
    return RecordingContext(
        db=None,
        user=user,
        websocket=None,
        logger=logging.getLogger("windflow.plugins"),
        broadcast_to_user=to_user,
        broadcast_to_event_subscribers=to_subscribers,
        organization_id=own,
        broadcasts=broadcasts,
        user_messages=user_messages,
    )


def sender(sent: list[dict[str, Any]]) -> Callable[[dict[str, Any]], Awaitable[None]]:
    """Return a `send` that appends to a list."""

    async def send(message: dict[str, Any]) -> None:
        sent.append(dict(message))

    return send


def _payload(catalogue: EventCatalogue, event_type: str, data: Mapping[str, Any]) -> dict[str, Any]:
    spec = catalogue.get(event_type)
    if spec is None:
        raise WindFlowError(ErrorCode.UNKNOWN_TYPE, f"type: no event is called {event_type}")
    if not may_send(spec, Sender.PLUGIN):
        raise WindFlowError(ErrorCode.NOT_SENDABLE, f"type: {event_type} is not for plugins to publish")
    return check_payload(spec, data).wire()
