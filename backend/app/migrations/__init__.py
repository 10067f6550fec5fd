"""Brings a database to this version's tables, with Alembic's scripts in `versions/`.

Called by a starting server and by `windflow db upgrade`. SQLite's file is copied beside itself
before anything changes; on PostgreSQL an advisory lock lets one process migrate at a time.
"""

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from backend.app.config import Settings

_LOCK = 0x57494E44
"""Key of the advisory lock: the letters WIND."""


async def upgrade(settings: Settings) -> tuple[str | None, str]:
    """Migrate to the newest revision; return the revisions before and after (None: there was no table).

    Raises what the database raises; a SQLite file is then as the copy beside it says.
    """
    url = make_url(settings.effective_database_url())
    is_sqlite = url.get_backend_name() == "sqlite"
    if is_sqlite:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    engine = create_async_engine(url, poolclass=NullPool, connect_args={"isolation_level": None} if is_sqlite else {})
    if is_sqlite:
        # The driver would begin no transaction for DDL: a migration that fails half-way must leave nothing.
        event.listen(engine.sync_engine, "begin", lambda conn: conn.exec_driver_sql("BEGIN IMMEDIATE"))
    try:
        async with engine.connect() as conn:
            return await conn.run_sync(_upgrade, url.database if is_sqlite else None)
    finally:
        await engine.dispose()


def _upgrade(conn: Connection, sqlite_file: str | None) -> tuple[str | None, str]:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = conn
    newest = ScriptDirectory.from_config(config).get_current_head()
    assert newest is not None
    if sqlite_file is None:
        conn.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK})
    try:
        before = MigrationContext.configure(conn).get_current_revision()
        # The look at the revision began a transaction; the scripts make their own.
        conn.commit()
        if before != newest:
            if sqlite_file is not None and before is not None:
                _copy_beside(Path(sqlite_file))
            command.upgrade(config, "head")
            conn.commit()
        return before, newest
    finally:
        if sqlite_file is None:
            conn.rollback()
            conn.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK})
            conn.commit()


def _copy_beside(path: Path) -> None:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    source = sqlite3.connect(path)
    target = sqlite3.connect(path.with_name(f"{path.name}.before-{stamp}"))
    try:
        source.backup(target)
    finally:
        target.close()
        source.close()
