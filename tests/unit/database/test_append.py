"""`db.append`: records that come with no other change share a transaction, on both databases."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import nullcontext
from dataclasses import replace

import pytest
from sqlalchemy import Connection, event, func, insert, select
from sqlalchemy.exc import IntegrityError

from backend.app.config import Settings
from backend.app.database import Database, Transaction, Unit, WriteHooks
from backend.app.models import AuditRecord, EventRecord, EventStream, LatestValue, Organization
from backend.app.realtime import event_log
from backend.app.realtime.event import Event, new_event
from backend.app.realtime.unit_of_work import AuditEntry, publish, write_hooks
from backend.app.schemas.errors import WindFlowError
from backend.app.schemas.websocket_events import core_catalogue

CATALOGUE = core_catalogue()


def created(number: int, organization: str = "o1") -> Event:
    data = {"deploymentId": f"d{number}", "deploymentName": "né"}
    return new_event(CATALOGUE["DEPLOYMENT_CREATED"], organization, data)


async def stored(database: Database, stream: str = "org:o1") -> list[tuple[int, str]]:
    async with database.session() as session:
        return [(row.offset, row.id) for row in await event_log.read_since(session, stream, 0, 10_000)]


class Groups:
    """Counts the groups of a database and can hold one before its commit."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.committed: list[Event] = []
        hooks = write_hooks("node", self.committed.append)

        def close(conn: Connection, units: Sequence[Unit]) -> None:
            hooks.close_group(conn, units)
            self.sizes.append(len(units))

        self.hooks = WriteHooks(close, hooks.committed)


@pytest.fixture
def groups() -> Groups:
    return Groups()


@pytest.fixture
async def grouped(settings: Settings, groups: Groups, database: Database) -> AsyncIterator[Database]:
    """A second `Database` on the same data, whose groups are counted."""
    await database.disconnect()
    second = Database()
    await second.connect(settings, groups.hooks)
    yield second
    await second.disconnect()
    await database.connect(settings)


async def test_many_publishers_share_few_transactions(grouped: Database, groups: Groups) -> None:
    """Publishes without a business change are grouped; each caller is answered after the commit of its group."""
    events = [created(number) for number in range(200)]

    async def publish_one(event: Event) -> None:
        await grouped.append(event)
        assert event in groups.committed

    await asyncio.gather(*(publish_one(event) for event in events))
    assert sum(groups.sizes) == 200
    assert len(groups.sizes) < 50
    # In the order of the calls, without a gap, and handed on in that order.
    assert await stored(grouped) == [(number, event.id) for number, event in enumerate(events, start=1)]
    assert groups.committed == events
    assert [event.offset for event in events] == list(range(1, 201))
    assert len({event.epoch for event in events}) == 1


async def test_a_row_of_the_log_is_the_event(grouped: Database) -> None:
    """What is stored is what was published, field by field, and times are the same to the millisecond."""
    plain, full = created(1), created(2)
    full.user_id, full.hop, full.traceparent = "ada", 3, "00-abc"
    for each in (plain, full):
        await grouped.append(each)
    async with grouped.session() as session:
        rows = await event_log.read_since(session, "org:o1", 0, 10)
    for row, each in zip(rows, (plain, full), strict=True):
        assert replace(event_log.event_of(row, CATALOGUE), epoch=each.epoch).frame() == each.frame()
        assert (row.user_id, row.subject, row.hop, row.traceparent, row.node) == (
            each.user_id, each.subject, each.hop, each.traceparent, "node",
        )  # fmt: skip
        assert row.created_at == each.created_at


async def test_records_of_every_kind_go_together(grouped: Database) -> None:
    """Events of several streams, latest values and audit entries of one call stand or fall together."""
    progress = new_event(CATALOGUE["DEPLOYMENT_PROGRESS"], "o1", {"deploymentId": "d", "progress": 5})
    entry = AuditEntry("event.publish", None, organization_id="o1")
    await grouped.append(created(1), created(2, "o2"), progress, entry)
    refused = created(3)
    refused.id = (await stored(grouped))[0][1]
    with pytest.raises(IntegrityError):
        await grouped.append(entry, created(4, "o2"), refused)
    async with grouped.session() as session:
        counts = [
            await session.scalar(select(func.count()).select_from(table))
            for table in (EventRecord, LatestValue, AuditRecord)
        ]
        heads = await event_log.heads(session)
    assert counts == [2, 1, 1]
    assert {stream: position.offset for stream, position in heads.items()} == {"org:o1": 1, "org:o2": 1}


