"""The events of a server as one endless iteration that reconnects by itself and goes on exactly where it was.

Used by `watch`, by `logs --follow`, by `deploy` (to hear of a cancel) and by programs. What was pushed while the
connection was away follows after `Reconnected`: streams from their positions, followed logs from their lines. What
cannot be had any more is told as `PositionLost`.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

from backend.app.client.backoff import Backoff
from backend.app.client.close_codes import Duty, duty
from backend.app.client.errors import ApiError, ClientError, NotLoggedIn, ServerUnreachable, SocketClosed
from backend.app.client.intake import Intake
from backend.app.client.items import Item, PositionLost, Reconnected, Subscription
from backend.app.client.positions import LOG_PREFIX, Ledger, LinesMissing, Positions
from backend.app.client.socket import Closed, Message, Socket, SocketLimits
from backend.app.client.tokens import TokenSource

LONG_LIVED_SECONDS = 5.0
"""A connection that lived so long starts the back-off anew; one that is closed at once does not."""
_LATER = frozenset({"storage_unavailable", "rate_limited", "internal"})
"""Codes of refusals that say nothing about the request: it is made again."""

OpenSocket = Callable[[str, str, SocketLimits | None, Message], Awaitable[Socket]]
Lost = Callable[[str, float], None]
"""Told, before each wait, why the connection is away and in how many seconds it is tried again."""


class EventStream:
    """Subscriptions that survive their connections. One consumer iterates; `async with` starts and ends it.

    `positions` are those of an earlier stream with these subscriptions: what came since then is yielded first.
    Raises ValueError for positions that are none.
    """

    def __init__(
        self,
        server_url: str,
        tokens: TokenSource,
        subscriptions: Iterable[Subscription] = (),
        *,
        positions: Mapping[str, Any] | None = None,
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
        self._ledger = Ledger(positions)
        self._intake = Intake(self._ledger, self._ask_positions)
        self._is_resuming = positions is not None
        self._ready: deque[Item] = deque()
        """What was taken and not yet yielded."""
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
        for name in self._ledger.positions:
            if name.startswith(LOG_PREFIX) and not self._is_followed(name.removeprefix(LOG_PREFIX)):
                self._ledger.unfollow(name.removeprefix(LOG_PREFIX))
        for wanted in self._subscriptions:
            self._follow(wanted, None if wanted.from_line is None or wanted.from_line < 0 else max(1, wanted.from_line))

    @property
    def positions(self) -> Positions:
        """How far everything was yielded: to be kept after an item was handled, and given to the next stream.

        Streams by name, and followed logs as `log:<deployment id>`. JSON can hold it.
        """
        return self._ledger.positions

    def next_line(self, deployment_id: str) -> int | None:
        """Return the number of the line of a followed log that comes next; None where that is not known."""
        return self._ledger.line(deployment_id)

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

    async def __anext__(self) -> Item:
        """Return the next event, or a notice: Reconnected, PositionLost, CatchingUp, CaughtUp.

        Raises NotLoggedIn, SocketClosed or ApiError when coming back is pointless, ServerUnreachable
        after `give_up_seconds`. A cancelled wait loses nothing.
        """
        while not self._ready:
            if self._socket is None:
                return await self._come_back()
            try:
                self._ready.extend(self._intake.take(await self._socket.next()))
            except Closed as closed:
                await self._drop()
                self._closed, self._lost_at = closed, time.monotonic()
            except LinesMissing as missing:
                # The next connection begins at that very line.
                await self.lose(str(missing))
        return self._ready.popleft()

    async def lose(self, reason: str) -> None:
        """Give the connection up, so that Reconnected comes soon: for a consumer whose reads get no answer.

        Does nothing where it is away already.
        """
        if self._socket is not None:
            await self._drop()
            self._closed, self._lost_at = Closed(1006, reason), time.monotonic()

    async def subscribe(
        self,
        *event_types: str,
        deployment_id: str | None = None,
        from_line: int | None = None,
        organization_id: str | None = None,
    ) -> Message:
        """Add a subscription, now and after every reconnect; return the reply's data. Raises ApiError.

        It begins with what is published from now on, and the log of a deployment with `from_line`.
        """
        wanted = Subscription(event_types, deployment_id, from_line, organization_id)
        reply = await self._live().request("subscribe", wanted.data())
        if isinstance(reply.get("positions"), dict):
            self._ledger.learn(reply["positions"])
        self._subscriptions = [each for each in self._subscriptions if not _is_same(each, wanted)]
        self._subscriptions.append(wanted)
        if wanted.log is not None and from_line is not None:
            self._ledger.unfollow(wanted.log)
        self._follow(wanted, reply.get("from_line"))
        return reply

    async def unsubscribe(
        self, *event_types: str, deployment_id: str | None = None, organization_id: str | None = None
    ) -> Message:
        """Remove a subscription, for reconnects too; return the reply's data. Raises ApiError."""
        unwanted = Subscription(event_types, deployment_id, None, organization_id)
        self._subscriptions = [kept for kept in self._subscriptions if not _is_same(kept, unwanted)]
        if deployment_id is not None and not self._is_followed(deployment_id):
            self._ledger.unfollow(deployment_id)
        return await self._live().request("unsubscribe", unwanted.data())

    def _is_followed(self, deployment_id: str) -> bool:
        return any(each.log == deployment_id for each in self._subscriptions)

    def _follow(self, wanted: Subscription, line: int | None) -> None:
        if wanted.log is not None:
            self._ledger.follow(wanted.log, line)

    def _ask_positions(self) -> None:
        if self._socket is not None:
            self._socket.ask_positions()

    def _live(self) -> Socket:
        if self._socket is None:
            raise ServerUnreachable(self._server_url, "the connection is away at the moment")
        return self._socket

    # ---- connecting ----------------------------------------------------------------------------------------

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
            except ApiError as error:
                if error.code not in _LATER:
                    raise
                self._closed = Closed(1006, str(error))
            else:
                seconds, self._closed, self._lost_at = time.monotonic() - self._lost_at, None, None
                return Reconnected(seconds, self._intake.is_resumed())

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
        """Make a connection that goes on where this stream is; what is lost is ready to be yielded then."""
        self._token = await self._tokens.token(rejected=self._rejected)
        given = self._ledger.streams if self._is_resuming else None
        lines = {each: self._ledger.line(each.log) if each.log else None for each in self._subscriptions}
        # Where a tail begins, only the reply to a command of its own says.
        tails = [each for each, line in lines.items() if line is None and (each.from_line or 0) < 0]
        data: Message = {"subscriptions": [each.data(line) for each, line in lines.items() if each not in tails]}
        if given is not None:
            data["positions"] = given
        socket = await self._open_socket(self._server_url, self._token, self._limits, data)
        try:
            lost: list[Item] = []
            for refusal in socket.welcome.get("refused") or ():
                lost.append(await self._take_refusal(socket, refusal))
            for each in tails:
                reply = await socket.request("subscribe", each.data())
                self._follow(each, reply.get("from_line"))
        except BaseException:
            # Refused, lost or cancelled: a socket that nobody owns must not stay open.
            await socket.close()
            raise
        starts = {each.log: line for each, line in lines.items() if each.log and line is not None}
        lost += self._begin(socket.welcome.get("positions") or {}, given, starts)
        self._ready.extend(lost)
        self._socket, self._rejected, self._connected_at = socket, None, time.monotonic()
        self._is_resuming = True
        self._keeper = asyncio.create_task(self._keep_authenticated(socket), name="socket re-authentication")

    def _begin(self, welcome: Positions, given: Positions | None, starts: dict[str, int]) -> list[Item]:
        """Take note of where everything begins; return what is followed without a position of the time before."""
        unnamed = self._ledger.forget_unnamed()
        new = self._ledger.learn(welcome)
        self._intake.begin(given, starts, welcome)
        if given is None:
            return []
        missed = [stream for stream in new if stream in unnamed or welcome[stream]["offset"] > 0]
        logs = {each.log for each in self._subscriptions if each.log and self._ledger.line(each.log) is None}
        return [
            *(PositionLost(stream, "unknown", None, welcome[stream]) for stream in missed),
            *(PositionLost(LOG_PREFIX + log, "unknown") for log in sorted(logs)),
        ]

    async def _take_refusal(self, socket: Socket, refusal: Message) -> PositionLost:
        """Subscribe without the line, or from the first one there is, where only that was refused; else raise it."""
        code, line, log = refusal.get("code"), refusal.get("from_line"), refusal.get("deployment_id")
        details = refusal.get("details")
        first = details.get("firstAvailable") if isinstance(details, dict) else None
        if not isinstance(line, int) or not (code == "unsupported" or (code == "lines_expired" and first)):
            raise ApiError(str(code), str(refusal.get("message")), details=details)
        again: Message = {
            name: refusal[name] for name in ("event_type", "deployment_id", "organization_id") if name in refusal
        }
        if code == "lines_expired":
            again["from_line"] = first
        await socket.request("subscribe", again)
        name = f"{LOG_PREFIX}{log}"
        now = self._ledger.lose(name, {name: {"line": first}})
        return PositionLost(name, "unsupported" if code == "unsupported" else "expired", {"line": line}, now)

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


def _is_same(one: Subscription, other: Subscription) -> bool:
    """Tell whether two subscriptions differ at most in where they begin."""
    return one.data(0) == other.data(0)
