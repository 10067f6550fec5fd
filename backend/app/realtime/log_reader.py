"""Reads pages of streams, logs and latest values for connections that catch up.

A page is one snapshot (R4) and holds prepared frames. Who asks for the same page at the same time gets the same
object: after a restart everybody comes back at once, and most are equally far. Reads are bounded in number, so that
requests find a database connection besides, and pages in rows and bytes.
"""

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

import orjson
from sqlalchemy import Row, and_, func, select, true, tuple_

from backend.app.config import Settings
from backend.app.database import Database
from backend.app.models import Deployment, DeploymentLog
from backend.app.models.columns import now
from backend.app.models.event_record import LatestValue
from backend.app.realtime import event_log
from backend.app.realtime.event import event_frame, organization_of
from backend.app.realtime.marks import LOGS_UPDATE, latest_source, value_of
from backend.app.schemas.event_spec import Delivery, EventSpec
from backend.app.schemas.times import wire_time

T = TypeVar("T")


@dataclass(slots=True)
class StoredEvent:
    """One event of a stream, ready to be pushed."""

    offset: int
    spec: EventSpec
    subject: str | None
    user_id: str | None
    frame: bytes


@dataclass(slots=True)
class StreamPage:
    """Some events after an offset, and where the stream stood when they were read."""

    epoch: str
    floor: int
    head: int
    organization_id: str | None
    events: Sequence[StoredEvent]


@dataclass(slots=True)
class LinesPage:
    """Some lines after a number as one message, and how far the log was when they were read."""

    organization_id: str
    last_line: int
    """Of the whole log."""
    first: int
    """Number of the first line of this page; `last_line + 1` if there is none."""
    last: int
    """Number of the last line of this page."""
    frame: bytes


@dataclass(slots=True)
class StoredValue:
    """One latest value, ready to be pushed."""

    source: str
    spec: EventSpec
    organization_id: str | None
    subject: str
    version: int
    frame: bytes


class Reader(Protocol):
    """What catching up asks; `LogReader` answers from the database."""

    async def events(self, stream: str, after: int) -> StreamPage | None: ...
    async def lines(self, deployment_id: str, after: int) -> LinesPage | None: ...
    async def values(self, sources: Iterable[str]) -> list[StoredValue]: ...
    async def values_of(self, stream: str, kind: str, after: str) -> list[StoredValue]: ...


