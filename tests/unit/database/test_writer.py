"""The database's promises: grouped units, their failures, turns, and read-only sessions."""

import asyncio
import threading
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import delete, func, insert, select, text
from sqlalchemy.exc import IntegrityError

from backend.app.auth.permissions import Caller, Principal
from backend.app.config import Settings
from backend.app.database import Database, ReadOnlySessionError, Transaction
from backend.app.models import AuditRecord, EventRecord, LatestValue, Organization
from backend.app.realtime import event_log
from backend.app.realtime.event import Event, new_event
from backend.app.realtime.unit_of_work import audit, publish
from backend.app.schemas.errors import WindFlowError
from backend.app.schemas.event_spec import EventSpec
from backend.app.schemas.roles import Role
from backend.app.schemas.websocket_events import core_catalogue


def spec(name: str) -> EventSpec:
    return core_catalogue()[name]


def add(name: str):  # type: ignore[no-untyped-def]
    def unit(tx: Transaction) -> str:
        tx.conn.execute(insert(Organization).values(name=name))
        return name

    return unit


async def names(database: Database) -> list[str]:
    async with database.session() as session:
        return list(await session.scalars(select(Organization.name).order_by(Organization.name)))


async def test_a_unit_is_committed_before_its_caller_is_answered(database: Database) -> None:
    """Acknowledge only after commit."""
    assert await database.write(add("one")) == "one"
    assert await names(database) == ["one"]


async def test_a_failing_unit_hurts_nobody_else(database: Database) -> None:
    """A failing unit rolls back to its savepoint and hurts nobody else."""
    results = await asyncio.gather(
        *(database.write(add(name)) for name in ("a", "b", "a", "c")), return_exceptions=True
    )
    assert sum(isinstance(result, IntegrityError) for result in results) == 1
    assert await names(database) == ["a", "b", "c"]


async def test_the_orm_session_of_a_unit_is_flushed_and_rolled_back_with_it(database: Database) -> None:
    """A unit uses `tx.session` (ORM) where it is rare."""

    def good(tx: Transaction) -> None:
        tx.session.add(Organization(name="kept"))

    def bad(tx: Transaction) -> None:
        tx.session.add(Organization(name="lost"))
        tx.session.flush()
        raise LookupError("no")

    results = await asyncio.gather(database.write(good), database.write(bad), return_exceptions=True)
    assert isinstance(results[1], LookupError)
    assert await names(database) == ["kept"]


@pytest.mark.parametrize("database_url", [None], indirect=False)
async def test_a_unit_that_exits_does_not_end_the_writer(database: Database) -> None:
    """A unit that raises SystemExit fails alone; the thread lives on."""

    def leave(tx: Transaction) -> None:
        raise SystemExit(3)

    with pytest.raises(RuntimeError, match="SystemExit"):
        await database.write(leave)
    await database.write(add("after"))
    assert await names(database) == ["after"]


async def test_a_session_that_writes_is_told_the_two_ways(database: Database) -> None:
    """A write in `db.session()` fails with a sentence that names the two ways."""
    with pytest.raises(ReadOnlySessionError, match=r"db\.write\(fn\).*db\.session\(write=True\)"):
        async with database.session() as session:
            await session.execute(insert(Organization).values(name="x"))
    assert await names(database) == []


async def test_a_write_session_commits_at_its_end(database: Database) -> None:
    """`db.session(write=True)` takes the writer's turn and is committed at the end of the block."""
    async with database.session(write=True) as session:
        session.add(Organization(name="turn"))
    await database.write(add("unit"))
    assert await names(database) == ["turn", "unit"]


async def test_a_write_session_that_raises_leaves_nothing(database: Database) -> None:
    """It is rolled back if the block raises."""
    with pytest.raises(LookupError):
        async with database.session(write=True) as session:
            session.add(Organization(name="turn"))
            await session.flush()
            raise LookupError
    assert await names(database) == []


async def test_a_write_session_holds_its_turn_for_a_bounded_time(tmp_path: Path) -> None:
    """A fair lock, at most `write_session_seconds`, then rolled back."""
    database = Database()
    await database.connect(Settings(data_dir=tmp_path, write_session_seconds=0.1))
    try:
        await database.create_tables()
        with pytest.raises(TimeoutError):
            async with database.session(write=True) as session:
                session.add(Organization(name="slow"))
                await session.flush()
                await asyncio.Event().wait()
        await database.write(add("next"))
        assert await names(database) == ["next"]
    finally:
        await database.disconnect()


