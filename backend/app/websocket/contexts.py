"""Makes the `PluginContext` of each connection and of each event, with working broadcasts.

The endpoint asks for a connection's context, the dispatcher for an event's. An event born on
a connection is handled with that connection's context, so that plugins get their copy for it.
"""

import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any

from starlette.websockets import WebSocket

from backend.app.auth.permissions import Caller, Principal, system_principal
from backend.app.config import Settings
from backend.app.database import Database
from backend.app.models.user import User
from backend.app.operations.events import Events
from backend.app.realtime.connection import Connection
from backend.app.realtime.event import Event
from backend.app.schemas.errors import ErrorCode, WindFlowError
from backend.app.schemas.event_spec import Sender
from backend.app.schemas.messages import server_message
from backend.app.websocket.containment import current_owner
from backend.app.websocket.plugin import EventEnvelope, PluginContext

logger = logging.getLogger("windflow.plugins")


class _Own:
    """Stands for: the organization of the event being handled."""


OWN = _Own()

handled_hop: ContextVar[int] = ContextVar("windflow_handled_hop", default=0)
"""Hop of the event whose handler is running, set by the dispatcher: a context that was kept does not forget it."""


class _Quota:
    """How many broadcasts each plugin may make with one context: in all, or in each span of `seconds`."""

    def __init__(self, limit: int, seconds: float | None, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._seconds = seconds
        self._clock = clock
        self._spent: dict[str, tuple[float, int]] = {}
        """By plugin: when its span began, and what it made since. The context of a connection is shared by all."""

    def take(self) -> None:
        """Count a broadcast of the plugin that is running; raise `rate_limited` above the quota."""
        owner = current_owner.get()
        plugin, moment = owner.plugin if owner else "", self._clock()
        began, spent = self._spent.get(plugin, (moment, 0))
        if self._seconds is not None and moment - began >= self._seconds:
            began, spent = moment, 0
        if spent >= self._limit:
            span = "one call" if self._seconds is None else f"{self._seconds:g} s"
            raise WindFlowError(ErrorCode.RATE_LIMITED, f"more than {self._limit} broadcasts in {span}")
        self._spent[plugin] = began, spent + 1


class Contexts:
    """Contexts of this node's connections, and new ones for events."""

    def __init__(
        self, settings: Settings, database: Database, events: Events, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._database = database
        self._events = events
        self._clock = clock
        self._of_connection: dict[str, PluginContext] = {}

    def open(self, connection: Connection, websocket: WebSocket) -> PluginContext:
        """Make and keep the context of a new connection."""

        async def send(message: Mapping[str, Any]) -> None:
            data = {key: value for key, value in message.items() if key != "type"}
            text = server_message(str(message.get("type", "message")), message.get("data", data))
            # What a plugin says is kept nowhere: it must not end the connection of a slow reader.
            connection.push(text, is_droppable=True)

        context = self._context(
            connection.principal, connection.principal.organization_id, connection_id=connection.id, event=None
        )
        context = dataclasses.replace(context, websocket=websocket, send=send)
        self._of_connection[connection.id] = context
        return context

    def close(self, connection: Connection) -> None:
        """Forget the context of a connection that ended."""
        self._of_connection.pop(connection.id, None)

    def for_startup(self) -> PluginContext:
        """Return the context of `startup` and `shutdown`: no user, no organization."""
        return self._context(None, None, connection_id=None, event=None)

    def for_event(self, event: Event) -> PluginContext:
        """Return the context to handle an event with."""
        envelope = EventEnvelope(
            id=event.id,
            type=event.spec.name,
            organization_id=event.organization_id,
            subject=event.subject,
            hop=event.hop,
            user_id=event.user_id,
            stream=event.stream if event.offset is not None else None,
            offset=event.offset,
            created_at=event.created_at,
        )
        context = self._context(event.actor, event.organization_id, connection_id=event.connection_id, event=envelope)
        born_on = self._of_connection.get(event.connection_id or "")
        if born_on is None:
            return context
        return dataclasses.replace(
            born_on,
            user=context.user if event.actor is not None else born_on.user,
            event=envelope,
            organization_id=event.organization_id,
            broadcast_to_user=context.broadcast_to_user,
            broadcast_to_event_subscribers=context.broadcast_to_event_subscribers,
        )

    def _context(
        self,
        principal: Principal | None,
        organization_id: str | None,
        *,
        connection_id: str | None,
        event: EventEnvelope | None,
    ) -> PluginContext:
        hop = event.hop + 1 if event else 1
        # The context of an event is for one call; that of a connection or the process lives on.
        seconds = None if event is not None else self._settings.plugin_timeout_seconds
        quota = _Quota(self._settings.broadcasts_per_call, seconds, self._clock)
        return PluginContext(
            db=None,
            user=_user(principal or system_principal(organization_id or "")),
            websocket=None,
            logger=logger,
            broadcast_to_user=self._to_user(organization_id, hop, quota),
            broadcast_to_event_subscribers=self._to_subscribers(organization_id, hop, quota),
            event=event,
            organization_id=organization_id,
            session=self._database.session,
        )

    def _to_subscribers(self, own: str | None, hop: int, quota: _Quota) -> Callable[..., Awaitable[None]]:
        async def broadcast_to_event_subscribers(
            event_type: str, data: Mapping[str, Any], *, organization_id: str | _Own | None = OWN
        ) -> None:
            quota.take()
            chosen = own if isinstance(organization_id, _Own) else organization_id
            if chosen is None and isinstance(organization_id, _Own):
                raise WindFlowError(ErrorCode.INVALID_PAYLOAD, "organization_id: there is none here; name one")
            await self._events.publish(_caller(chosen, hop), str(event_type), data, organization_id=chosen)

        return broadcast_to_event_subscribers

    def _to_user(self, own: str | None, hop: int, quota: _Quota) -> Callable[..., Awaitable[None]]:
        async def broadcast_to_user(user_id: str, message: Mapping[str, Any]) -> None:
            quota.take()
            await self._events.broadcast_to_user(_caller(own, hop), str(user_id), message, organization_id=own)

        return broadcast_to_user


def _caller(organization_id: str | None, hop: int) -> Caller:
    hop = max(hop, handled_hop.get() + 1)
    return Caller(system_principal(organization_id or ""), sender=Sender.PLUGIN, hop=hop)


def _user(principal: Principal) -> User:
    """Return the principal as the plugin API's `User`: detached, for reading."""
    return User(
        id=principal.user_id,
        username=principal.username,
        organization_id=principal.organization_id,
        role=principal.role.value,
        is_superuser=principal.is_superuser,
        is_active=True,
    )
