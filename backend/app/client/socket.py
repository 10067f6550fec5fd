"""One authenticated WebSocket connection: requests with replies, and a bounded queue of pushes.

Made by `EventStream`, which reconnects; ends with `Closed`, never comes back by itself. A slow
consumer fills the queue, the reader stops, TCP holds the server back: nothing is dropped here.
"""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from backend.app.client.address import is_loopback, socket_url
from backend.app.client.errors import ApiError, ServerUnreachable

Message = dict[str, Any]
"""A server message: `type`, `data`, `timestamp`, and `id`, `stream`, `offset` on stream events."""

MAX_MESSAGE_BYTES = 32 * 1024 * 1024
"""Largest message taken: a full report of log lines (4 MiB of text) with every character escaped, and room."""


class Closed(Exception):
    """The connection ended; `code` is what `close_codes.duty` judges (1006: it was lost)."""

    def __init__(self, code: int, reason: str, retry_after_seconds: float | None = None) -> None:
        self.code = code
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds
        super().__init__(f"{code} {reason}".strip())


@dataclass(frozen=True, slots=True)
class SocketLimits:
    """Seconds and sizes of one connection."""

    open_seconds: float = 10.0
    reply_seconds: float = 15.0
    ping_seconds: float = 20.0
    silence_seconds: float = 45.0
    """Without a single message for so long, although pings are sent, the connection counts as lost."""
    queue_messages: int = 1024
    queue_bytes: int = 8 * 1024 * 1024
    """Pushes that wait for the consumer: the reader stops at the first of the two bounds."""
    queue_messages_while_asked: int = 16 * 1024
    """The bound in messages while a reply is awaited: it comes behind at most what a server queues for a client."""


