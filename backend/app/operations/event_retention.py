"""Retention of the event log: by count for each stream, and by age.

`Retention` calls `run` periodically. Invariant: a stream's floor rises in the transaction that removes
the events up to it, so no reader ever sees the one without the other; each write is bounded.
"""

from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import delete, or_, select, update

from backend.app import metrics
from backend.app.config import Settings
from backend.app.database import Database, Transaction
from backend.app.models import EventRecord, EventStream
from backend.app.models.columns import now


class EventRetention:
    """Which events are kept."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self._db = db
        self._count = settings.event_retention_count
        self._seconds = settings.event_retention_seconds
        self._most = settings.housekeeping_rows

    async def run(self) -> int:
        """Remove the events that are too many or too old, oldest first, and return how many."""
        limit = now() - timedelta(seconds=self._seconds)
        removed = 0
        for stream in await self._streams(limit):
            is_more = True
            while is_more:
                count = await self._db.write(partial(self._trim, stream=stream, limit=limit))
                removed += count
                metrics.ROWS_REMOVED.labels(EventRecord.__tablename__).inc(count)
                is_more = count >= self._most
        return removed

    async def _streams(self, limit: datetime) -> list[str]:
        """Return the streams that keep too much: known by their heads and by the first event of each."""
        first = (
            select(EventRecord.created_at)
            .where(EventRecord.stream == EventStream.stream, EventRecord.offset > EventStream.floor)
            .order_by(EventRecord.offset)
            .limit(1)
            .scalar_subquery()
        )
        is_due = or_(EventStream.head - EventStream.floor > self._count, first < limit)
        async with self._db.session() as session:
            return list(await session.scalars(select(EventStream.stream).where(is_due).order_by(EventStream.stream)))

    def _trim(self, tx: Transaction, *, stream: str, limit: datetime) -> int:
        """Remove the first events of a stream, as far as they are due and one write may, and raise its floor."""
        of_stream = EventRecord.stream == stream
        place = tx.conn.execute(
            select(EventStream.floor, EventStream.head).where(EventStream.stream == stream)
        ).one_or_none()
        if place is None:
            return 0
        rows = tx.conn.execute(
            select(EventRecord.offset, EventRecord.created_at)
            .where(of_stream, EventRecord.offset > place.floor)
            .order_by(EventRecord.offset)
            .limit(self._most)
        )
        floor = place.floor
        for offset, created_at in rows:
            if offset > place.head - self._count and created_at >= limit:
                break
            floor = offset
        if floor == place.floor:
            return 0
        count = tx.conn.execute(delete(EventRecord).where(of_stream, EventRecord.offset <= floor)).rowcount
        # Last, for publishers wait for this row; another server may have come further meanwhile.
        is_lower = EventStream.floor < floor
        tx.conn.execute(update(EventStream).where(EventStream.stream == stream, is_lower).values(floor=floor))
        return count
