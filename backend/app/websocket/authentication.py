"""The auth phase of a socket: who is this, and what did its first message ask for.

Called by the endpoint for each accepted socket. Every refusal is a `Closed` with the code and the
reason of the protocol; deployed browsers rely on the words.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from json import JSONDecodeError

from pydantic import ValidationError
from starlette.requests import HTTPConnection

from backend.app.auth.permissions import Principal
from backend.app.operations.principals import UserInactive
from backend.app.operations.sessions import Sessions
from backend.app.operations.tickets import Tickets
from backend.app.schemas.errors import ErrorCode, WindFlowError
from backend.app.schemas.json_codec import parse_json
from backend.app.schemas.messages import AuthData, AuthFailure, ClientMessage, CloseCode
from backend.app.websocket.commands import parse


class Closed(Exception):
    """Ends a connection with a code, from within its own task."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        self.code = code
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Authenticated:
    """What the auth phase found out."""

    principal: Principal
    first: AuthData = field(default_factory=AuthData)
    reply_to: str | float | None = None
    """The `id` of the first message."""


class Authentication:
    """One for all connections."""

    def __init__(self, sessions: Sessions, tickets: Tickets, *, timeout_seconds: float, max_json_depth: int) -> None:
        self._sessions = sessions
        self._tickets = tickets
        self._timeout_seconds = timeout_seconds
        self._max_json_depth = max_json_depth

    async def authenticate(self, request: HTTPConnection, receive: Callable[[], Awaitable[str]]) -> Authenticated:
        """Return who this is, by the `Authorization` header, a ticket, or else the first message; raise `Closed`."""
        scheme, _, header = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return Authenticated(await self._principal(self._sessions.authenticate(header)))
        if request.scope["query_string"] and (ticket := request.query_params.get("ticket")) is not None:
            # Browsers send the origin with every upgrade.
            redeemed = self._tickets.redeem(ticket, {request.headers.get("origin")})
            return Authenticated(await self._principal(redeemed))
        try:
            async with asyncio.timeout(self._timeout_seconds):
                text = await receive()
        except TimeoutError:
            raise Closed(CloseCode.AUTHENTICATION_FAILED, AuthFailure.TIMEOUT) from None
        message, first = self._first(text)
        return Authenticated(await self._principal(self._sessions.authenticate(first.token or "")), first, message.id)

    def _first(self, text: str) -> tuple[ClientMessage, AuthData]:
        try:
            message = ClientMessage.model_validate(parse_json(text, self._max_json_depth))
            data = parse(AuthData, {"token": (message.model_extra or {}).get("token"), **message.data})
        except (JSONDecodeError, ValidationError, WindFlowError):
            raise Closed(CloseCode.AUTHENTICATION_FAILED, AuthFailure.REQUIRED) from None
        if message.type != "auth":
            raise Closed(CloseCode.AUTHENTICATION_FAILED, AuthFailure.REQUIRED)
        return message, data

    async def _principal(self, found: Awaitable[Principal]) -> Principal:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await found
        except TimeoutError:
            # The server is slow, not the client wrong: it may come back, which 1008 would forbid.
            raise Closed(CloseCode.RATE_LIMITED, "the database does not answer") from None
        except WindFlowError as error:
            if error.status == 503:
                raise Closed(CloseCode.RATE_LIMITED, error.message) from None
            if error.code is ErrorCode.TOKEN_EXPIRED:
                raise Closed(CloseCode.TOKEN_EXPIRED, error.message) from None
            reason = AuthFailure.INACTIVE if isinstance(error, UserInactive) else AuthFailure.INVALID_TOKEN
            raise Closed(CloseCode.AUTHENTICATION_FAILED, reason) from None