class LogReader:
    """Reads pages. One for all connections of a node."""

    def __init__(self, database: Database, settings: Settings, catalogue: Mapping[str, EventSpec]) -> None:
        self._database = database
        self._catalogue = catalogue
        self._rows = settings.catch_up_rows
        # Half the budget of a connection is for what it reads: two pages must have room there.
        self._bytes = min(settings.catch_up_bytes, settings.outbound_bytes // 4)
        self._turns = asyncio.Semaphore(settings.catch_up_reads)
        self._running: dict[Hashable, asyncio.Task[Any]] = {}

    async def events(self, stream: str, after: int) -> StreamPage | None:
        """Return the events after an offset; None if there is no such stream. Raises what the database raises."""
        return await self._shared((stream, after), lambda: self._read_events(stream, after))

    async def lines(self, deployment_id: str, after: int) -> LinesPage | None:
        """Return the lines after a number; None if there is no such deployment. Raises what the database raises."""
        return await self._shared((deployment_id, after, "lines"), lambda: self._read_lines(deployment_id, after))

    async def values(self, sources: Iterable[str]) -> list[StoredValue]:
        """Return some latest values by name; what does not exist is left out."""
        names = [value_of(source) for source in sources]
        key = tuple_(LatestValue.stream, LatestValue.type, LatestValue.subject)
        async with self._turns, self._database.session() as session:
            rows = (await session.execute(select(LatestValue.__table__).where(key.in_(names)))).all()
        return [self._value(row) for row in rows]

    async def values_of(self, stream: str, kind: str, after: str) -> list[StoredValue]:
        """Return the latest values of a type with subjects after one, in order of the subjects."""
        statement = (
            select(LatestValue.__table__)
            .where(LatestValue.stream == stream, LatestValue.type == kind, LatestValue.subject > after)
            .order_by(LatestValue.subject)
            .limit(self._rows)
        )
        return await self._shared((stream, kind, after), lambda: self._read_values(statement))

    async def stop(self) -> None:
        """End what is being read."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _shared(self, key: Hashable, read: Callable[[], Coroutine[Any, Any, T]]) -> T:
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.create_task(self._in_turn(read))
            task.add_done_callback(lambda _: self._running.pop(key, None))
        # One waiter that is cancelled must not take the page from the others.
        return cast(T, await asyncio.shield(task))

    async def _in_turn(self, read: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async with self._turns:
            return await read()

    async def _read_events(self, stream: str, after: int) -> StreamPage | None:
        async with self._database.session() as session:
            page = await event_log.read_page(session, stream, after, self._rows, max_bytes=self._bytes)
        if not page.epoch:
            return None
        events = [
            StoredEvent(
                row.offset,
                self._catalogue.get(row.type) or event_log.unknown_spec(row.type, Delivery.STREAM),
                row.subject,
                row.user_id,
                event_frame(row.type, row.payload, row.timestamp, row.id, stream, row.offset),
            )
            for row in page.rows
        ]
        return StreamPage(page.epoch, page.floor, page.head, organization_of(stream), events)

    async def _read_lines(self, deployment_id: str, after: int) -> LinesPage | None:
        columns = (
            DeploymentLog.line,
            DeploymentLog.text,
            DeploymentLog.time,
            DeploymentLog.stream,
            DeploymentLog.level,
        )
        found = (
            select(*columns, DeploymentLog.size)
            .where(DeploymentLog.deployment_id == deployment_id, DeploymentLog.line > after)
            .order_by(DeploymentLog.line)
            .limit(self._rows)
            .subquery()
        )
        before = func.sum(found.c.size).over(order_by=found.c.line) - found.c.size
        page = select(found, before.label("bytes_before")).subquery()
        statement = (
            select(Deployment.organization_id, Deployment.last_line, page)
            .join_from(Deployment, page, and_(true(), page.c.bytes_before < self._bytes), isouter=True)
            .where(Deployment.id == deployment_id)
            .order_by(page.c.line)
        )
        async with self._database.session() as session:
            rows = (await session.execute(statement)).all()
        if not rows:
            return None
        organization_id, last_line = rows[0].organization_id, rows[0].last_line
        if rows[0].line is None:
            return LinesPage(organization_id, last_line, last_line + 1, last_line, b"")
        return LinesPage(organization_id, last_line, rows[0].line, rows[-1].line, _lines_frame(deployment_id, rows))

    async def _read_values(self, statement: Any) -> list[StoredValue]:
        async with self._database.session() as session:
            rows = (await session.execute(statement)).all()
        return [self._value(row) for row in rows]

    def _value(self, row: Row[Any]) -> StoredValue:
        return StoredValue(
            latest_source(row.stream, row.type, row.subject),
            self._catalogue.get(row.type) or event_log.unknown_spec(row.type, Delivery.LATEST),
            organization_of(row.stream),
            row.subject,
            row.version,
            event_frame(row.type, row.payload, wire_time(row.created_at), row.id),
        )


def _lines_frame(deployment_id: str, rows: Sequence[Row[Any]]) -> bytes:
    data: dict[str, Any] = {
        "deploymentId": deployment_id,
        "logs": [row.text for row in rows],
        "firstLine": rows[0].line,
    }
    if any(row.time is not None for row in rows):
        data["times"] = [None if row.time is None else wire_time(row.time) for row in rows]
    if any(row.stream for row in rows):
        data["streams"] = [row.stream or "out" for row in rows]
    if any(row.level for row in rows):
        data["levels"] = [row.level for row in rows]
    return event_frame(LOGS_UPDATE, orjson.dumps(data).decode(), wire_time(now()))
