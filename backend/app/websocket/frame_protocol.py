"""uvicorn's WebSocket protocol with what no ASGI server gives: prepared frames, bounded writes, an end that comes.

`windflow serve` hands the class that `frame_protocol` returns to uvicorn; the protocol puts itself into
`scope["extensions"]["windflow.frames"]` as the connection's outlet. Invariants: what a client sends
cannot make it work for long (fragments, size, pings are capped), and a client that takes nothing or
answers nothing is freed: after the application ended, the transport is aborted within a bounded time.
"""

import asyncio
import logging
import socket
import time
from asyncio.transports import BaseTransport
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, ClassVar

from uvicorn._types import ASGISendEvent
from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.exceptions import InvalidState, PayloadTooBig, ProtocolError
from websockets.frames import CloseCode as Rfc6455
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import Protocol
from websockets.server import ServerProtocol

from backend.app.config import Settings
from backend.app.realtime.connection import Connection
from backend.app.schemas.messages import CloseCode
from backend.app.websocket.heartbeat import Heartbeat
from backend.app.websocket.inbox import Gate, Inbox
from backend.app.websocket.kernel_queue import unconfirmed_bytes
from backend.app.websocket.rate import TokenBucket
from backend.app.websocket.turns import Turns

EXTENSION = "windflow.frames"
"""Where the endpoint finds the outlet in the ASGI scope."""

_READ_AHEAD = 1
"""Messages that may wait for the application before reading pauses: pausing for every single one costs more than it."""

# What uvicorn and websockets say of each connection at INFO (with its address, query string included) says nothing
# that our own metrics and logs do not.
_quiet = logging.getLogger("windflow.socket.protocol")
_quiet.setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True)
class SocketLimits:
    """What one socket may cost. One object for all."""

    max_message_bytes: int
    max_fragments: int
    control_frames_per_minute: int
    control_frames_burst: int
    send_buffer_bytes: int
    high_water_bytes: int
    close_seconds: float

    @classmethod
    def of(cls, settings: Settings) -> "SocketLimits":
        """Return the limits that the settings say."""
        return cls(
            settings.max_message_bytes,
            settings.max_fragments,
            settings.control_frames_per_minute,
            settings.control_frames_burst,
            settings.socket_send_buffer_bytes,
            settings.socket_high_water_bytes,
            settings.close_timeout_seconds,
        )


class _TooManyFragments(PayloadTooBig):
    """Ends the parser as an oversized frame does: with close code 1009."""

    def __init__(self, limit: int) -> None:
        super().__init__(None, limit)

    def __str__(self) -> str:
        return f"a message has at most {self.max_size} fragments"


class _CappedParser(ServerProtocol):
    """Counts fragments, pings and pongs while it parses: two million in a few reads would block everyone for seconds.

    Begins after the handshake: the HTTP half has parsed the request, and the library's own parser would hold it for
    the life of the connection.
    """

    # Slots beside the dict of the base class: with more than thirty names in it, CPython gives every object keys of
    # its own instead of sharing them, which costs each connection more than a kilobyte.
    __slots__ = ("_control_frames", "_fragments", "_is_flooded", "_max_fragments")

    def __init__(self, limits: SocketLimits) -> None:
        super().__init__(max_size=limits.max_message_bytes, logger=_quiet)
        self._max_fragments = limits.max_fragments
        self._fragments = 0
        self._control_frames = TokenBucket(
            limits.control_frames_per_minute, limits.control_frames_burst, time.monotonic
        )
        self._is_flooded = False

    def parse(self) -> Generator[None]:
        yield from Protocol.parse(self)

    def recv_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CONT:
            self._fragments += 1
            if self._fragments > self._max_fragments:
                raise _TooManyFragments(self._max_fragments)
        elif frame.opcode in (Opcode.TEXT, Opcode.BINARY):
            self._fragments = 1
        elif frame.opcode is not Opcode.CLOSE and not self._control_frames.take():
            self._is_flooded = True
            raise ProtocolError("too many pings and pongs")
        super().recv_frame(frame)

    def fail(self, code: int, reason: str = "") -> None:
        """Close with the code of what went wrong; a flood breaks our rule and not one of RFC 6455."""
        super().fail(CloseCode.RATE_LIMITED if self._is_flooded else code, reason)