class Socket:
    """A connection that was accepted and authenticated. Iterate for pushes; `request` for replies."""

    def __init__(self, connection: ClientConnection, limits: SocketLimits) -> None:
        self._connection = connection
        self._limits = limits
        self._pushes: deque[tuple[Message, int]] = deque()
        self._queued_bytes = 0
        self._has_room = asyncio.Event()
        self._waiting: dict[str, asyncio.Future[Message]] = {}
        self._ids = itertools.count(1)
        self._heard_at = time.monotonic()
        self._ended: asyncio.Future[Closed] = asyncio.get_running_loop().create_future()
        self._restart_hint: float | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._asks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()
        self.welcome: Message = {}
        self.auth_required = asyncio.Event()
        """Set when the server asks for a fresh token."""

    @classmethod
    async def open(
        cls, server_url: str, token: str, limits: SocketLimits | None = None, data: Mapping[str, Any] | None = None
    ) -> "Socket":
        """Connect and authenticate; `data` are further fields of the first message: `positions`, `subscriptions`.

        Raises ServerUnreachable when there is no WebSocket endpoint to talk to, Closed when the server
        accepted and then closed (1008 for a token it does not take), ApiError when it refused in words.
        """
        given = limits or SocketLimits()
        connection = await _connect(server_url, given)
        socket = cls(connection, given)
        socket._tasks.append(asyncio.create_task(socket._read(), name="socket reader"))
        try:
            socket.welcome = await socket.request("auth", data, token=token)
        except BaseException:
            # Whatever ended the start, cancellation included, must not leave the reader behind.
            await socket.close()
            raise
        socket._tasks.append(asyncio.create_task(socket._ping(), name="socket ping"))
        return socket

    async def __aenter__(self) -> "Socket":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def request(self, kind: str, data: Mapping[str, Any] | None = None, **top_level: Any) -> Message:
        """Send a command and return its reply's `data`.

        Raises ApiError when the server answers with WEBSOCKET_ERROR, Closed when the connection ends
        first, ServerUnreachable when there is no reply in time.
        """
        number = str(next(self._ids))
        reply: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[number] = reply
        # The reply comes behind pushes that nobody may be taking meanwhile.
        self._has_room.set()
        try:
            await self._send({"type": kind, "data": dict(data or {}), "id": number, **top_level})
            async with asyncio.timeout(self._limits.reply_seconds):
                await asyncio.wait((reply, self._ended), return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError as error:
            raise ServerUnreachable("the server", f"no reply to {kind} in time") from error
        finally:
            self._waiting.pop(number, None)
        if not reply.done():
            raise self._ended.result()
        return _reply_data(reply.result())

    async def next(self) -> Message:
        """Return the next push, in the order of the wire; raise Closed after the last one."""
        while not self._pushes:
            if self._ended.done():
                raise self._ended.result()
            # Waiting for the change, not for the message: a cancelled wait takes nothing with it.
            self._changed.clear()
            await self._changed.wait()
        message, size = self._pushes.popleft()
        self._queued_bytes -= size
        self._has_room.set()
        return message

    def ask_positions(self) -> None:
        """Have a `pong` with positions sent soon: it comes as a push, in its place behind the events before it."""
        if not self._asks:
            self._asks.append(asyncio.create_task(self._send({"type": "ping"}), name="socket ask"))
            self._asks[0].add_done_callback(lambda _: self._asks.clear())

    @property
    def is_full(self) -> bool:
        """Whether nothing more is read until the consumer takes something."""
        if any(not reply.done() for reply in self._waiting.values()):
            return len(self._pushes) >= self._limits.queue_messages_while_asked
        return len(self._pushes) >= self._limits.queue_messages or self._queued_bytes >= self._limits.queue_bytes

    async def close(self) -> None:
        """Close the connection and end its tasks. Safe to call twice."""
        tasks = [*self._tasks, *self._asks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()
        await self._connection.close()
        self._end(1000, "closed by this client")

    async def _send(self, message: Message) -> None:
        try:
            await self._connection.send(orjson.dumps(message).decode())
        except ConnectionClosed:
            # The reader sees the same end and knows the code.
            await asyncio.wait((self._ended,))

    async def _read(self) -> None:
        try:
            while True:
                text = await self._connection.recv()
                self._heard_at = time.monotonic()
                message = orjson.loads(text)
                if isinstance(message, dict):
                    await self._take(message, len(text))
        except ConnectionClosed as closed:
            self._end(_code(closed), closed.rcvd.reason if closed.rcvd else "connection lost")
        except orjson.JSONDecodeError:
            self._end(1007, "the server sent something that is not JSON")

    async def _take(self, message: Message, size: int) -> None:
        number = message.get("reply_to")
        if number is not None:
            waiting = self._waiting.get(str(number))
            if waiting is not None and not waiting.done():
                waiting.set_result(message)
            return
        if message.get("type") == "WEBSOCKET_ERROR":
            data = message.get("data") or {}
            if data.get("code") == "server_restarting":
                hint = (data.get("details") or {}).get("retryAfterMs")
                self._restart_hint = hint / 1000 if isinstance(hint, int | float) else None
        elif message.get("type") == "SESSION_AUTH_REQUIRED":
            self.auth_required.set()
        while self.is_full:
            self._has_room.clear()
            await self._has_room.wait()
        self._pushes.append((message, size))
        self._queued_bytes += size
        self._changed.set()

    async def _ping(self) -> None:
        """Keep the connection busy, and find out when it is dead; a full queue is this side's slowness."""
        while True:
            await asyncio.sleep(self._limits.ping_seconds)
            silence = time.monotonic() - self._heard_at
            if silence > self._limits.silence_seconds and not self.is_full:
                self._end(1006, f"nothing came for {silence:.0f} s")
                self._connection.transport.abort()
                return
            # Without an id: the `pong` has positions, which count in their place among the events.
            await self._send({"type": "ping"})

    def _end(self, code: int, reason: str) -> None:
        if not self._ended.done():
            self._ended.set_result(Closed(code, reason, self._restart_hint))
            self._changed.set()


async def _connect(server_url: str, limits: SocketLimits) -> ClientConnection:
    try:
        return await connect(
            socket_url(server_url),
            open_timeout=limits.open_seconds,
            close_timeout=2,
            # Own `ping` messages and the server's pings keep the line alive; the library's check would
            # take a consumer that is slow for a server that is dead.
            ping_interval=None,
            max_size=MAX_MESSAGE_BYTES,
            compression=None,
            proxy=None if is_loopback(server_url) else True,
            user_agent_header="windflow-client",
        )
    except InvalidStatus as error:
        status = error.response.status_code
        raise ServerUnreachable(server_url, f"the WebSocket endpoint answered HTTP {status}") from error
    except (OSError, TimeoutError, InvalidHandshake, InvalidURI) as error:
        raise ServerUnreachable(server_url, str(error) or "no answer in time") from error


def _reply_data(message: Message) -> Message:
    data = message.get("data")
    content: Message = data if isinstance(data, dict) else {}
    if message.get("type") == "WEBSOCKET_ERROR":
        raise ApiError(
            str(content.get("code", "unknown")), str(content.get("message", "")), details=content.get("details")
        )
    return content


def _code(closed: ConnectionClosed) -> int:
    return closed.rcvd.code if closed.rcvd is not None else 1006
