"""Carries changed rights to open sockets: ended sessions close, changed users are read again.

A listener of the bus, after delivery, so that a socket still gets the event that ends it.
"""

import asyncio
import logging

from backend.app.auth.permissions import Principal, may_see
from backend.app.operations.sessions import Sessions
from backend.app.realtime.connection import Connection
from backend.app.realtime.event import Event
from backend.app.realtime.hub import Hub
from backend.app.schemas.errors import WindFlowError
from backend.app.schemas.event_spec import EventCatalogue
from backend.app.schemas.messages import CloseCode, server_message
from backend.app.schemas.websocket_events import WebSocketEventType

logger = logging.getLogger("windflow.socket")

_ENDS_SESSION = frozenset({WebSocketEventType.AUTH_LOGOUT.value, WebSocketEventType.SESSION_EXPIRED.value})
_CHANGES_USER = frozenset(
    {WebSocketEventType.SESSION_PERMISSION_CHANGED.value, WebSocketEventType.SESSION_ORGANIZATION_CHANGED.value}
)


class Access:
    """Acts on the events that change what somebody may do."""

    def __init__(self, hub: Hub, sessions: Sessions, catalogue: EventCatalogue) -> None:
        self._hub = hub
        self._sessions = sessions
        self._catalogue = catalogue
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, event: Event) -> None:
        """Close the sockets of a session that ended; read a changed user's rights again."""
        if event.spec.name in _ENDS_SESSION:
            session_id = event.payload.get("sessionId")
            if isinstance(session_id, str):
                for connection in self._hub.of_session(session_id):
                    self._revoke(connection, event.payload.get("reason") or "the session ended")
        elif event.spec.name in _CHANGES_USER:
            task = asyncio.get_running_loop().create_task(self._read_again(str(event.payload["userId"])))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Wait for what is being read."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _revoke(self, connection: Connection, reason: str) -> None:
        # Out of the hub at once: nothing that is committed from now on reaches it.
        self._hub.remove(connection)
        connection.close(CloseCode.ACCESS_REVOKED, str(reason))

    async def _read_again(self, user_id: str) -> None:
        for connection in self._hub.of_user(user_id):
            try:
                principal = await self._sessions.present(connection.principal)
            except WindFlowError as error:
                self._revoke(connection, error.message)
                continue
            self._apply(connection, principal)

    def _apply(self, connection: Connection, principal: Principal) -> None:
        """Take the subscriptions away that the present rights do not allow, and tell."""
        self._hub.update_principal(connection, principal)
        lost = [
            topic
            for topic in connection.topics
            if not (principal.is_superuser or topic.organization_id == principal.organization_id)
            or (topic.type in self._catalogue and not may_see(principal, self._catalogue[topic.type]))
        ]
        if lost:
            self._hub.unsubscribe(connection, lost)
            names = sorted({topic.type for topic in lost})
            data = {"event_types": names, "reason": "your rights changed"}
            connection.push(server_message("subscription_removed", data))