async def test_what_is_refused_hurts_nobody_else(grouped: Database, groups: Groups) -> None:
    """Failures of one do not hurt the others: neither other publishes nor units with a business change."""
    first = created(0)
    await grouped.append(first)
    bad = [created(number) for number in (1, 2)]
    for each in bad:
        each.id = first.id
    good = [created(number) for number in range(3, 23)]

    def unit(tx: Transaction) -> None:
        tx.conn.execute(insert(Organization).values(name="kept"))

    calls = [grouped.append(each) for each in (*good[:10], *bad, *good[10:])]
    results = await asyncio.gather(*calls, grouped.write(unit), return_exceptions=True)
    assert [type(result) for result in results if result is not None] == [IntegrityError, IntegrityError]
    assert await stored(grouped) == [(number, each.id) for number, each in enumerate((first, *good), start=1)]
    assert groups.committed == [first, *good]
    async with grouped.session() as session:
        assert await session.scalar(select(func.count()).select_from(Organization)) == 1


async def test_a_cancelled_callers_waiting_records_are_dropped(grouped: Database, groups: Groups) -> None:
    """A cancelled waiting caller is dropped; who waits beside it is answered."""
    async with grouped.session(write=True) as session:
        # The turn is held (SQLite), or the stream's row (PostgreSQL): everything else waits.
        await session.execute(insert(EventStream).values(stream="org:o1", epoch="e", floor=0, head=0))
        running = asyncio.create_task(grouped.append(created(1)))
        await asyncio.sleep(0.05)
        waiting = [asyncio.create_task(grouped.append(created(number))) for number in (2, 3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.wait(waiting[:1])
    await asyncio.gather(running, waiting[1])
    assert [json_id(each) for each in groups.committed] == ["d1", "d3"]
    assert [offset for offset, _ in await stored(grouped)] == [1, 2]


def json_id(each: Event) -> str:
    return str(each.payload["deploymentId"])


async def test_the_queue_is_bounded(settings: Settings, database: Database, groups: Groups) -> None:
    """Everything is bounded: above `write_queue` waiting writes a publish is refused, clearly."""
    await database.disconnect()
    small = Database()
    await small.connect(settings.model_copy(update={"write_queue": 5, "group_commit_units": 2}), groups.hooks)
    calls = [asyncio.create_task(small.append(created(number))) for number in range(20)]
    async with small.session(write=True) if small.is_sqlite else nullcontext():
        # The turn is held; on PostgreSQL nothing is taken from the queue before the callers have run once.
        await asyncio.sleep(0)
    results = await asyncio.gather(*calls, return_exceptions=True)
    refused = [result for result in results if isinstance(result, WindFlowError)]
    assert {error.code for error in refused} == {"storage_unavailable"}
    assert all("too many writes" in str(error) for error in refused)
    assert 20 > len(await stored(small)) == 20 - len(refused) > 0
    await small.disconnect()
    await database.connect(settings)


async def test_disconnecting_stores_what_waits(settings: Settings, database: Database, groups: Groups) -> None:
    """Clean stop: what waits is stored and answered; afterwards the refusal says why."""
    await database.disconnect()
    other = Database()
    await other.connect(settings, groups.hooks)
    calls = [asyncio.create_task(other.append(created(number))) for number in range(50)]
    await asyncio.sleep(0)
    await other.disconnect()
    await asyncio.gather(*calls)
    assert len(groups.committed) == 50
    with pytest.raises(WindFlowError, match="not connected"):
        await other.append(created(99))
    await database.connect(settings)
    assert len(await stored(database)) == 50


@pytest.mark.postgres
async def test_head_and_rows_are_one_statement_on_postgresql(postgres_url: str) -> None:
    """On PostgreSQL, the head's update and the insert are one statement: the head's lock is short."""
    statements: list[str] = []
    database = Database()
    await database.connect(Settings(database_url=postgres_url), write_hooks("node", lambda event: None))
    try:
        await database.create_tables()
        engine = database._connected().sync_engine
        event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
        await database.append(created(1), created(2))
        await database.write(lambda tx: publish(tx, created(3)))
    finally:
        await database.disconnect()
    assert len(statements) == 2
    assert all("event_streams" in statement and "INTO events" in statement for statement in statements)


async def test_the_database_is_asked_for_full_durability(tmp_path_factory: pytest.TempPathFactory) -> None:
    """SQLite runs WAL with `synchronous=FULL`, on the connection that writes."""
    database = Database()
    await database.connect(Settings(data_dir=tmp_path_factory.mktemp("full")))
    asked = ("synchronous", "journal_mode")
    try:
        found = await database.write(lambda tx: [tx.conn.exec_driver_sql(f"PRAGMA {name}").scalar() for name in asked])
        assert found == [2, "wal"]
        async with database.session(write=True) as session:
            turn = (await session.connection()).sync_connection
            assert turn is not None
            assert await session.scalar(select(1)) == 1
            assert (await (await session.connection()).exec_driver_sql("PRAGMA synchronous")).scalar() == 2
    finally:
        await database.disconnect()
