"""A database that cannot serve is told as `storage_unavailable`, a wrong statement as what it is."""

import os
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import insert, select, text
from sqlalchemy.exc import OperationalError, ProgrammingError

from backend.app.config import Settings
from backend.app.database import Database, Transaction
from backend.app.models import Organization
from backend.app.schemas.errors import ErrorCode, WindFlowError

LIMIT_BYTES = 1 << 20


@pytest_asyncio.fixture
async def limited(tmp_path: Path) -> AsyncIterator[Database]:
    """A database of at most 1 MiB, with a short patience for locks."""
    database = Database()
    await database.connect(
        Settings(
            data_dir=tmp_path, database_max_bytes=LIMIT_BYTES, database_timeout_seconds=0.3, unit_timeout_seconds=5
        )
    )
    try:
        await database.create_tables()
        yield database
    finally:
        await database.disconnect()


async def fill(database: Database) -> WindFlowError:
    """Write until that is refused; return the refusal."""

    def unit(tx: Transaction) -> None:
        for _ in range(100):
            tx.conn.execute(insert(Organization).values(name=os.urandom(100).hex()))

    for _ in range(1_000):
        before = await count(database)
        try:
            await database.write(unit)
        except WindFlowError as error:
            assert await count(database) == before
            return error
    raise AssertionError("the database never was full")


async def count(database: Database) -> int:
    async with database.session() as session:
        return len(list(await session.scalars(select(Organization.id))))


async def test_a_full_database_refuses_whole_units_until_there_is_room(limited: Database, tmp_path: Path) -> None:
    """Above its limit the database changes nothing and says `storage_unavailable`; what is deleted makes room."""
    refused = await fill(limited)
    assert refused.code is ErrorCode.STORAGE_UNAVAILABLE
    assert refused.retry_after_seconds == 1
    with pytest.raises(WindFlowError, match="storage_unavailable"):
        async with limited.session(write=True) as session:
            for _ in range(200):
                await session.execute(insert(Organization).values(name=os.urandom(100).hex()))
    await limited.write(lambda tx: tx.conn.execute(Organization.__table__.delete()))  # type: ignore[attr-defined]
    await limited.write(lambda tx: tx.conn.execute(insert(Organization).values(name="after")))
    assert await count(limited) == 1
    assert (tmp_path / "windflow.db").stat().st_size <= LIMIT_BYTES


async def test_a_lock_that_is_not_given_is_unavailable(limited: Database, tmp_path: Path) -> None:
    """A database that somebody else holds locked does not serve; afterwards it does."""
    holder = sqlite3.connect(tmp_path / "windflow.db", isolation_level=None)
    try:
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(WindFlowError, match="storage_unavailable"):
            await limited.write(lambda tx: tx.conn.execute(insert(Organization).values(name="now")))
        holder.execute("ROLLBACK")
    finally:
        holder.close()
    await limited.write(lambda tx: tx.conn.execute(insert(Organization).values(name="then")))
    assert await count(limited) == 1


async def test_a_wrong_statement_stays_what_it_is(database: Database) -> None:
    """A statement that is wrong is its author's: it is not told as a database that cannot serve."""
    with pytest.raises((OperationalError, ProgrammingError), match="no_such_table"):
        async with database.session() as session:
            await session.execute(text("SELECT * FROM no_such_table"))
    with pytest.raises((OperationalError, ProgrammingError), match="no_such_table"):
        await database.write(lambda tx: tx.conn.execute(text("DELETE FROM no_such_table")))


async def test_connections_in_use_are_counted(database: Database) -> None:
    """A session holds one pooled connection, and gives it back."""
    assert database.connections_in_use == 0
    async with database.session() as session:
        await session.execute(text("SELECT 1"))
        assert database.connections_in_use == 1
    assert database.connections_in_use == 0
