"""Deletes a bounded number of rows, on SQLite and PostgreSQL alike.

Called inside units of work of housekeeping: what one write deletes is what all others wait for.
"""

from typing import Any

from sqlalchemy import ColumnElement, delete, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute

from backend.app.database import Base, Transaction


def delete_some(
    tx: Transaction,
    table: type[Base],
    key: tuple[InstrumentedAttribute[Any], ...],
    which: ColumnElement[bool],
    most: int,
) -> int:
    """Delete at most so many of the rows that meet a condition, and return how many; locked ones are left for later.

    Two statements: a database may evaluate a limited subquery more than once, and delete more.
    """
    chosen = select(*key).where(which).limit(most).with_for_update(skip_locked=True, of=table)
    keys = [tuple(row) for row in tx.conn.execute(chosen)]
    if not keys:
        return 0
    return tx.conn.execute(delete(table).where(tuple_(*key).in_(keys))).rowcount
