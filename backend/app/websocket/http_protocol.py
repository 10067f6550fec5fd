"""The HTTP half of each connection: uvicorn's protocol, with an end to everything that a client can leave undone.

Given to uvicorn by `windflow serve` as its `http=` class. Invariant: a head, a body and the reading of an
answer have their time, a head has its size, and a connection that cannot go on is answered and closed, also
when it asks for an upgrade that the WebSocket protocol cannot read.
"""

import asyncio
import json
from collections.abc import Callable
from enum import Enum
from functools import partial
from http import HTTPStatus
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from websockets.datastructures import Headers
from websockets.http11 import Request

from backend.app import metrics
from backend.app.config import Settings
from backend.app.schemas.errors import ErrorCode
from backend.app.websocket.kernel_queue import unconfirmed_bytes
from backend.app.websocket.turns import Turns

_LINGER_SECONDS = 1.0
"""How long a refused connection is kept for its client to read why: closing at once could take the answer back."""
_UPGRADE = b"websocket"
"""In the head of each handshake. Looked for before anything is parsed: parsing is a third of what one costs."""
_WAITED_SECONDS = 1.0
"""Who has sent no head for so long gives way when there is no room: who wants something says it at once."""


ABORT = "windflow.abort"
"""In the `extensions` of a request's scope: ends the client's connection, for answers that have no end of their own."""


class _Phase(Enum):
    """What is waited for; while the application works on an answer, nothing."""

    HEAD = "head"
    IDLE = "idle"
    """For another request, or for the end; uvicorn's own timer ends it."""
    BODY = "body"
    OVER = "over"
    """Nothing any more: refused, upgraded or lost."""


