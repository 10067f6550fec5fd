"""Inserts rows that are not there yet, on SQLite and PostgreSQL alike.

Called inside units of work, where two requests may make the same thing at the same time: the
database decides which of them made it, and nobody gets an error for having been second.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import InstrumentedAttribute

from backend.app.database import Base


def insert_absent(
    conn: Connection,
    table: type[Base],
    rows: Sequence[Mapping[str, Any]],
    returning: InstrumentedAttribute[Any],
) -> list[Row[Any]]:
    """Insert the rows whose keys are free and return one column of those that were inserted."""
    if not rows:
        return []
    make = sqlite.insert if conn.dialect.name == "sqlite" else postgresql.insert
    statement = make(table).on_conflict_do_nothing().returning(returning)
    return list(conn.execute(statement, [dict(row) for row in rows]))
