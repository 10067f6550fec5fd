"""The writer thread of SQLite: groups waiting units of work into one transaction and commit.

Owned by `Database`. A unit is a plain function; each runs in a savepoint of its own, so a
failing one hurts nobody else, and every caller is answered after the commit. The closing
step (numbering a group's events) runs once per group, as the last thing before the commit.
"""

import asyncio
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.pool import NullPool

from backend.app import kill_points
from backend.app.schemas.errors import ErrorCode, WindFlowError
from backend.app.storage_failures import is_unavailable

logger = logging.getLogger("windflow.database")

_PROGRESS_STEPS = 20_000
"""Virtual machine steps between two looks at the clock: some milliseconds of SQL."""


class Unit(Protocol):
    """What the writer needs of a transaction object: to be ended after its function returned or raised."""

    def finish(self) -> None:
        """Send what is pending to the database."""

    def discard(self) -> None:
        """Forget what is pending."""


class UnitFactory(Protocol):
    """Makes the object that a unit's function is called with."""

    def __call__(self, conn: Connection) -> Unit: ...


@dataclass(slots=True, eq=False)
class _Job:
    run: Callable[[Any], Any] | None
    """None: `unit` holds all there is, and no statement of its own."""
    future: "asyncio.Future[Any]"
    expires: float
    """Monotonic time after which it is not started any more."""
    is_dropped: bool = False
    """Set by a cancelled caller; a unit that already runs finishes all the same."""
    unit: Any = None
    result: Any = None
    error: BaseException | None = None


@dataclass(slots=True, eq=False)
class _Turn:
    """A caller that writes on a connection of its own while the thread waits."""

    granted: "asyncio.Future[None]"
    released: threading.Event = field(default_factory=threading.Event)


