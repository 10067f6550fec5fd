"""Judges the positions that a client comes back with. Pure.

They are judged against `event_streams`, not against what this node has handed on (R3): a node that lags
would call a position lost that is only ahead of it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from backend.app.realtime.event_log import Position, Standing
from backend.app.schemas.errors import ErrorCode, field_error, refused

_MOST_STREAMS = 256
_LARGEST_OFFSET = 2**63 - 1


class LostReason(StrEnum):
    """Why a position cannot be continued from."""

    EXPIRED = "expired"
    """Retention has removed what comes next."""
    EPOCH = "epoch"
    """The stream began anew, for example by a restored backup."""
    FUTURE = "future"
    """The stream is not that far."""
    UNKNOWN = "unknown"
    """This client follows no such stream."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A position that cannot be continued from."""

    stream: str
    reason: LostReason
    position: Mapping[str, Any]
    """The position, as it crosses the wire."""


class _PositionData(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    epoch: str = Field(max_length=64)
    offset: int = Field(ge=0, le=_LARGEST_OFFSET)


_POSITIONS = TypeAdapter(dict[str, _PositionData])


def read_positions(data: object, field: str = "positions") -> dict[str, Position]:
    """Return the positions that a client sent; raise `invalid_message` naming field and rule."""
    try:
        given = _POSITIONS.validate_python(data)
    except ValidationError as error:
        raise refused(ErrorCode.INVALID_MESSAGE, error, inside=field) from error
    if len(given) > _MOST_STREAMS:
        raise field_error(ErrorCode.INVALID_MESSAGE, field, f"at most {_MOST_STREAMS} streams")
    return {stream: Position(position.epoch, position.offset) for stream, position in given.items()}


def judge(
    given: Mapping[str, Position], standing: Mapping[str, Standing], followed: Collection[str]
) -> tuple[dict[str, int], list[Lost]]:
    """Return the offset to continue after for each stream where that is possible, and what is lost."""
    cursors: dict[str, int] = {}
    lost: list[Lost] = []
    for stream, position in given.items():
        reason = why_lost(position, standing.get(stream) if stream in followed else None)
        if reason is None:
            cursors[stream] = position.offset
        else:
            lost.append(Lost(stream, reason, position.wire()))
    return cursors, lost


class Stands(Protocol):
    """Where a stream stands: of the database, or of a page that was read."""

    @property
    def epoch(self) -> str: ...
    @property
    def floor(self) -> int: ...
    @property
    def head(self) -> int: ...


def why_lost(position: Position, stream: Stands | None) -> LostReason | None:
    """Return why a position cannot be continued from; None if it can, `stream` None if there is none to follow."""
    if stream is None:
        return LostReason.UNKNOWN
    if position.epoch != stream.epoch:
        return LostReason.EPOCH
    if position.offset > stream.head:
        return LostReason.FUTURE
    return LostReason.EXPIRED if position.offset < stream.floor else None
