"""The event log: where streams stand, and reading on from an offset.

`event_append.py` writes it: commit order equals offset order, so `offset > last` can never skip
a late commit.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import orjson
from sqlalchemy import (
    ColumnElement,
    Connection,
    LargeBinary,
    Row,
    Select,
    String,
    and_,
    bindparam,
    cast,
    func,
    or_,
    select,
    type_coerce,
)
from sqlalchemy.ext.asyncio import AsyncSession

from backend.app.models import Deployment
from backend.app.models.columns import new_id, now
from backend.app.models.event_record import EventRecord, EventStream, LatestValue
from backend.app.realtime.event import Event, organization_of
from backend.app.realtime.event_append import RAISE_HEAD
from backend.app.schemas.event_spec import Audience, Delivery, EventSpec, Payload


@dataclass(frozen=True, slots=True)
class Position:
    """How far somebody has read a stream."""

    epoch: str
    offset: int

    def wire(self) -> dict[str, Any]:
        """Return it as it crosses the wire."""
        return {"epoch": self.epoch, "offset": self.offset}


PAGE_BYTES = 1_048_576
"""Payload that one page of the log holds at most (bytes of UTF-8), but one event at least."""


class PageRow(NamedTuple):
    """What a push is framed from: one event of the log."""

    offset: int
    id: str
    type: str
    payload: str
    user_id: str | None
    subject: str | None
    timestamp: str
    """When it was made, as it crosses the wire."""


@dataclass(frozen=True, slots=True)
class Page:
    """A stretch of a stream and where the stream stood at that moment: all of it from one snapshot (R4)."""

    epoch: str
    """Empty where there is no such stream."""
    floor: int
    """The highest offset that retention removed: a cursor below it is lost."""
    head: int
    rows: Sequence[PageRow]
    """In order and without a gap. Fewer than asked for do not mean the end: `head` tells it."""


def open_stream(conn: Connection, stream: str) -> None:
    """Make a stream that has no event yet, so that its position is known from the start; no-op if it exists."""
    conn.execute(RAISE_HEAD, {"stream": stream, "epoch": new_id(), "count": 0})


async def positions(session: AsyncSession, streams: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return where streams stand, as it crosses the wire; read it before the rows it covers, or in their snapshot."""
    return {stream: position.wire() for stream, position in (await heads(session, list(streams))).items()}


