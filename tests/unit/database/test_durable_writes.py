"""What durable writes cost: 100 concurrent publishers beside one, and beside one batch insert of the same rows."""

import asyncio
import gc

import pytest
from sqlalchemy import func, select

from backend.app.config import Settings
from backend.app.database import Database
from backend.app.models import EventRecord, IdempotencyKey
from benchmarks.durable import DurableWrites, Way
from tests.proving import IS_PROVING, amount, measured

PUBLISHERS = 100


@pytest.mark.parametrize(("with_row", "aim"), [(True, 0.4), (False, 0.5)], ids=["business row", "event only"])
async def test_concurrent_publishers_are_committed_in_groups(
    database: Database, settings: Settings, with_row: bool, aim: float
) -> None:
    """100 concurrent publishers on SQLite with FULL: at least 5 x one publisher in one run."""
    # The loop of a server does not check every callback; tests of behaviour keep that on.
    asyncio.get_running_loop().set_debug(not IS_PROVING)
    writes, alone, rounds = amount(200, 4_000), amount(10, 400), amount(1, 9)
    if not database.is_sqlite and with_row:
        writes = amount(100, 1_000)  # a transaction each
    gc.collect()
    bench = DurableWrites(database, with_row=with_row, publishers=PUBLISHERS)
    found = await bench.measure(writes, alone, rounds)
    async with database.session() as session:
        events = await session.scalar(select(func.count()).select_from(EventRecord))
        rows = await session.scalar(select(func.count()).select_from(IdempotencyKey))
    written = (rounds + 1) * (2 * (writes // PUBLISHERS * PUBLISHERS) + alone)
    assert events == written
    assert rows == (written if with_row else 0)
    kind = "SQLite, synchronous=FULL" if database.is_sqlite else "PostgreSQL"
    what = "units of a business row and an event" if with_row else "publishes, event only"
    beside = f"{found.median(Way.ONE):,.0f}/s one publisher, {found.median(Way.BATCH):,.0f}/s one batch insert"
    goal = f"; at least 5 ×, aim {aim} ×" if database.is_sqlite else ""
    measured(
        f"Durable {what}, {PUBLISHERS} publishers, {kind}",
        f"{found.median(Way.MANY):,.0f}/s: {found.ratio(Way.ONE):.1f} × one publisher, "
        f"{found.ratio(Way.BATCH):.2f} × one batch insert",
        f"{beside}; median of {rounds} interleaved rounds{goal}",
    )
    if IS_PROVING and database.is_sqlite:
        assert found.ratio(Way.ONE) >= 5
