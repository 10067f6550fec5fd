"""The database: where sessions and units of work come from. `db` is the one of this process.

Reads go through `db.session()`, writes through `db.write(fn)`: a plain function in one
transaction, on SQLite in the writer thread; `db.append` publishes where nothing else changes.
Nothing connects before `connect()`; what a unit leaves in `tx.records` goes to the hooks that
the composition root installs.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, MetaData, event, make_url
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Session

from backend.app.config import Settings
from backend.app.postgresql_writer import PostgreSQLWriter
from backend.app.schemas.errors import ErrorCode, WindFlowError
from backend.app.sqlite_writer import SQLiteWriter, limit_size, prepare_connection
from backend.app.storage_failures import explain_time_out, reaching, told_as_unavailable

logger = logging.getLogger("windflow.database")

T = TypeVar("T")


class Base(DeclarativeBase):
    """Base of all tables. Constraints have names, so that a migration can speak of them on every database."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class ReadOnlySessionError(Exception):
    """A write was tried in a session that only reads."""

    def __init__(self) -> None:
        super().__init__(
            "this session only reads: write with `await db.write(fn)`, a plain function in one transaction, "
            "or in `async with db.session(write=True)`"
        )


class Unit:
    """What is committed together; by itself one that changes nothing but the records it leaves."""

    def __init__(self, records: Iterable[object] = ()) -> None:
        self.records = list(records)
        """What the unit leaves for the closing step: events and audit entries."""


class Transaction(Unit):
    """What the function of a unit of work is called with. Valid only until that function returns."""

    def __init__(self, conn: Connection) -> None:
        super().__init__()
        self.conn = conn
        """For core statements: hot paths."""
        self._session: Session | None = None

    @property
    def session(self) -> Session:
        """An ORM session in this transaction, for rare paths; flushed at the end, never to be committed by hand."""
        if self._session is None:
            self._session = Session(self.conn, join_transaction_mode="create_savepoint", expire_on_commit=False)
        return self._session

    def finish(self) -> None:
        """Send what is pending in the ORM session."""
        if self._session is not None:
            self._session.commit()
            self._session.close()

    def discard(self) -> None:
        """Forget what is pending in the ORM session."""
        if self._session is not None:
            self._session.close()


@dataclass(frozen=True, slots=True)
class WriteHooks:
    """What happens around a commit, installed by the composition root."""

    close_group: Callable[[Connection, Sequence[Unit]], None] = lambda conn, units: None
    """Last step before the commit, in the database's thread: numbers and stores what the units left."""
    committed: Callable[[Sequence[Unit]], None] = lambda units: None
    """After the commit, on the event loop, before the callers are answered. Must not raise."""


