"""Pages of the event log: rows with epoch, floor and head of one moment, bounded in count and bytes."""

import asyncio
import time
from functools import partial

import orjson
import pytest
from sqlalchemy import delete, insert, update

from backend.app.config import Settings
from backend.app.database import Database, Transaction
from backend.app.models import EventRecord, EventStream
from backend.app.models.columns import new_id, now
from backend.app.realtime import event_log
from backend.app.realtime.event import Event, new_event
from backend.app.realtime.event_log import Page
from backend.app.realtime.unit_of_work import publish
from backend.app.schemas.times import wire_time
from backend.app.schemas.websocket_events import core_catalogue
from tests.proving import IS_PROVING, amount, measured

STREAM = "org:o1"
CREATED = core_catalogue()["DEPLOYMENT_CREATED"]


async def write(database: Database, count: int, *, size: int = 10, user_id: str | None = None) -> list[Event]:
    events = [
        new_event(CREATED, "o1", {"deploymentId": f"d{number}", "deploymentName": "é" * size}, user_id=user_id)
        for number in range(count)
    ]

    def unit(tx: Transaction) -> None:
        for event in events:
            publish(tx, event)

    await database.write(unit)
    return events


async def read(database: Database, offset: int, limit: int, **bounds: int) -> Page:
    async with database.session() as session:
        return await event_log.read_page(session, STREAM, offset, limit, **bounds)


def raise_floor(floor: int, tx: Transaction) -> None:
    tx.conn.execute(delete(EventRecord).where(EventRecord.stream == STREAM, EventRecord.offset <= floor))
    tx.conn.execute(update(EventStream).where(EventStream.stream == STREAM).values(floor=floor))


async def test_a_page_holds_what_a_push_is_framed_from(database: Database) -> None:
    """Every page reads epoch, floor, head and rows (R4); times cross the wire in the one spelling."""
    events = await write(database, 3) + await write(database, 2, user_id="ada")
    page = await read(database, 1, 3)
    assert (page.epoch, page.floor, page.head) == (events[0].epoch, 0, 5)
    assert [tuple(row) for row in page.rows] == [
        (
            event.offset,
            event.id,
            "DEPLOYMENT_CREATED",
            event.encoded.decode(),
            event.user_id,
            event.subject,
            wire_time(event.created_at),
        )
        for event in events[1:4]
    ]
    assert (await read(database, 5, 3)).rows == ()


async def test_a_page_tells_the_stream_apart_that_does_not_exist(database: Database) -> None:
    """A position of an unknown stream gets `position_lost`: its epoch is nobody's."""
    assert await read(database, 0, 3) == Page("", 0, 0, ())
    await database.write(lambda tx: event_log.open_stream(tx.conn, STREAM))
    page = await read(database, 0, 3)
    assert page.epoch
    assert (page.head, page.rows) == (0, ())


async def test_a_cursor_below_the_floor_gets_nothing(database: Database) -> None:
    """Never a partial answer: a cursor below the floor is lost (R4), one at the floor is not."""
    await write(database, 9)
    await database.write(partial(raise_floor, 4))
    below, at = await read(database, 3, 9), await read(database, 4, 9)
    assert (below.floor, below.head, below.rows) == (4, 9, ())
    assert [row.offset for row in at.rows] == [5, 6, 7, 8, 9]


async def test_rows_and_head_of_a_session_are_of_one_moment(database: Database) -> None:
    """Epoch, floor and rows in one snapshot, also where a session reads page after page."""
    await write(database, 4)
    async with database.session() as session:
        first = await event_log.read_page(session, STREAM, 0, 2)
        await write(database, 4)
        await database.write(partial(raise_floor, 3))
        second = await event_log.read_page(session, STREAM, 2, 9)
    assert [row.offset for row in (*first.rows, *second.rows)] == [1, 2, 3, 4]
    assert (second.floor, second.head) == (0, 4)


async def test_a_page_is_bounded_in_bytes(database: Database) -> None:
    """Memory is bounded: large events come in smaller pages, one that is larger than a page alone."""
    await write(database, 40, size=500)
    await write(database, 1, size=20_000)
    await write(database, 3)
    offset, sizes = 0, []
    while (page := await read(database, offset, 30, max_bytes=8_000)).rows:
        assert [row.offset for row in page.rows] == list(range(offset + 1, offset + 1 + len(page.rows)))
        sizes.append([len(row.payload.encode()) for row in page.rows])
        offset = page.rows[-1].offset
    assert offset == page.head == 44
    assert [page for page in sizes if sum(page) > 8_000] == [[pytest.approx(40_000, abs=200)]]
    assert max(map(len, sizes)) > 1


async def test_the_log_is_read_fast(database: Database, settings: Settings) -> None:
    """Resume reads the missed events in pages: what reading alone costs."""
    # A server's loop does not check every callback; tests of behaviour keep that on.
    asyncio.get_running_loop().set_debug(not IS_PROVING)
    count, limit = amount(2_000, 100_000), 500
    payload = orjson.dumps({"deploymentId": "d", "deploymentName": "n" * 260}).decode()
    rest = {"stream": STREAM, "type": "DEPLOYMENT_CREATED", "payload": payload, "node": "n", "created_at": now()}

    def fill(first: int, tx: Transaction) -> None:
        tx.conn.execute(
            insert(EventRecord),
            [{**rest, "id": new_id(), "offset": offset} for offset in range(first, first + 1_000)],
        )

    for first in range(1, count + 1, 1_000):
        await database.write(partial(fill, first))
    stream = {"stream": STREAM, "epoch": "e", "floor": 0, "head": count}
    await database.write(lambda tx: tx.conn.execute(insert(EventStream).values(stream)))
    started, offset = time.process_time(), 0
    while offset < count:
        page = await read(database, offset, limit)
        offset = page.rows[-1].offset
    rate = count / (time.process_time() - started)
    kind = "SQLite" if database.is_sqlite else "PostgreSQL"
    measured(
        f"Reading {count:,} events of {len(payload)} bytes from the log, in pages of {limit}, {kind}",
        f"{rate:,.0f} events per second of CPU time",
        "resume as a whole: aim 100,000 per second of CPU time",
    )