class _Parser(h11.Connection):
    """h11's parser, which also bounds the number of headers, and remembers the status that an error deserves."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=settings.http_header_bytes)
        self._settings = settings
        self.refusal = HTTPStatus.BAD_REQUEST

    def next_event(self) -> Any:
        """Return what comes next; raise RemoteProtocolError for what is refused."""
        try:
            event = super().next_event()
            if isinstance(event, h11.Request):
                self._check(event)
        except h11.RemoteProtocolError as error:
            self.refusal = HTTPStatus(error.error_status_hint)
            raise
        return event

    def _check(self, request: h11.Request) -> None:
        """Refuse a head that came in one piece, and so was not stopped while it grew."""
        size = len(request.target) + sum(len(name) + len(value) + 4 for name, value in request.headers)
        if len(request.headers) > self._settings.http_max_headers or size > self._settings.http_header_bytes:
            status = int(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            raise h11.RemoteProtocolError("too many headers", error_status_hint=status)


class HttpProtocol(H11Protocol):
    """One HTTP connection. Made by uvicorn; `http_protocol` makes the class that has settings."""

    settings: ClassVar[Settings]
    waiting: ClassVar[dict["HttpProtocol", float]]
    """The connections that have sent no head yet, and since when; the oldest first."""

    handshakes: ClassVar[Turns]
    """Handshakes wait for one another: requests overtake them."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.app = partial(_with_abort, self.app, self._abort)
        self.conn = self._parser = _Parser(self.settings)
        self._phase: _Phase | None = None
        self._phase_since = 0.0
        self._heard_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    # ---- what the transport calls --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, where there is room for it; else end the one that has waited longest, or this one."""
        super().connection_made(transport)
        if len(self.connections) > self.settings.max_tcp_connections:
            oldest = next(iter(self.waiting), None)
            has_waited = oldest is not None and self.loop.time() - self.waiting[oldest] > _WAITED_SECONDS
            (oldest if has_waited and oldest is not None else self)._cut("no room")
        self._enter(_Phase.HEAD)

    def data_received(self, data: bytes) -> None:
        """Take bytes of the client; what comes after a refusal is thrown away."""
        if self._phase is _Phase.OVER:
            return
        is_first, self._heard_at = not self._heard_at, self.loop.time()
        if not is_first or _UPGRADE not in data.lower():
            self._take(data)
        elif self.handshakes.is_room():
            self.handshakes.run(partial(self._take, data))
        else:
            # The client has done its part: while it waits, neither its time runs nor does more of it pile up.
            self._enter(None)
            self.transport.pause_reading()
            self.handshakes.run(partial(self._take_turn, data))

    def _take(self, data: bytes) -> None:
        super().data_received(data)
        self._look(_Phase.HEAD)

    def _take_turn(self, data: bytes) -> None:
        """Go on with a handshake that waited, unless its client or the server has given up meanwhile."""
        if self._phase is not _Phase.OVER and not self.transport.is_closing():
            self.transport.resume_reading()
            self._take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._enter(_Phase.OVER)
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Stop the application: the client does not read its answer; end it if that goes on."""
        super().pause_writing()
        self._watch_stall(None)

    def resume_writing(self) -> None:
        """Let the application go on."""
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        super().resume_writing()

    # ---- what uvicorn calls --------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._look(_Phase.IDLE)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, or too much of it. uvicorn's way fails for HEAD, and once an answer has begun."""
        status = self._parser.refusal
        is_too_large = status is HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        metrics.HTTP_CUT.labels("head too large" if is_too_large else "invalid").inc()
        self._refuse(status, _too_large(self.settings) if is_too_large else msg)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Hand the connection and its request over, parsed as it is; refuse one with a body: a handshake has none."""
        self._enter(_Phase.OVER)
        self.connections.discard(self)
        headers = Headers([(name.decode("ascii"), value.decode("latin-1")) for name, value in event.headers])
        if "Transfer-Encoding" in headers or not set(headers.get_all("Content-Length")) <= {"0"}:
            metrics.HTTP_CUT.labels("invalid").inc()
            self._refuse(HTTPStatus.BAD_REQUEST, "the upgrade request is not valid")
            return
        successor: Any = self.ws_protocol_class(  # type: ignore[call-arg, misc]
            config=self.config, server_state=self.server_state, app_state=self.app_state
        )
        successor.connection_made(self.transport)
        successor.handle_connect(Request(event.target.decode("ascii"), headers, event.method.decode("ascii")))
        self.transport.set_protocol(successor)

    def shutdown(self) -> None:
        """Close when the running request is answered, or now; in whatever state the connection is."""
        try:
            super().shutdown()
        except h11.LocalProtocolError:
            self.transport.abort()

    # ---- time ------------------------------------------------------------------------------------------------

    def _look(self, if_idle: _Phase) -> None:
        """Find out what is waited for now."""
        if self._phase is _Phase.OVER or self.transport.is_closing():
            return
        state = self.conn.their_state
        self._enter(if_idle if state is h11.IDLE else _Phase.BODY if state is h11.SEND_BODY else None)

    def _enter(self, phase: _Phase | None) -> None:
        """Begin a phase and its time, unless it is in that phase already."""
        if phase is self._phase or self._phase is _Phase.OVER:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._phase, self._phase_since = phase, self.loop.time()
        self.waiting.pop(self, None)
        if phase in (_Phase.HEAD, _Phase.IDLE):
            self.waiting[self] = self._phase_since
        if phase is _Phase.HEAD:
            self._timer = self.loop.call_later(self.settings.http_header_timeout_seconds, self._head_is_late)
        elif phase is _Phase.BODY:
            self._timer = self.loop.call_later(self.settings.http_body_stall_seconds, self._look_at_body)

    def _head_is_late(self) -> None:
        metrics.HTTP_CUT.labels("head timeout").inc()
        if self._parser.trailing_data[0]:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "the head of the request did not come in time")
        else:
            self.transport.abort()

    def _look_at_body(self) -> None:
        """End a body that stalls, or takes too long in all; not one that the application does not take."""
        now, settings = self.loop.time(), self.settings
        stalls_at = (now if self.flow.read_paused else self._heard_at) + settings.http_body_stall_seconds
        left = min(stalls_at, self._phase_since + settings.http_body_timeout_seconds) - now
        if left > 0:
            self._timer = self.loop.call_later(left, self._look_at_body)
            return
        metrics.HTTP_CUT.labels("body timeout").inc()
        self._refuse(HTTPStatus.REQUEST_TIMEOUT, "the body of the request did not come in time")

    def _watch_stall(self, before: int | None) -> None:
        """End the connection when not one byte of the answer was taken since the last look."""
        size = self.transport.get_write_buffer_size() + unconfirmed_bytes(self.transport)
        if before is not None and size >= before:
            self._cut("answer not taken")
            return
        self._stall_timer = self.loop.call_later(self.settings.http_response_stall_seconds, self._watch_stall, size)

    # ---- the end ---------------------------------------------------------------------------------------------

    def _abort(self) -> None:
        self.transport.abort()

    def _cut(self, reason: str) -> None:
        metrics.HTTP_CUT.labels(reason).inc()
        self.transport.abort()

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        """Answer, if no answer has begun, and close; the running application is told that its client is gone."""
        self._unset_keepalive_if_required()
        self._enter(_Phase.OVER)
        has_begun = False
        if self.cycle is not None and not self.cycle.response_complete:
            has_begun = self.cycle.response_started
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if has_begun or self.transport.is_closing():
            self.transport.abort()
            return
        self.transport.write(_answer(status, message))
        self.transport.write_eof()
        self.loop.call_later(_LINGER_SECONDS, self.transport.abort)


async def _with_abort(app: Any, abort: Callable[[], None], scope: Any, receive: Any, send: Any) -> None:
    """Serve a request whose application can end the connection."""
    scope.setdefault("extensions", {})[ABORT] = abort
    await app(scope, receive, send)


def http_protocol(settings: Settings) -> type[HttpProtocol]:
    """Return the class for one server."""
    of_this_server = {"settings": settings, "waiting": {}, "handshakes": Turns(settings.handshakes_per_turn)}
    return type("ServerHttpProtocol", (HttpProtocol,), of_this_server)


def _too_large(settings: Settings) -> str:
    return f"a request has at most {settings.http_max_headers} headers and {settings.http_header_bytes} bytes of them"


def _answer(status: HTTPStatus, message: str) -> bytes:
    """Return a whole answer, in the shape of all errors."""
    code = ErrorCode.MESSAGE_TOO_LARGE if status.value == 431 else ErrorCode.INVALID_MESSAGE
    body = json.dumps({"code": code.value, "message": message, "details": None, "requestId": None}).encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