class Database:
    """One database, SQLite or PostgreSQL, from `connect()` to `disconnect()`."""

    def __init__(self) -> None:
        self._engine: AsyncEngine | None = None
        self._turn_engine: AsyncEngine | None = None
        self._writer: SQLiteWriter | PostgreSQLWriter | None = None
        self._hooks = WriteHooks()
        self._write_session_seconds = 0.0

    @property
    def is_connected(self) -> bool:
        """Tell whether `connect()` was called and `disconnect()` was not."""
        return self._engine is not None

    @property
    def is_sqlite(self) -> bool:
        """Tell whether this is SQLite: one writer, one node."""
        return self._connected().dialect.name == "sqlite"

    @property
    def connections_in_use(self) -> int:
        """How many pooled connections somebody holds at present; the SQLite writer's own is not pooled."""
        engines = (engine for engine in (self._engine, self._turn_engine) if engine is not None)
        return sum(engine.pool.checkedout() for engine in engines)  # type: ignore[attr-defined]

    async def connect(self, settings: Settings | None = None, hooks: WriteHooks | None = None) -> None:
        """Connect, with the settings of the environment by default; raise what the driver raises when it cannot."""
        if self._engine is not None:
            raise RuntimeError("the database is connected already")
        settings = settings or Settings()
        self._hooks = hooks or WriteHooks()
        self._write_session_seconds = settings.write_session_seconds
        url = make_url(settings.effective_database_url())
        if url.get_backend_name() == "sqlite":
            await self._connect_sqlite(url.render_as_string(hide_password=False), settings)
        else:
            self._engine = create_async_engine(
                url,
                pool_size=settings.database_pool_size,
                max_overflow=settings.database_pool_size,
                pool_timeout=settings.database_timeout_seconds,
                pool_pre_ping=True,
                connect_args={
                    "timeout": settings.database_timeout_seconds,
                    "command_timeout": settings.database_timeout_seconds,
                },
            )
            event.listen(self._engine.sync_engine, "handle_error", explain_time_out)
            self._writer = PostgreSQLWriter(
                self._engine,
                settings,
                make_unit=Transaction,
                close_group=self._hooks.close_group,
                committed=self._hooks.committed,
            )
        event.listen(self._connected().sync_engine, "handle_error", _explain_read_only)
        try:
            async with self._connected().connect():
                pass
        except BaseException:
            await self.disconnect()
            raise

    async def _connect_sqlite(self, url: str, settings: Settings) -> None:
        path = make_url(url).database
        if path and path != ":memory:":
            settings.data_dir.mkdir(parents=True, exist_ok=True)
        else:
            raise ValueError("WINDFLOW_DATABASE_URL: SQLite in memory is not supported, name a file")
        wait_seconds = settings.database_timeout_seconds
        writer = SQLiteWriter(
            url.replace("sqlite+aiosqlite", "sqlite"),
            make_unit=Transaction,
            close_group=self._hooks.close_group,
            committed=self._hooks.committed,
            max_waiting=settings.write_queue,
            group_seconds=settings.group_commit_seconds,
            group_units=settings.group_commit_units,
            unit_timeout_seconds=settings.unit_timeout_seconds,
            wait_seconds=wait_seconds,
            turn_seconds=settings.write_session_seconds,
            max_bytes=settings.database_max_bytes,
        )
        await writer.start()
        self._writer = writer
        self._engine = _sqlite_engine(url, settings, settings.database_read_connections, begin="BEGIN", reads_only=True)
        self._turn_engine = _sqlite_engine(url, settings, 1, begin="BEGIN IMMEDIATE", reads_only=False)

    async def disconnect(self) -> None:
        """Finish waiting writes and close every connection; does nothing when not connected."""
        writer, self._writer = self._writer, None
        engines = [engine for engine in (self._engine, self._turn_engine) if engine is not None]
        self._engine = self._turn_engine = None
        if writer is not None:
            await writer.stop()
        for engine in engines:
            await engine.dispose()

    async def create_tables(self) -> None:
        """Make the tables that are missing (for tests and tools; a server migrates instead)."""
        # The models register themselves on Base when their modules are imported.
        import backend.app.models  # noqa: F401

        def create(conn: Connection) -> None:
            Base.metadata.create_all(conn)

        await self._connected_writer().write(lambda tx: create(tx.conn))

    def session(self, *, write: bool = False) -> AbstractAsyncContextManager[AsyncSession]:
        """Return a session as a context manager.

        By default it only reads; a write raises `ReadOnlySessionError`. With `write=True` it may
        write and is committed at the end of the block, rolled back if the block raises. On SQLite it
        then holds the writer's turn, for at most `write_session_seconds`, after which it is rolled
        back with TimeoutError.
        """
        if not write:
            return self._read_session()
        return self._write_session()

    @asynccontextmanager
    async def _read_session(self) -> AsyncIterator[AsyncSession]:
        with told_as_unavailable():
            async with AsyncSession(self._connected(), expire_on_commit=False) as session:
                if not self.is_sqlite:
                    # One snapshot for the whole session, as SQLite's WAL gives: heads and rows belong together.
                    with reaching():
                        await session.connection(
                            execution_options={"postgresql_readonly": True, "isolation_level": "REPEATABLE READ"}
                        )
                yield session

    @asynccontextmanager
    async def _write_session(self) -> AsyncIterator[AsyncSession]:
        with told_as_unavailable():
            writer = self._connected_writer()
            if isinstance(writer, PostgreSQLWriter):
                async with AsyncSession(self._connected(), expire_on_commit=False) as session:
                    with reaching():
                        await session.connection()
                    yield session
                    await session.commit()
                return
            async with writer.turn(), AsyncSession(self._turn_engine, expire_on_commit=False) as session:
                async with asyncio.timeout(self._write_session_seconds):
                    yield session
                    await session.commit()

    async def write(self, fn: Callable[[Transaction], T]) -> T:
        """Run `fn(tx)` as one unit of work and return its result after the commit.

        `fn` is a plain function: it cannot await, and on SQLite it runs in the writer thread. Whatever
        it raises is raised here with nothing changed, and `storage_unavailable` when the database cannot
        serve. A cancelled caller's unit is dropped while it waits; one that runs already is finished and
        committed.
        """
        with told_as_unavailable():
            result: T = await self._connected_writer().write(fn)
            return result

    async def append(self, *records: object) -> None:
        """Store records that come with no other change, events above all, and return after the commit.

        The fast way to publish: many callers share one transaction on every database, in the order of
        their calls. Raises as `write`, with nothing stored; who shares the transaction is not hurt. A
        cancelled caller's records are dropped while they wait.
        """
        unit = Unit(records)
        with told_as_unavailable():
            await self._connected_writer().append(unit)

    def _connected(self) -> AsyncEngine:
        if self._engine is None:
            raise _not_connected()
        return self._engine

    def _connected_writer(self) -> SQLiteWriter | PostgreSQLWriter:
        if self._writer is None:
            raise _not_connected()
        return self._writer


def _not_connected() -> WindFlowError:
    return WindFlowError(ErrorCode.STORAGE_UNAVAILABLE, "the database is not connected")


def _sqlite_engine(url: str, settings: Settings, size: int, *, begin: str, reads_only: bool) -> AsyncEngine:
    engine = create_async_engine(
        url,
        pool_size=size,
        max_overflow=0,
        pool_timeout=settings.database_timeout_seconds,
        connect_args={"isolation_level": None},
    )

    def prepare(raw: Any, _record: object) -> None:
        prepare_connection(raw, settings.database_timeout_seconds)
        if reads_only:
            cursor = raw.cursor()
            cursor.execute("PRAGMA query_only = ON")
            cursor.close()
        else:
            limit_size(raw, settings.database_max_bytes)

    event.listen(engine.sync_engine, "connect", prepare)
    event.listen(engine.sync_engine, "begin", lambda conn: conn.exec_driver_sql(begin))
    return engine


def _explain_read_only(context: ExceptionContext) -> None:
    text = str(context.original_exception)
    if "readonly database" in text or "read-only transaction" in text:
        raise ReadOnlySessionError from context.original_exception
    return


db = Database()
"""The database of this process."""
