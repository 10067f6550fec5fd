"""Reads one page of a list of users, organizations, sessions or API tokens, newest first.

Rows and positions of an answer are read in one session, which is one snapshot of the database.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, Select
from sqlalchemy.ext.asyncio import AsyncSession

from backend.app.operations.paging import encode_cursor, older_than
from backend.app.realtime.event import stream_of
from backend.app.realtime.event_log import positions


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which part of a list a client wants."""

    limit: int | None = None
    """None, or more than the most: the most that the settings allow."""
    cursor: str | None = None


async def read_page(
    session: AsyncSession, statement: Select[*tuple[Any, ...]], columns: tuple[Any, Any], page: PageRequest, most: int
) -> tuple[Sequence[Row[Any]], str | None]:
    """Return the rows of a page, and the cursor of the next one or None.

    `columns` are the creation time and the id that order the list. Raise `invalid_payload` for a
    cursor that this server never made.
    """
    created_at, row_id = columns
    size = min(page.limit or most, most)
    if page.cursor is not None:
        statement = statement.where(older_than(page.cursor, created_at, row_id))
    statement = statement.add_columns(created_at.label("page_time"), row_id.label("page_id"))
    found = (await session.execute(statement.order_by(created_at.desc(), row_id.desc()).limit(size + 1))).all()
    rows = found[:size]
    return rows, encode_cursor(rows[-1].page_time, rows[-1].page_id) if len(found) > size else None


async def with_positions(
    session: AsyncSession, answer: dict[str, Any], organization_ids: Iterable[str | None]
) -> dict[str, Any]:
    """Return an answer with the positions of the streams that tell its changes; None is the system's stream."""
    streams = sorted({stream_of(organization_id) for organization_id in organization_ids})
    return {**answer, "positions": await positions(session, streams)}