class SQLiteWriter:
    """One thread with the one writing connection of a SQLite file."""

    def __init__(
        self,
        url: str,
        *,
        make_unit: UnitFactory,
        close_group: Callable[[Connection, Sequence[Any]], None],
        committed: Callable[[Sequence[Any]], None],
        max_waiting: int,
        group_seconds: float,
        group_units: int,
        unit_timeout_seconds: float,
        wait_seconds: float,
        turn_seconds: float,
        max_bytes: int | None = None,
    ) -> None:
        self._make_unit = make_unit
        self._close_group = close_group
        self._committed = committed
        self._max_waiting = max_waiting
        self._group_seconds = group_seconds
        self._group_units = group_units
        self._unit_timeout_seconds = unit_timeout_seconds
        self._wait_seconds = wait_seconds
        self._turn_seconds = turn_seconds
        self._max_bytes = max_bytes
        self._queue: queue.SimpleQueue[_Job | _Turn | None] = queue.SimpleQueue()
        self._deadline = float("inf")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._engine = create_engine(
            url, poolclass=NullPool, connect_args={"isolation_level": None, "check_same_thread": False}
        )
        event.listen(self._engine, "connect", self._prepare)
        event.listen(self._engine, "begin", _begin_immediate)

    def _prepare(self, raw: sqlite3.Connection, _record: object) -> None:
        prepare_connection(raw, self._wait_seconds)
        limit_size(raw, self._max_bytes)
        raw.set_progress_handler(self._is_over_time, _PROGRESS_STEPS)

    def _is_over_time(self) -> int:
        return int(time.monotonic() > self._deadline)

    async def start(self) -> None:
        """Open the connection and start the thread; raise what opening raises."""
        self._loop = asyncio.get_running_loop()
        conn = await asyncio.to_thread(self._engine.connect)
        self._thread = threading.Thread(target=self._serve, args=(conn,), name="sqlite-writer", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Let waiting units finish, then end the thread and close the connection."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            await asyncio.to_thread(thread.join)
            # Answers of the last group were posted to this loop: let them arrive.
            await asyncio.sleep(0)

    async def write(self, run: Callable[[Any], Any]) -> Any:
        """Run one unit and return its result after its commit; raise what it raised, with nothing changed."""
        return await self._submit(run, None)

    async def append(self, unit: Any) -> None:
        """Have the closing step store what a unit left that changes nothing else: it needs no savepoint."""
        await self._submit(None, unit)

    async def _submit(self, run: Callable[[Any], Any] | None, unit: Any) -> Any:
        job = _Job(run, self._new_future(), time.monotonic() + self._wait_seconds, unit=unit)
        self._queue.put(job)
        try:
            return await job.future
        except asyncio.CancelledError:
            job.is_dropped = True
            raise

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn at writing, in order of arrival, and hold it; the thread writes nothing meanwhile."""
        turn = _Turn(self._new_future())
        self._queue.put(turn)
        try:
            await turn.granted
            yield
        finally:
            turn.released.set()

    def _new_future(self) -> "asyncio.Future[Any]":
        if self._thread is None or self._loop is None:
            raise WindFlowError(ErrorCode.STORAGE_UNAVAILABLE, "the database is not connected")
        if self._queue.qsize() >= self._max_waiting:
            raise WindFlowError(ErrorCode.STORAGE_UNAVAILABLE, "too many writes are waiting", retry_after_seconds=1)
        return self._loop.create_future()

    # ---- the thread ------------------------------------------------------------------------------

    def _serve(self, conn: Connection) -> None:
        following: _Job | _Turn | None
        try:
            while (following := self._queue.get()) is not None:
                while following is not None:
                    if isinstance(following, _Turn):
                        self._give_turn(following)
                        following = None
                    else:
                        following, is_last = self._run_group(conn, following)
                        if is_last:
                            return
        finally:
            conn.close()
            self._engine.dispose()

    def _give_turn(self, turn: _Turn) -> None:
        self._post(_resolve, turn.granted, None, None)
        # The holder is bounded by its own time-out; twice that only guards against a blocked event loop.
        if not turn.released.wait(2 * self._turn_seconds + 1):
            logger.error("a write session did not give its turn back; going on without it")

    def _run_group(self, conn: Connection, first: _Job) -> tuple[_Job | _Turn | None, bool]:
        """Run units until nothing waits or the group is full; return what was taken from the queue but not run."""
        if self._is_over(first):
            # Without a transaction: where another program holds the lock, each of many would wait for it anew.
            self._post(self._answer, [first])
            return None, False
        jobs: list[_Job] = []
        following: _Job | _Turn | None = None
        is_last = False
        try:
            with conn.begin():
                started = time.monotonic()
                job = first
                while True:
                    if self._run_unit(conn, job):
                        jobs.append(job)
                    if len(jobs) >= self._group_units or time.monotonic() - started >= self._group_seconds:
                        break
                    try:
                        taken = self._queue.get_nowait()
                    except queue.Empty:
                        break
                    if not isinstance(taken, _Job):
                        following, is_last = taken, taken is None
                        break
                    job = taken
                self._close(conn, [job for job in jobs if job.error is None])
            kill_points.reached("after_commit")
        except BaseException as error:  # noqa: BLE001 - the thread outlives every failure; the callers get it
            if first not in jobs:
                jobs.append(first)
            for job in jobs:
                job.error = error
        finally:
            self._deadline = float("inf")
        self._post(self._answer, jobs)
        return following, is_last

    def _run_unit(self, conn: Connection, job: _Job) -> bool:
        """Run one unit in a savepoint; False if its caller is gone. Raises only when the whole group is lost."""
        if self._is_over(job):
            return not job.is_dropped
        if job.run is None:
            return True
        self._deadline = time.monotonic() + self._unit_timeout_seconds
        # Straight to the driver: SQLAlchemy's way takes longer than the statement.
        raw = _raw(conn)
        raw.execute("SAVEPOINT unit")
        job.unit = self._make_unit(conn)
        try:
            job.result = job.run(job.unit)
            job.unit.finish()
            raw.execute("RELEASE unit")
        except BaseException as error:
            job.unit.discard()
            self._deadline = float("inf")
            if not raw.in_transaction:
                raise
            raw.execute("ROLLBACK TO unit")
            raw.execute("RELEASE unit")
            job.error = error
        return True

    @staticmethod
    def _is_over(job: _Job) -> bool:
        """Tell whether a unit is not to be run any more: its caller is gone, or it has waited for too long."""
        if job.is_dropped or time.monotonic() > job.expires:
            job.error = WindFlowError(ErrorCode.STORAGE_UNAVAILABLE, "the database is busy", retry_after_seconds=1)
        return job.error is not None

    def _close(self, conn: Connection, jobs: Sequence[_Job]) -> None:
        """Take the closing step; if what it stores is refused, again for each append alone.

        So a refused append hurts nobody else. Units that ran are past that: they stand or fall together.
        """
        self._deadline = time.monotonic() + self._unit_timeout_seconds
        raw = _raw(conn)
        raw.execute("SAVEPOINT closing")
        try:
            self._close_group(conn, [job.unit for job in jobs])
            return
        except Exception as error:
            appends = [job for job in jobs if job.run is None]
            if not appends or not raw.in_transaction or is_unavailable(error):
                raise
            raw.execute("ROLLBACK TO closing")
        self._close_group(conn, [job.unit for job in jobs if job.run is not None])
        for job in appends:
            self._deadline = time.monotonic() + self._unit_timeout_seconds
            raw.execute("SAVEPOINT closing")
            try:
                self._close_group(conn, [job.unit])
            except Exception as error:
                if not raw.in_transaction:
                    raise
                raw.execute("ROLLBACK TO closing")
                job.error = error

    def _answer(self, jobs: Sequence[_Job]) -> None:
        """On the loop: hand the committed units on, then answer every caller of the group."""
        units = [job.unit for job in jobs if job.error is None]
        if units:
            self._committed(units)
        for job in jobs:
            _resolve(job.future, job.result, job.error)

    def _post(self, callback: Callable[..., None], *args: Any) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:  # the loop is closed: nobody waits any more
            logger.warning("a write was committed after the event loop had ended")


def _resolve(future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    elif isinstance(error, Exception) and not isinstance(error, StopIteration):
        future.set_exception(error)
    else:  # SystemExit and its like must not end the loop
        future.set_exception(RuntimeError(f"a unit of work raised {error!r}"))


def _raw(conn: Connection) -> sqlite3.Connection:
    raw = conn.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection)
    return raw


def prepare_connection(raw: Any, wait_seconds: float) -> None:
    """Set what every connection to the file needs: WAL, durable commits, foreign keys, a bounded wait for locks."""
    cursor = raw.cursor()
    for pragma in (
        f"busy_timeout = {int(wait_seconds * 1000)}",
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def limit_size(raw: Any, max_bytes: int | None) -> None:
    """Let this connection not make the file larger; one that is larger already only does not grow. None: no limit."""
    if max_bytes is None:
        return
    cursor = raw.cursor()
    cursor.execute("PRAGMA page_size")
    (page_bytes,) = cursor.fetchone()
    cursor.execute(f"PRAGMA max_page_count = {max(1, max_bytes // page_bytes)}")
    cursor.close()


def _begin_immediate(conn: Connection) -> None:
    conn.exec_driver_sql("BEGIN IMMEDIATE")
