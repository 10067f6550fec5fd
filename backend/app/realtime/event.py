"""An event on its way: checked and encoded once, before it enters the log.

`new_event` is the only way to make one; it refuses what cannot be encoded, so that nothing
can poison a reader or a replay later. The closing step of a unit of work numbers it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson
from pydantic import ValidationError

from backend.app.auth.permissions import Principal
from backend.app.models.columns import new_id, now
from backend.app.realtime.frames import text_frame
from backend.app.realtime.marks import TRANSIENT, Mark, latest_source, log_source
from backend.app.schemas.errors import ErrorCode, WindFlowError, field_error, refused
from backend.app.schemas.event_spec import Delivery, EventSpec, Payload
from backend.app.schemas.times import wire_time

SYSTEM_STREAM = "system"


def stream_of(organization_id: str | None) -> str:
    """Return the name of an organization's stream; `system` for what belongs to every one."""
    return SYSTEM_STREAM if organization_id is None else f"org:{organization_id}"


def organization_of(stream: str) -> str | None:
    """Return the organization whose stream this is; None for `system`."""
    return None if stream == SYSTEM_STREAM else stream.removeprefix("org:")


@dataclass(slots=True, eq=False)
class Event:
    """One event. `offset`, `epoch` and `version` are set by the closing step, nothing else changes."""

    id: str
    spec: EventSpec
    organization_id: str | None
    """The tenant; None: every organization (the system only)."""
    payload: dict[str, Any]
    """In wire spelling."""
    encoded: bytes
    """The payload as JSON."""
    created_at: datetime
    subject: str | None = None
    user_id: str | None = None
    """The one user it is for; None: everyone of the organization who may see it."""
    session_id: str | None = None
    """The one session it is for."""
    connection_id: str | None = None
    """The connection it was born on; plugins handle it with that connection's copy."""
    actor: Principal | None = None
    """Who caused it; None: the system."""
    hop: int = 0
    traceparent: str | None = None
    offset: int | None = None
    """Number in its stream, from the commit on; only for class *stream*."""
    epoch: str | None = None
    version: int | None = None
    """Number of the value, only for class *latest*."""
    node: str | None = None
    """The node it was born on; None: this one."""
    _frame: bytes | None = field(default=None, repr=False)
    _mark: Mark | None = field(default=None, repr=False)

    @property
    def stream(self) -> str:
        """The name of its stream."""
        return stream_of(self.organization_id)

    @property
    def mark(self) -> Mark:
        """Where it can be read again, from the commit on; made once, the same object for every connection."""
        if self._mark is None:
            self._mark = self._find_mark()
        return self._mark

    def _find_mark(self) -> Mark:
        delivery = self.spec.delivery
        if delivery is Delivery.STREAM and self.offset is not None:
            return Mark(delivery, self.stream, self.offset)
        if delivery is Delivery.LATEST and self.version is not None:
            return Mark(delivery, latest_source(self.stream, self.spec.name, self.subject or ""), self.version)
        if delivery is Delivery.LOG and self.subject is not None and "firstLine" in self.payload:
            return Mark(delivery, log_source(self.subject), self.payload["firstLine"])
        return TRANSIENT

    def frame(self) -> bytes:
        """Return the push message as a prepared frame; made once, the same bytes for every connection."""
        if self._frame is None:
            moment = wire_time(self.created_at)
            self._frame = event_frame(self.spec.name, self.encoded.decode(), moment, self.id, self.stream, self.offset)
        return self._frame


def event_frame(
    kind: str,
    payload: str,
    timestamp: str,
    event_id: str | None = None,
    stream: str | None = None,
    offset: int | None = None,
) -> bytes:
    """Return an event's push message as a prepared frame.

    `payload` is JSON, `timestamp` is spelled as it crosses the wire; the stream counts only with an offset.
    """
    identity = f',"id":"{event_id}"' if event_id is not None else ""
    place = f',"stream":"{stream}","offset":{offset}' if offset is not None else ""
    return text_frame(f'{{"type":"{kind}","data":{payload},"timestamp":"{timestamp}"{identity}{place}}}'.encode())


def new_event(
    spec: EventSpec,
    organization_id: str | None,
    payload: Payload | Mapping[str, Any],
    *,
    actor: Principal | None = None,
    user_id: str | None = None,
    session_id: str | None = None,
    connection_id: str | None = None,
    hop: int = 0,
) -> Event:
    """Make an event of a checked payload; raise `invalid_payload` naming field and rule."""
    checked = payload if isinstance(payload, Payload) else check_payload(spec, payload)
    try:
        wire = checked.wire()
        encoded = orjson.dumps(wire)
    except (orjson.JSONEncodeError, ValueError) as error:  # ValueError: what pydantic cannot serialize
        raise WindFlowError(ErrorCode.INVALID_PAYLOAD, f"data: cannot be encoded as JSON: {error}") from error
    subject = wire.get(spec.subject_field) if spec.subject_field else None
    if spec.delivery is Delivery.LATEST and subject is None:
        raise field_error(ErrorCode.INVALID_PAYLOAD, f"data.{spec.subject_field}", "needed to keep the latest value")
    if subject is not None and not (isinstance(subject, str) and len(subject) <= 64 and "\0" not in subject):
        # The column and the topic key hold no more; checked here, where it can still be refused.
        raise field_error(ErrorCode.INVALID_PAYLOAD, f"data.{spec.subject_field}", "at most 64 characters, no NUL")
    return Event(
        id=new_id(),
        spec=spec,
        organization_id=organization_id,
        payload=wire,
        encoded=encoded,
        created_at=now(),
        subject=subject,
        user_id=user_id,
        session_id=session_id,
        connection_id=connection_id,
        actor=actor,
        hop=hop,
    )


def check_payload(spec: EventSpec, data: Mapping[str, Any]) -> Payload:
    """Return the payload model of some data; raise `invalid_payload` naming every field and rule."""
    try:
        return spec.payload.model_validate(data)
    except ValidationError as error:
        raise refused(ErrorCode.INVALID_PAYLOAD, error, inside="data", about=spec.name) from error