class FrameProtocol(WebSocketsSansIOProtocol):
    """One socket. Also the `Outlet` of its connection."""

    limits: ClassVar[SocketLimits]
    first_messages: ClassVar[Turns]
    """The first message is what costs: who is this, may they, and everything that a connection needs."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.logger = _quiet
        self.conn = _CappedParser(self.limits)
        self.queue: Inbox[Any]  # type: ignore[assignment]
        self.queue = Inbox()
        self.writable: Gate = Gate()  # type: ignore[assignment]
        self.writable.set()
        self.is_paused = False
        self.on_resume: Callable[[], None] | None = None
        self.written_bytes = 0
        """All bytes of prepared frames that were given to the transport."""
        self._has_spoken = False
        """Set with the client's first message."""
        self._is_abort_due = False
        """Set once the end is certain: uvicorn's own timer only closes, which waits for a client that reads nothing."""
        self.received_at = time.monotonic()
        """When the client last sent anything (monotonic seconds)."""

    # ---- the outlet -------------------------------------------------------------------------------------

    def write(self, frames: bytes) -> None:
        """Give prepared frames to the transport; no-op once the socket is closing."""
        if self.close_sent or self.disconnected:
            return
        self.written_bytes += len(frames)
        self.transport.write(frames)

    def buffered_bytes(self) -> int:
        """Return how many bytes the kernel has not taken yet."""
        return 0 if self.disconnected else self.transport.get_write_buffer_size()

    def taken_bytes(self) -> int:
        """Return how many of the written bytes the client's side has confirmed, or with nothing waiting all of them."""
        waiting = self.buffered_bytes()
        return self.written_bytes - waiting - unconfirmed_bytes(self.transport) if waiting else self.written_bytes

    def ping(self) -> None:
        """Send a ping frame; whatever the client sends afterwards is its answer."""
        if not self.close_sent and not self.disconnected:
            self.conn.send_ping(b"")
            self._send_output()

    def close(self, code: int, reason: str, within_seconds: float) -> None:
        """Send the close frame and end the application's receiving; abort what is not closed in time."""
        if self.close_sent or self.disconnected or not self.handshake_complete:
            return
        try:
            self.conn.send_close(code, reason)
        except InvalidState:  # the client's own close frame came first
            return
        self._send_output()
        self.close_sent = True
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self._resume_reading()
        self._abort_after(within_seconds)

    def abort(self) -> None:
        """End the socket now; what was not sent is lost."""
        if not self.disconnected:
            self.transport.abort()

    def watched_by(self, heartbeat: Heartbeat, connection: Connection) -> Callable[[], None]:
        """Have the heartbeat watch this socket; return the undo."""
        return heartbeat.watch(connection, self)

    async def stop(self) -> None:
        """Nothing: the protocol runs no task of its own."""

    # ---- asyncio's side ------------------------------------------------------------------------------------

    def connection_made(self, transport: BaseTransport) -> None:
        """Bound what the kernel and the transport hold for this client: the budget is ours, not theirs."""
        super().connection_made(transport)
        raw = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.limits.send_buffer_bytes)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                # To the kernel a slow reader is dead that never has room for a whole segment.
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)
        self.transport.set_write_buffer_limits(high=self.limits.high_water_bytes)

    def data_received(self, data: bytes) -> None:
        self.received_at = time.monotonic()
        super().data_received(data)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.is_paused = True

    def resume_writing(self) -> None:
        super().resume_writing()
        self.is_paused = False
        if self.on_resume is not None:
            self.on_resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self.on_resume = None
        super().connection_lost(exc)

    # ---- uvicorn's side ------------------------------------------------------------------------------------

    def start_keepalive(self) -> None:
        """Nothing: `heartbeat.py` pings, and tells a slow reader from a dead one. Called when the handshake is done."""
        # The request and its answer are a third of an idle connection's memory, and nobody asks for them any more.
        del self.request, self.response

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        scope = getattr(self, "scope", None)
        if scope is not None:
            scope["extensions"][EXTENSION] = self

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if self.close_sent and self.initial_response is not None:
            # uvicorn takes an HTTP answer in place of the upgrade for no answer at all, and logs that as an ERROR.
            self.handshake_complete = True

    def handle_close(self, event: Frame) -> None:
        """Answer the client's close frame; a client that does not read the answer is not waited for."""
        super().handle_close(event)
        if not self.disconnected:
            self._abort_after(self.limits.close_seconds)

    def handle_ping(self) -> None:
        """Answer a ping, unless the client takes nothing: pongs it does not read must not pile up."""
        output = self.conn.data_to_send()
        if not self.is_paused:
            self.transport.write(b"".join(output))

    def send_receive_event_to_app(self) -> None:
        """Give a whole message to the application; text that is not UTF-8 ends the connection with 1007.

        Reading pauses while messages wait: what a client sends faster than it is served waits in the kernel.
        """
        data, self.frames = b"".join(self.frames), []
        if self.close_sent:
            return
        if self.curr_msg_data_type == "text":
            try:
                message: dict[str, Any] = {"type": "websocket.receive", "text": data.decode()}
            except UnicodeDecodeError:
                self.conn.fail(Rfc6455.INVALID_DATA, "text must be UTF-8")
                self.handle_parser_exception()
                return
        else:
            message = {"type": "websocket.receive", "bytes": data}
        if not self._has_spoken:
            self._has_spoken = True
            self.queue.hold()
            self.first_messages.run(self.queue.release)
        self.queue.put_nowait(message)
        if not self.read_paused and len(self.queue) > _READ_AHEAD:
            self.read_paused = True
            self.transport.pause_reading()

    def on_task_complete(self, task: "asyncio.Task[None]") -> None:
        """The application is done with this socket: it is gone within a bounded time, whatever the client does."""
        super().on_task_complete(task)
        if not self.disconnected and not self._is_abort_due:
            self._abort_after(self.limits.close_seconds)

    def shutdown(self) -> None:
        """Close at once, for a server that ends without a drain; abort what does not close."""
        super().shutdown()
        if not self.disconnected and not self._is_abort_due:
            self._abort_after(self.limits.close_seconds)

    def _send_output(self) -> None:
        self.transport.write(b"".join(self.conn.data_to_send()))

    def _resume_reading(self) -> None:
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()

    def _abort_after(self, seconds: float) -> None:
        if self.close_timer is not None:
            self.close_timer.cancel()
        self._is_abort_due = True
        self.close_timer = self.loop.call_later(seconds, self.abort)


def frame_protocol(settings: Settings) -> type[FrameProtocol]:
    """Return the class for uvicorn's `ws=`, with the limits of these settings."""
    of_this_server = {"limits": SocketLimits.of(settings), "first_messages": Turns(settings.handshakes_per_turn)}
    return type("FrameProtocol", (FrameProtocol,), of_this_server)