async def heads(session: AsyncSession, streams: Sequence[str] | None = None) -> dict[str, Position]:
    """Return where streams stand; None means every stream."""
    statement = select(EventStream.stream, EventStream.epoch, EventStream.head)
    found = await session.execute(statement if streams is None else statement.where(EventStream.stream.in_(streams)))
    return {stream: Position(epoch, head) for stream, epoch, head in found}


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a stream stands in the database."""

    epoch: str
    floor: int
    """The highest offset that retention removed; 0: none."""
    head: int


async def standing(session: AsyncSession, streams: Sequence[str]) -> dict[str, Standing]:
    """Return where streams stand; one that does not exist is left out."""
    statement = select(EventStream.stream, EventStream.epoch, EventStream.floor, EventStream.head)
    found = await session.execute(statement.where(EventStream.stream.in_(streams)))
    return {stream: Standing(epoch, floor, head) for stream, epoch, floor, head in found}


async def open_logs(session: AsyncSession, late_seconds: float) -> list[tuple[str, str, int]]:
    """Return id, organization and last line of each deployment whose log may grow: it runs, or ended not long ago."""
    ended_after = now() - timedelta(seconds=late_seconds)
    columns = (Deployment.id, Deployment.organization_id, Deployment.last_line)
    may_grow = or_(Deployment.finished_at.is_(None), Deployment.finished_at > ended_after)
    found = await session.execute(select(*columns).where(may_grow))
    return [(deployment_id, organization_id, last) for deployment_id, organization_id, last in found]


async def latest_since(
    session: AsyncSession, since: datetime, limit: int, catalogue: Mapping[str, EventSpec]
) -> list[Event]:
    """Return the latest values that changed since a moment, of types that are known."""
    rows = await session.execute(select(LatestValue.__table__).where(LatestValue.created_at >= since).limit(limit))
    return [
        Event(
            id=row.id,
            spec=catalogue[row.type],
            organization_id=organization_of(row.stream),
            payload=decode(row.payload),
            encoded=row.payload.encode(),
            created_at=row.created_at,
            subject=row.subject,
            version=row.version,
        )
        for row in rows
        if row.type in catalogue
    ]


async def read_since(session: AsyncSession, stream: str, offset: int, limit: int) -> list[Row[Any]]:
    """Return at most `limit` rows of a stream after an offset, in order."""
    found = await session.execute(
        select(EventRecord.__table__)
        .where(EventRecord.stream == stream, EventRecord.offset > offset)
        .order_by(EventRecord.offset)
        .limit(limit)
    )
    return list(found)


def _page_statement(
    bytes_of: Callable[[Any], ColumnElement[int]], wire_time_of: Callable[[Any], ColumnElement[str]]
) -> Select[Any]:
    """Return the one statement that reads a page: no events if they are too large together.

    Their sizes are added up first, so that what is too large is never held in memory. Times are spelled by
    the database: that costs a fraction of what two conversions of each cost here.
    """
    stream, events = EventStream.__table__.c, EventRecord.__table__.c
    # Offsets have no gap: with both bounds no plan looks at what lies behind the page, whatever the statistics say.
    is_near = events.offset > bindparam("after"), events.offset <= bindparam("after") + bindparam("limit")
    few = (
        select(bytes_of(events.payload).label("size"))
        .where(events.stream == bindparam("stream"), *is_near)
        .order_by(events.offset)
        .limit(bindparam("limit"))
        .subquery()
    )
    total = select(func.sum(few.c.size)).scalar_subquery()
    is_due = and_(
        events.stream == stream.stream,
        *is_near,
        stream.floor <= bindparam("after"),
        total <= bindparam("bytes"),
    )
    return (
        select(
            stream.epoch,
            stream.floor,
            stream.head,
            *(events[name] for name in PageRow._fields if name in events),
            wire_time_of(events.created_at),
        )
        .outerjoin_from(EventStream.__table__, EventRecord.__table__, is_due)
        .where(stream.stream == bindparam("stream"))
        .order_by(events.offset)
        .limit(bindparam("limit"))
    )


_PAGES = {
    # SQLite has a function for the bytes of a text only in newer versions.
    "sqlite": _page_statement(
        lambda payload: func.length(cast(payload, LargeBinary)),
        lambda moment: func.strftime("%Y-%m-%dT%H:%M:%fZ", type_coerce(moment, String)),
    ),
    "postgresql": _page_statement(
        func.octet_length,
        lambda moment: func.to_char(func.timezone("UTC", moment), 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
    ),
}
_NO_LIMIT = 2**62


async def read_page(
    session: AsyncSession, stream: str, offset: int, limit: int, *, max_bytes: int = PAGE_BYTES
) -> Page:
    """Return the events after an offset, in order, with epoch, floor and head of that very moment.

    At most `limit` events whose payloads together take at most `max_bytes`; one that is larger comes alone.
    An offset below the floor gets no events: the first ones are gone, and there is no partial answer. A
    stream that does not exist has an empty epoch.
    """
    connection = await session.connection()
    statement = _PAGES[connection.dialect.name]
    while True:
        most = max_bytes if limit > 1 else _NO_LIMIT
        found = await connection.execute(statement, {"stream": stream, "after": offset, "limit": limit, "bytes": most})
        rows = found.all()
        if not rows:
            return Page("", 0, 0, ())
        epoch, floor, head = rows[0][:3]
        if rows[0][3] is not None:
            return Page(epoch, floor, head, [PageRow._make(row[3:]) for row in rows])
        if limit == 1 or not floor <= offset < head:
            return Page(epoch, floor, head, ())
        limit = max(1, limit // 4)


def unknown_spec(kind: str, delivery: Delivery) -> EventSpec:
    """Return what is known of a stored event whose plugin is gone: it is delivered as a plain object."""
    return EventSpec(kind, Payload, delivery, Audience.ORGANIZATION, frozenset(), "unknown", owner="unknown")


def event_of(row: Row[Any], catalogue: Mapping[str, EventSpec]) -> Event:
    """Return the event that a row of the log keeps. One whose plugin is gone is delivered as a plain object."""
    stream: str = row.stream
    spec = catalogue.get(row.type) or unknown_spec(row.type, Delivery.STREAM)
    return Event(
        id=row.id,
        spec=spec,
        organization_id=organization_of(stream),
        payload=decode(row.payload),
        encoded=row.payload.encode(),
        created_at=row.created_at,
        subject=row.subject,
        user_id=row.user_id,
        hop=row.hop,
        traceparent=row.traceparent,
        offset=row.offset,
        node=row.node,
    )


def decode(payload: str) -> dict[str, Any]:
    """Return a stored payload."""
    value: dict[str, Any] = orjson.loads(payload)
    return value
