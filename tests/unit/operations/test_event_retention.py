"""Retention of events: by count and age, in bounded writes, and no reader misses a gap."""

import asyncio
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import select, update

from backend.app import metrics
from backend.app.config import Settings
from backend.app.database import Database, Transaction
from backend.app.models import EventRecord, EventStream
from backend.app.models.columns import now
from backend.app.operations.event_retention import EventRetention
from backend.app.realtime import event_log
from backend.app.realtime.event import new_event
from backend.app.schemas.websocket_events import core_catalogue
from tests.proving import amount

CREATED = core_catalogue()["DEPLOYMENT_CREATED"]


@pytest.fixture
def short(settings: Settings) -> Settings:
    return settings.model_copy(
        update={"event_retention_count": 20, "event_retention_seconds": 3600.0, "housekeeping_rows": 10}
    )


async def fill(database: Database, organization: str, count: int) -> None:
    for first in range(0, count, 500):
        numbers = range(first, min(count, first + 500))
        events = [new_event(CREATED, organization, {"deploymentId": str(n), "deploymentName": "n"}) for n in numbers]
        await database.append(*events)


def grow_old(stream: str, last: int, seconds: float, tx: Transaction) -> None:
    of_old = (EventRecord.stream == stream, EventRecord.offset <= last)
    tx.conn.execute(update(EventRecord).where(*of_old).values(created_at=now() - timedelta(seconds=seconds)))


async def places(database: Database) -> dict[str, tuple[int, int, list[int]]]:
    """Floor, head and the offsets that are there, of each stream."""
    async with database.session() as session:
        found: dict[str, Any] = {}
        for stream, floor, head in await session.execute(
            select(EventStream.stream, EventStream.floor, EventStream.head)
        ):
            offsets = select(EventRecord.offset).where(EventRecord.stream == stream).order_by(EventRecord.offset)
            found[stream] = (floor, head, list(await session.scalars(offsets)))
        return found


async def test_a_stream_keeps_its_newest_events(database: Database, short: Settings) -> None:
    """Events by count per stream; the floor is the highest offset that was removed (R4)."""
    await fill(database, "o1", 55)
    await fill(database, "o2", 20)
    before = metrics.ROWS_REMOVED.labels("events")._value.get()
    assert await EventRetention(database, short).run() == 35
    assert await places(database) == {
        "org:o1": (35, 55, list(range(36, 56))),
        "org:o2": (0, 20, list(range(1, 21))),
    }
    assert metrics.ROWS_REMOVED.labels("events")._value.get() == before + 35
    assert await EventRetention(database, short).run() == 0


async def test_old_events_go_and_a_stream_may_become_empty(database: Database, short: Settings) -> None:
    """Events by age: also all of them, and the head stays."""
    for organization in ("o1", "o2"):
        await fill(database, organization, 12)
    await database.write(partial(grow_old, "org:o1", 11, 3700))
    await database.write(partial(grow_old, "org:o2", 12, 3700))
    await database.write(partial(grow_old, "org:o2", 3, 3500))
    assert await EventRetention(database, short).run() == 11
    await database.write(partial(grow_old, "org:o2", 12, 3700))
    assert await EventRetention(database, short).run() == 12
    assert await places(database) == {"org:o1": (11, 12, [12]), "org:o2": (12, 12, [])}
    await fill(database, "o2", 1)
    assert (await places(database))["org:o2"] == (12, 13, [13])


async def test_each_write_removes_a_bounded_number_of_events(
    database: Database, short: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bounded rows per transaction; floor and events change in the same one."""
    count = amount(120, 5_000)
    await fill(database, "o1", count)
    write, writes = database.write, []

    async def counted(fn: Any) -> Any:
        removed = await write(fn)
        writes.append(removed)
        floor, head, offsets = (await places(database))["org:o1"]
        assert offsets == list(range(floor + 1, head + 1))
        return removed

    monkeypatch.setattr(database, "write", counted)
    assert await EventRetention(database, short).run() == count - 20
    assert max(writes) == short.housekeeping_rows


async def test_a_reader_behind_retention_is_told(database: Database, short: Settings) -> None:
    """A cursor never passes the floor unnoticed (I3), while publishers write and retention removes."""
    rounds, seen, lost = amount(30, 400), [0], 0
    is_over = asyncio.Event()

    async def work() -> None:
        for _ in range(rounds):
            await asyncio.gather(fill(database, "o1", 7), EventRetention(database, short).run())
        is_over.set()

    task = asyncio.create_task(work())
    while True:
        is_last = is_over.is_set()
        async with database.session() as session:
            page = await event_log.read_page(session, "org:o1", seen[-1], 5)
        if seen[-1] < page.floor:
            assert not page.rows
            lost, seen = lost + 1, [page.floor]
        for row in page.rows:
            assert row.offset == seen[-1] + 1
            seen.append(row.offset)
        if is_last and seen[-1] == page.head:
            break
        await asyncio.sleep(0.002)
    await task
    assert seen[-1] == 7 * rounds
    floor, head, offsets = (await places(database))["org:o1"]
    assert offsets == list(range(floor + 1, head + 1))


async def test_two_servers_at_once_do_no_harm(database: Database, short: Settings) -> None:
    """Several servers on one database: nothing is removed that was to be kept, floors never fall."""
    await fill(database, "o1", 95)
    removed = await asyncio.gather(*(EventRetention(database, short).run() for _ in range(3)))
    assert sum(removed) <= 75
    await EventRetention(database, short).run()
    assert await places(database) == {"org:o1": (75, 95, list(range(76, 96)))}
