"""Writes on PostgreSQL: each unit of work is a transaction of its own, appends share one.

Owned by `Database`, beside `sqlite_writer.py`. Grouping whole units brings nothing here: the rows that they
change lock each other out. What is only appended waits for no row but its stream's head (`group_writer.py`).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from backend.app import kill_points
from backend.app.config import Settings
from backend.app.group_writer import GroupWriter
from backend.app.storage_failures import reaching

T = TypeVar("T")


class PostgreSQLWriter:
    """Runs units of work and groups of appends; `stop` waits for what runs."""

    def __init__(
        self,
        engine: AsyncEngine,
        settings: Settings,
        *,
        make_unit: Callable[[Connection], Any],
        close_group: Callable[[Connection, Sequence[Any]], None],
        committed: Callable[[Sequence[Any]], None],
    ) -> None:
        self._engine = engine
        self._make_unit = make_unit
        self._close_group = close_group
        self._committed = committed
        self._groups = GroupWriter(
            self._store,
            max_waiting=settings.write_queue,
            group_units=settings.group_commit_units,
            unit_timeout_seconds=settings.unit_timeout_seconds,
            wait_seconds=settings.database_timeout_seconds,
        )
        self._writes: set[asyncio.Task[Any]] = set()
        """Units that run; their callers may be gone."""

    async def write(self, fn: Callable[[Any], T]) -> T:
        """Run `fn(unit)` in a transaction and return its result after the commit."""
        # Shielded, so that a cancelled caller never leaves a commit whose events are not handed on.
        task = asyncio.create_task(self._write(fn))
        self._writes.add(task)
        task.add_done_callback(self._written)
        return await asyncio.shield(task)

    async def append(self, unit: Any) -> None:
        """Store a unit that only appends, with others, and return after the commit."""
        await self._groups.append(unit)

    async def stop(self) -> None:
        """Take nothing more, and finish what waits and runs."""
        await self._groups.stop()
        if self._writes:
            await asyncio.wait(self._writes)

    def _written(self, task: "asyncio.Task[Any]") -> None:
        self._writes.discard(task)
        if not task.cancelled():
            task.exception()  # mark as retrieved: a caller that was cancelled asks for it no more

    async def _write(self, fn: Callable[[Any], T]) -> T:
        def run(conn: Connection) -> tuple[Any, T]:
            unit = self._make_unit(conn)
            try:
                result = fn(unit)
                unit.finish()
            except BaseException:
                unit.discard()
                raise
            self._close_group(conn, [unit])
            return unit, result

        async with self._connection() as conn, conn.begin():
            unit, result = await conn.run_sync(run)
        kill_points.reached("after_commit")
        self._committed([unit])
        return result

    async def _store(self, units: Sequence[Any], committed: Callable[[], None]) -> None:
        async with self._connection() as conn:
            async with conn.begin():
                await conn.run_sync(self._close_group, units)
            kill_points.reached("after_commit")
            # Before the connection is given back, which may fail: what is committed is told.
            self._committed(units)
            committed()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection]:
        async with AsyncExitStack() as stack:
            with reaching():
                conn = await stack.enter_async_context(self._engine.connect())
            yield conn
