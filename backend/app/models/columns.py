"""Column types and ids that all tables share.

Ids are UUIDv7 strings (they sort by time, and compare with `==` on every database); times
are UTC with milliseconds, aware in Python on every database.
"""

from datetime import UTC, datetime
from typing import Annotated, Any

import uuid_utils
from sqlalchemy import DateTime, Dialect, String
from sqlalchemy.orm import mapped_column
from sqlalchemy.types import TypeDecorator


def new_id() -> str:
    """Return a new UUIDv7 as text."""
    return str(uuid_utils.uuid7())


def now() -> datetime:
    """Return the present time in UTC, cut to milliseconds: what is stored and what crosses the wire are equal."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


class UtcTime(TypeDecorator[datetime]):
    """A moment in UTC. Refuses naive values; SQLite, which knows no zones, gets and gives UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a stored time needs a time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        moment: datetime = value
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


Id = Annotated[str, mapped_column(String(64))]
PrimaryId = Annotated[str, mapped_column(String(64), primary_key=True, default=new_id)]
Moment = Annotated[datetime, mapped_column(UtcTime)]
CreatedAt = Annotated[datetime, mapped_column(UtcTime, default=now)]
