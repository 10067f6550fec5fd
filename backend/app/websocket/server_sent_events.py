"""Messages as server-sent events, and the id from which a client goes on. Pure.

The id of an event is where the client is once it has it: the positions of its streams and the next line of a log
that it follows, as JSON in base64url. It is derived from the messages themselves, which are those of the socket.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from json import JSONDecodeError
from typing import Any

import orjson

from backend.app.realtime.event_log import Position
from backend.app.realtime.marks import LOG_PREFIX, LOGS_UPDATE, log_source
from backend.app.realtime.resume import read_positions
from backend.app.schemas.errors import ErrorCode, WindFlowError, field_error
from backend.app.schemas.json_codec import parse_json
from backend.app.schemas.websocket_events import WebSocketEventType

HEADER = "Last-Event-ID"
HEARTBEAT = b": heartbeat\n\n"

_LOST = "position_lost"
_TELL_POSITIONS = frozenset(
    {WebSocketEventType.AUTH_LOGIN_SUCCESS.value, "positions", "catching_up", "caught_up", _LOST}
)
"""The messages whose positions are the client's own."""
_JSON_DEPTH = 4
_LARGEST_LINE = 2**63 - 1


@dataclass(frozen=True, slots=True)
class LastEvent:
    """What a client's `Last-Event-ID` says."""

    positions: Mapping[str, Position] | None = None
    """Where it was in each stream; None: it begins anew."""
    lines: Mapping[str, int] = field(default_factory=dict)
    """The next line of each log that it followed, by deployment."""


def read_last_event_id(text: str | None) -> LastEvent:
    """Return what an id says; raise `invalid_payload` naming the header for one that no event had."""
    if not text:
        return LastEvent()
    try:
        padded = text + "=" * (-len(text) % 4)
        data = parse_json(base64.b64decode(padded, altchars=b"-_", validate=True).decode(), _JSON_DEPTH)
    except (binascii.Error, JSONDecodeError, ValueError) as error:
        raise _malformed("not an id of this server's events") from error
    if not isinstance(data, dict):
        raise _malformed("not an id of this server's events")
    lines = {}
    for source in [source for source in data if source.startswith(LOG_PREFIX)]:
        match data.pop(source):
            case {"line": int(line)} if 1 <= line <= _LARGEST_LINE:
                lines[source.removeprefix(LOG_PREFIX)] = line
            case _:
                raise _malformed(f"{source}: a line is a number from 1 on")
    try:
        return LastEvent(read_positions(data, HEADER), lines)
    except WindFlowError as error:
        raise WindFlowError(ErrorCode.INVALID_PAYLOAD, error.message, fields=error.fields) from error


def _malformed(rule: str) -> WindFlowError:
    return field_error(ErrorCode.INVALID_PAYLOAD, HEADER, rule)


class EventStreamFormat:
    """Turns the messages of one connection into events, each with the id to go on from."""

    __slots__ = ("_followed", "_id", "_place")

    def __init__(self, followed: str | None = None, next_line: int | None = None) -> None:
        self._followed = followed
        """The deployment whose log is followed, from `next_line` on."""
        self._place: dict[str, dict[str, Any]] = {}
        if followed is not None and next_line is not None:
            self._place[log_source(followed)] = {"line": next_line}
        self._id: bytes | None = None

    def event(self, text: str) -> bytes:
        """Return a message, which is JSON without line ends, as one event. Raises nothing: plugins send any object."""
        message = orjson.loads(text)
        kind, data = message.get("type"), message.get("data")
        if not isinstance(kind, str):
            kind = "message"  # what a browser calls an event without a name
        if isinstance(data, dict):
            self._note(kind, data, message)
        lines = [b"id: " + self._last_id(), b"event: " + _one_line(kind)]
        if (retry := _retry_of(kind, data)) is not None:
            lines.append(b"retry: %d" % retry)
        lines.append(b"data: " + text.encode())
        return b"\n".join(lines) + b"\n\n"

    def _note(self, kind: str, data: Mapping[str, Any], message: Mapping[str, Any]) -> None:
        match message, data:
            case {"id": str(), "stream": str(stream), "offset": int(offset)}, _:
                if stream in self._place:
                    self._advance(stream, {**self._place[stream], "offset": offset})
            case _, {"deploymentId": str(deployment_id), "firstLine": int(first), "logs": list(logs)}:
                if kind == LOGS_UPDATE and deployment_id == self._followed:
                    self._advance(log_source(deployment_id), {"line": first + len(logs)})
            case _, {"positions": dict(positions)} if kind in _TELL_POSITIONS:
                if kind == _LOST:
                    # What is lost begins anew, wherever that is.
                    self._place.pop(str(data.get("stream")), None)
                    self._id = None
                for source, position in positions.items():
                    self._advance(source, position)

    def _advance(self, source: str, position: object) -> None:
        known = self._place.get(source, {})
        match position:
            case {"epoch": str(epoch), "offset": int(offset)}:
                # Within an epoch it was true when the message was made; events before it may have said more.
                if known.get("epoch") == epoch and offset <= known["offset"]:
                    return
                self._place[source] = {"epoch": epoch, "offset": offset}
            case {"line": int(line)} if line > known.get("line", 0):
                self._place[source] = {"line": line}
            case _:
                return
        self._id = None

    def _last_id(self) -> bytes:
        if self._id is None:
            self._id = base64.urlsafe_b64encode(orjson.dumps(self._place)).rstrip(b"=")
        return self._id


def _retry_of(kind: str, data: object) -> int | None:
    """Return when a stopping server wants its clients back, in milliseconds."""
    match data:
        case {"code": ErrorCode.SERVER_RESTARTING.value, "details": {"retryAfterMs": int(milliseconds)}}:
            return milliseconds if kind == WebSocketEventType.WEBSOCKET_ERROR else None
    return None


def _one_line(kind: str) -> bytes:
    """Return a type as a field of one line: a plugin's message may be called anything."""
    return " ".join(kind.split()).encode()
