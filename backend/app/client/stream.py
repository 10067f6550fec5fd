"""The events of a server as one endless iteration that reconnects by itself.

Used by `watch`, by `deploy` (to hear of a cancel) and by programs. After a reconnect the
iteration yields `Reconnected`: what was pushed in between is not repeated, ask over REST.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from backend.app.client.backoff import Backoff
from backend.app.client.close_codes import Duty, duty
from backend.app.client.errors import ApiError, ClientError, NotLoggedIn, ServerUnreachable, SocketClosed
from backend.app.client.socket import Closed, Message, Socket, SocketLimits
from backend.app.client.tokens import TokenSource

LONG_LIVED_SECONDS = 5.0
"""A connection that lived so long starts the back-off anew; one that is closed at once does not."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """What to listen to: event types (names, `DEPLOYMENT_*` or `*`), all or of one deployment, its log from a line."""

    event_types: tuple[str, ...]
    deployment_id: str | None = None
    from_line: int | None = None

    def data(self) -> Message:
        """Return the `data` of the subscribe command."""
        data: Message = {"event_type": list(self.event_types)}
        if self.deployment_id is not None:
            data["deployment_id"] = self.deployment_id
        if self.from_line is not None:
            data["from_line"] = self.from_line
        return data


@dataclass(frozen=True, slots=True)
class Event:
    """One push of the server; `stream` and `offset` only on stream events."""

    type: str
    data: dict[str, Any]
    timestamp: str | None = None
    id: str | None = None
    stream: str | None = None
    offset: int | None = None

    @classmethod
    def from_message(cls, message: Message) -> "Event":
        """Make an event of a server message."""
        data = message.get("data")
        return cls(
            type=str(message.get("type")),
            data=data if isinstance(data, dict) else {},
            timestamp=message.get("timestamp"),
            id=message.get("id"),
            stream=message.get("stream"),
            offset=message.get("offset"),
        )


@dataclass(frozen=True, slots=True)
class Reconnected:
    """The connection was away for `seconds`; events of that time were missed."""

    seconds: float


OpenSocket = Callable[[str, str, SocketLimits | None], Awaitable[Socket]]
Lost = Callable[[str, float], None]
"""Told, before each wait, why the connection is away and in how many seconds it is tried again."""


class EventStream:
    """Subscriptions that survive their connections. One consumer iterates; `async with` starts and ends it."""

    def __init__(
        self,
        server_url: str,
        tokens: TokenSource,
        subscriptions: Iterable[Subscription] = (),
        *,
        limits: SocketLimits | None = None,
        backoff: Backoff | None = None,
        give_up_seconds: float | None = None,
        on_lost: Lost | None = None,
        open_socket: OpenSocket = Socket.open,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._server_url = server_url
        self._tokens = tokens
        self._subscriptions = list(dict.fromkeys(subscriptions))
        self._limits = limits
        self._backoff = backoff or Backoff(first_seconds=0.5, longest_seconds=30.0)
        self._give_up_seconds = give_up_seconds
        self._on_lost = on_lost
        self._open_socket = open_socket
        self._sleep = sleep
        self._socket: Socket | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._token: str | None = None
        self._rejected: str | None = None
        self._attempt = 0
        self._connected_at = 0.0
        self._lost_at: float | None = None
        self._closed: Closed | None = None

    @property
    def is_connected(self) -> bool:
        """Whether events arrive at this moment."""
        return self._socket is not None

    async def __aenter__(self) -> "EventStream":
        """Connect and subscribe once; what fails now fails at once, without waiting for a server to come."""
        try:
            await self._connect()
        except Closed as closed:
            self._judge(closed)
            if self._rejected is None:
                raise ServerUnreachable(self._server_url, f"it closed the connection: {closed}") from closed
        else:
            return self
        try:
            await self._connect()
        except Closed as closed:
            self._judge(closed)
            raise ServerUnreachable(self._server_url, f"it closed the connection: {closed}") from closed
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._drop()

    def __aiter__(self) -> "EventStream":
        return self

    async def __anext__(self) -> Event | Reconnected:
        """Return the next event, or Reconnected after the connection was away.

        Raises NotLoggedIn, SocketClosed or ApiError when coming back is pointless, ServerUnreachable
        after `give_up_seconds`. A cancelled wait loses nothing.
        """
        while self._socket is not None:
            try:
                message = await self._socket.next()
            except Closed as closed:
                await self._drop()
                self._closed, self._lost_at = closed, time.monotonic()
                break
            if message.get("type") != "pong":
                return Event.from_message(message)
        return await self._come_back()

    async def lose(self, reason: str) -> None:
        """Give the connection up, so that the next item is Reconnected: for a consumer whose reads get no answer.

        Does nothing where it is away already.
        """
        if self._socket is not None:
            await self._drop()
            self._closed, self._lost_at = Closed(1006, reason), time.monotonic()

    async def subscribe(self, *event_types: str, deployment_id: str | None = None) -> Message:
        """Add a subscription, now and after every reconnect; return the reply's data. Raises ApiError."""
        wanted = Subscription(event_types, deployment_id)
        reply = await self._live().request("subscribe", wanted.data())
        if wanted not in self._subscriptions:
            self._subscriptions.append(wanted)
        return reply

    async def unsubscribe(self, *event_types: str, deployment_id: str | None = None) -> Message:
        """Remove a subscription, for reconnects too; return the reply's data. Raises ApiError."""
        unwanted = Subscription(event_types, deployment_id)
        self._subscriptions = [kept for kept in self._subscriptions if kept != unwanted]
        return await self._live().request("unsubscribe", unwanted.data())

    def _live(self) -> Socket:
        if self._socket is None:
            raise ServerUnreachable(self._server_url, "the connection is away at the moment")
        return self._socket

    async def _come_back(self) -> Reconnected:
        if self._lost_at is None:
            raise ClientError("the event stream is not started: use `async with`")
        if time.monotonic() - self._connected_at >= LONG_LIVED_SECONDS:
            self._attempt = 0
        while True:
            hint: float | None = None
            reason = "connection lost"
            if self._closed is not None:
                self._judge(self._closed)
                hint, reason = self._closed.retry_after_seconds, str(self._closed)
            self._attempt += 1
            delay = self._backoff.delay_seconds(self._attempt)
            wait = delay if hint is None else hint
            away = time.monotonic() - self._lost_at
            if self._give_up_seconds is not None and away + wait > self._give_up_seconds:
                raise ServerUnreachable(self._server_url, f"away for {away:.0f} s ({reason})")
            if self._on_lost is not None:
                self._on_lost(reason, wait)
            await self._sleep(wait)
            try:
                await self._connect()
            except Closed as closed:
                self._closed = closed
            except ServerUnreachable as error:
                self._closed = Closed(1006, error.reason)
            else:
                seconds, self._closed, self._lost_at = time.monotonic() - self._lost_at, None, None
                return Reconnected(seconds)

    def _judge(self, closed: Closed) -> None:
        """Raise what ends the iteration for good; remember a token that has to be renewed first."""
        what = duty(closed.code)
        if what is Duty.STOP:
            raise SocketClosed(closed.code, closed.reason)
        if what is Duty.LOG_IN:
            # A token that was renewed and is refused again will not get better.
            if closed.reason != "Invalid token" or self._rejected is not None:
                raise NotLoggedIn(self._server_url, closed.reason or "the server does not take the token")
            self._rejected = self._token
        elif what is Duty.REFRESH:
            self._rejected = self._token

    async def _connect(self) -> None:
        self._token = await self._tokens.token(rejected=self._rejected)
        socket = await self._open_socket(self._server_url, self._token, self._limits)
        try:
            for wanted in self._subscriptions:
                await socket.request("subscribe", wanted.data())
        except BaseException:
            # Refused, lost or cancelled: a socket that nobody owns must not stay open.
            await socket.close()
            raise
        self._socket, self._rejected, self._connected_at = socket, None, time.monotonic()
        self._keeper = asyncio.create_task(self._keep_authenticated(socket), name="socket re-authentication")

    async def _keep_authenticated(self, socket: Socket) -> None:
        """Send a fresh token whenever the server asks for one; where that fails, its close code decides."""
        attempt = 0
        while True:
            await socket.auth_required.wait()
            socket.auth_required.clear()
            try:
                self._token = await self._tokens.token(rejected=self._token)
                await socket.request("auth", token=self._token)
                attempt = 0
            except ServerUnreachable:
                attempt += 1
                await asyncio.sleep(self._backoff.delay_seconds(attempt))
                socket.auth_required.set()
            except (ApiError, NotLoggedIn, Closed):
                return

    async def _drop(self) -> None:
        keeper, self._keeper = self._keeper, None
        socket, self._socket = self._socket, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
        if socket is not None:
            await socket.close()