async def test_offsets_follow_commit_order_without_a_gap(database: Database, committed: list[Event]) -> None:
    """Commit order equals offset order, with many writers at once."""
    created = spec("DEPLOYMENT_CREATED")

    def unit(number: int):  # type: ignore[no-untyped-def]
        def run(tx: Transaction) -> None:
            publish(tx, new_event(created, "o1", {"deploymentId": str(number), "deploymentName": "n"}))
            if number % 5 == 0:
                raise LookupError

        return run

    await asyncio.gather(*(database.write(unit(number)) for number in range(40)), return_exceptions=True)
    assert len(committed) == 32
    assert sorted(event.offset or 0 for event in committed) == list(range(1, 33))
    async with database.session() as session:
        rows = await event_log.read_since(session, "org:o1", 0, 100)
        assert [row.offset for row in rows] == list(range(1, 33))
        assert {row.id for row in rows} == {event.id for event in committed}
        assert (await event_log.positions(session, ["org:o1"]))["org:o1"]["offset"] == 32
        assert await session.scalar(select(func.count()).select_from(EventRecord)) == 32


def _publish(event: Event, tx: Transaction) -> None:
    publish(tx, event)


async def test_latest_values_only_rise(database: Database, committed: list[Event]) -> None:
    """`latest_values.version` rises under the row lock (R15), also past the removal of the value."""
    progress = spec("DEPLOYMENT_PROGRESS")
    for percent in (10, 30, 20, 15):
        event = new_event(progress, "o1", {"deploymentId": "d", "progress": percent})
        await database.write(partial(_publish, event))
        if percent == 30:
            await asyncio.sleep(0.003)  # a version starts at the time in milliseconds
            await database.write(lambda tx: tx.conn.execute(delete(LatestValue)))
    versions = [event.version or 0 for event in committed]
    assert versions == sorted(set(versions))
    async with database.session() as session:
        stored = (await session.execute(text("SELECT payload FROM latest_values"))).scalar_one()
    assert event_log.decode(stored)["progress"] == 15


async def test_audit_rows_are_part_of_the_transaction_and_count_per_organization(database: Database) -> None:
    """The row is written by the operation, in the same transaction as the change it records."""
    caller = Caller(Principal("u", "ada", "o1", Role.ADMIN), address="127.0.0.1", request_id="r1")

    def act(fails: bool):  # type: ignore[no-untyped-def]
        def run(tx: Transaction) -> None:
            audit(tx, "thing.change", caller, target="thing/1", colour="red")
            if fails:
                raise LookupError

        return run

    await asyncio.gather(*(database.write(act(fails)) for fails in (False, True, False)), return_exceptions=True)
    async with database.session() as session:
        rows = list(await session.scalars(select(AuditRecord).order_by(AuditRecord.seq)))
    assert [(row.chain, row.seq, row.actor_name, row.data) for row in rows] == [
        ("org:o1", 1, "ada", '{"colour":"red"}'),
        ("org:o1", 2, "ada", '{"colour":"red"}'),
    ]


@pytest.mark.parametrize("database_url", [None], indirect=False)
async def test_a_cancelled_callers_waiting_unit_is_dropped_and_its_running_one_finishes(database: Database) -> None:
    """A cancelled caller's waiting unit is dropped, its running one finishes."""
    started, go_on = threading.Event(), threading.Event()

    def slow(tx: Transaction) -> None:
        started.set()
        go_on.wait(5)
        tx.conn.execute(insert(Organization).values(name="running"))

    running = asyncio.create_task(database.write(slow))
    await asyncio.to_thread(started.wait, 5)
    waiting = asyncio.create_task(database.write(add("waiting")))
    await asyncio.sleep(0)
    running.cancel()
    waiting.cancel()
    await asyncio.wait([running, waiting])
    go_on.set()
    await database.write(add("later"))
    assert await names(database) == ["later", "running"]


async def test_the_sql_of_one_unit_is_bounded_in_time(tmp_path: Path) -> None:
    """A progress handler bounds the SQL of one unit in time."""
    database = Database()
    await database.connect(Settings(data_dir=tmp_path, unit_timeout_seconds=0.2))
    try:
        await database.create_tables()

        def endless(tx: Transaction) -> None:
            tx.conn.exec_driver_sql(
                "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c"
            )

        with pytest.raises(Exception, match="interrupted"):
            await database.write(endless)
        await database.write(add("after"))
        assert await names(database) == ["after"]
    finally:
        await database.disconnect()


async def test_without_connection_the_error_says_so() -> None:
    """Errors are part of the interface."""
    with pytest.raises(WindFlowError, match="not connected"):
        await Database().write(lambda tx: None)
