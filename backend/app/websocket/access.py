"""Carries changed rights to open sockets: ended sessions close, changed users are read again.

A listener of the bus, after delivery, so that a socket still gets the event that ends it. What no
event told, because another program changed the database, `check_all` finds; `main` calls it
periodically. Invariant: an older answer of the database never replaces a newer one.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from sqlalchemy.exc import SQLAlchemyError

from backend.app import metrics
from backend.app.auth.permissions import Principal, may_see
from backend.app.operations.principals import Found
from backend.app.operations.sessions import Sessions
from backend.app.realtime.connection import Connection
from backend.app.realtime.event import Event
from backend.app.realtime.hub import Hub
from backend.app.schemas.errors import ErrorCode, WindFlowError
from backend.app.schemas.event_spec import EventCatalogue
from backend.app.schemas.messages import CloseCode, server_message
from backend.app.schemas.websocket_events import WebSocketEventType

logger = logging.getLogger("windflow.socket")

_ENDS_SESSION = frozenset({WebSocketEventType.AUTH_LOGOUT.value, WebSocketEventType.SESSION_EXPIRED.value})
_CHANGES_USER = frozenset(
    {WebSocketEventType.SESSION_PERMISSION_CHANGED.value, WebSocketEventType.SESSION_ORGANIZATION_CHANGED.value}
)
_MOST_REMEMBERED = 10_000
"""Users whose change is remembered for sockets that are just being opened; the comparison finds the others."""


class Access:
    """Acts on the events that change what somebody may do."""

    def __init__(
        self,
        hub: Hub,
        sessions: Sessions,
        catalogue: EventCatalogue,
        recheck_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hub = hub
        self._sessions = sessions
        self._catalogue = catalogue
        self._recheck_seconds = recheck_seconds
        self._clock = clock
        self._changed: OrderedDict[str, float] = OrderedDict()
        """When each user changed, the latest last."""
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, event: Event) -> None:
        """Close the sockets of a session that ended; read a changed user's rights again."""
        name = event.spec.name
        if name in _ENDS_SESSION:
            self._remember(event.user_id)
            session_id = event.payload.get("sessionId")
            for connection in self._with_credentials(event.user_id, session_id):
                self._revoke(connection, CloseCode.ACCESS_REVOKED, event.payload.get("reason") or "the session ended")
        elif name in _CHANGES_USER:
            self._remember(str(event.payload["userId"]))
            self._begin_reading(str(event.payload["userId"]))
        elif name == WebSocketEventType.AUTH_LOGIN_SUCCESS and event.connection_id and self._is_changed(event.user_id):
            # Between its authentication and its registration a socket is not found: its rights may be old.
            self._begin_reading(str(event.user_id))

    async def check_all(self) -> int:
        """Compare every open socket with the database and return how many were changed or closed.

        Raises what the database raises; then nothing was changed.
        """
        seen = [(connection, connection.principal) for connection in self._hub]
        found = await self._sessions.present_all(principal for _, principal in seen)
        corrected = 0
        for connection, before in seen:
            if found[before] != before and self._settle(connection, before, found[before]):
                corrected += 1
                metrics.ACCESS_CORRECTED.inc()
        return corrected

    async def stop(self) -> None:
        """Wait for what is being read."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _with_credentials(self, user_id: str | None, session_id: object) -> Iterable[Connection]:
        """Return the sockets of a session, or of an API token by its id."""
        if not isinstance(session_id, str):
            return ()
        if found := self._hub.of_session(session_id):
            return found
        return [each for each in self._hub.of_user(user_id or "") if each.principal.token_id == session_id]

    def _begin_reading(self, user_id: str) -> None:
        task = asyncio.get_running_loop().create_task(self._read_again(user_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read_again(self, user_id: str) -> None:
        try:
            for connection in self._hub.of_user(user_id):
                is_settled = False
                while not is_settled:  # Its credentials or rights may change while they are read.
                    before = connection.principal
                    is_settled = self._settle(connection, before, await self._present(before))
        except (SQLAlchemyError, OSError, WindFlowError) as error:
            logger.warning("rights could not be read; they are compared later: %s", error, extra={"user_id": user_id})

    async def _present(self, principal: Principal) -> Found:
        """Return what a principal is now, or why it is nobody; raise what says nothing about it."""
        try:
            return await self._sessions.present(principal)
        except WindFlowError as error:
            if error.status != 401:
                raise
            return error

    def _settle(self, connection: Connection, before: Principal, found: Found) -> bool:
        """Apply what was found; False, with nothing changed, if the socket is no longer what it was before."""
        if self._hub.get(connection.id) is not connection:
            return True  # It ended meanwhile.
        if connection.principal is not before:
            return False
        if isinstance(found, Principal):
            self._apply(connection, found)
        else:
            is_over = found.code is ErrorCode.TOKEN_EXPIRED
            code = CloseCode.TOKEN_EXPIRED if is_over else CloseCode.ACCESS_REVOKED
            self._revoke(connection, code, found.message)
        return True

    def _revoke(self, connection: Connection, code: CloseCode, reason: str) -> None:
        # Out of the hub at once: nothing that is committed from now on reaches it.
        self._hub.remove(connection)
        connection.close(code, str(reason))

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

    # ---- sockets that are being opened ---------------------------------------------------------------

    def _remember(self, user_id: str | None) -> None:
        if not user_id:
            return
        self._changed.pop(user_id, None)
        self._changed[user_id] = self._clock()
        while len(self._changed) > _MOST_REMEMBERED:
            self._changed.popitem(last=False)

    def _is_changed(self, user_id: str | None) -> bool:
        """Tell whether a user changed since the last comparison that can have missed a socket being opened."""
        limit = self._clock() - self._recheck_seconds
        while self._changed and next(iter(self._changed.values())) < limit:
            self._changed.popitem(last=False)
        return user_id in self._changed
