"""Ends a socket when its token does, with a notice before: `SESSION_AUTH_REQUIRED`, then `SESSION_EXPIRED` and 4009.

One `Expiry` per connection, owned by its session in the endpoint. A fresh `auth` arms it anew.
"""

import asyncio

from backend.app.models.columns import now
from backend.app.realtime.connection import Connection
from backend.app.realtime.hub import Hub
from backend.app.schemas.messages import CloseCode, server_message
from backend.app.schemas.times import wire_time
from backend.app.schemas.websocket_events import WebSocketEventType


class Expiry:
    """The timer of one connection's token."""

    __slots__ = ("_connection", "_hub", "_notice_seconds", "_timer")

    def __init__(self, connection: Connection, hub: Hub, notice_seconds: float) -> None:
        self._connection = connection
        self._hub = hub
        self._notice_seconds = notice_seconds
        self._timer: asyncio.TimerHandle | None = None

    def arm(self) -> None:
        """Set the timer for the notice before the connection's present token ends."""
        self.cancel()
        expires_at = self._connection.principal.expires_at
        if expires_at is None:
            return
        left = (expires_at - now()).total_seconds()
        until_notice = max(0.0, left - self._notice_seconds)
        self._timer = asyncio.get_running_loop().call_later(until_notice, self._notice, left - until_notice)

    def cancel(self) -> None:
        """Let the timer go; no-op if none is set."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _notice(self, grace_seconds: float) -> None:
        expires_at = self._connection.principal.expires_at
        data = {
            "reason": "the token runs out",
            "expiresAt": wire_time(expires_at) if expires_at else None,
            "graceSeconds": round(max(0.0, grace_seconds), 3),
        }
        self._connection.push(server_message(WebSocketEventType.SESSION_AUTH_REQUIRED, data))
        self._timer = asyncio.get_running_loop().call_later(max(0.0, grace_seconds), self._expire)

    def _expire(self) -> None:
        principal = self._connection.principal
        data = {
            "sessionId": principal.session_id or principal.token_id or "",
            "reason": "the token ran out",
            "expiredAt": wire_time(now()),
        }
        self._connection.push(server_message(WebSocketEventType.SESSION_EXPIRED, data))
        # Out of the hub first: no event leaves after this message.
        self._hub.remove(self._connection)
        self._connection.close(CloseCode.TOKEN_EXPIRED, "the token ran out")
