"""Reads deployments and their lines: lists, one deployment, pages of its log, the log as text.

Every answer carries the positions of its stream, from the same snapshot as the rows. Memory is
bounded by a page, and a long download holds no database session between two pages.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from backend.app.auth.permissions import Caller
from backend.app.config import Settings
from backend.app.database import Database
from backend.app.models import Deployment, DeploymentLog, Organization
from backend.app.operations.deployment_rows import missing, shown
from backend.app.operations.paging import encode_cursor, older_than
from backend.app.operations.stored_text import contains, is_storable
from backend.app.realtime.event import stream_of
from backend.app.realtime.event_log import positions
from backend.app.schemas.errors import ErrorCode, WindFlowError, not_found
from backend.app.schemas.times import wire_time


@dataclass(frozen=True, slots=True)
class DeploymentFilter:
    """Which deployments a list shows; what is None or empty filters nothing."""

    statuses: Sequence[str] = ()
    q: str | None = None
    """Part of the name, the target or the id, upper and lower case alike."""
    created_by: str | None = None
    """Id of the user."""
    organization_id: str | None = None
    """Default: the caller's. Another one: superusers only."""


@dataclass(frozen=True, slots=True)
class LogQuery:
    """Which lines a reader wants."""

    from_line: int = 1
    """The first line's number; 0 and 1: all that is there; -n: the last n of it."""
    limit: int | None = None
    level: str | None = None
    q: str | None = None


class DeploymentReads:
    """Answers questions; changes nothing."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self._db = db
        self._settings = settings

    async def page(
        self, caller: Caller, wanted: DeploymentFilter, limit: int | None, cursor: str | None
    ) -> dict[str, Any]:
        """Return `{items, nextCursor, positions}`, newest first; `nextCursor` is None on the last page.

        A limit above `page_limit` gives pages of `page_limit`. Raises `forbidden`, `not_found` (the
        organization) and `invalid_payload` (the cursor).
        """
        organization_id = caller.organization(wanted.organization_id)
        size = min(limit or self._settings.page_limit, self._settings.page_limit)
        statement = select(Deployment.__table__).where(Deployment.organization_id == organization_id)
        statement = statement.where(*self._conditions(wanted))
        if cursor is not None:
            statement = statement.where(older_than(cursor, Deployment.created_at, Deployment.id))
        statement = statement.order_by(Deployment.created_at.desc(), Deployment.id.desc()).limit(size + 1)
        async with self._db.session() as session:
            if organization_id != caller.principal.organization_id:
                await _require_organization(session, organization_id)
            heads = await positions(session, [stream_of(organization_id)])
            rows = (await session.execute(statement)).all()
        page = rows[:size]
        next_cursor = encode_cursor(page[-1].created_at, page[-1].id) if len(rows) > size else None
        return {"items": [shown(row._mapping) for row in page], "nextCursor": next_cursor, "positions": heads}

    def _conditions(self, wanted: DeploymentFilter) -> list[ColumnElement[bool]]:
        conditions: list[ColumnElement[bool]] = []
        if wanted.statuses:
            conditions.append(Deployment.status.in_(list(wanted.statuses)))
        if wanted.created_by is not None:
            known = is_storable(wanted.created_by)
            conditions.append(Deployment.created_by == (wanted.created_by if known else ""))
        if wanted.q:
            is_sqlite = self._db.is_sqlite
            columns = (Deployment.name, Deployment.target, Deployment.id)
            conditions.append(or_(*(contains(column, wanted.q, is_sqlite=is_sqlite) for column in columns)))
        return conditions

    async def get(self, caller: Caller, deployment_id: str) -> dict[str, Any]:
        """Return one deployment with positions; raise `not_found`."""
        async with self._db.session() as session:
            row = await _find(session, caller, deployment_id)
            return {**shown(row._mapping), "positions": await positions(session, [stream_of(row.organization_id)])}

    async def log_page(self, caller: Caller, deployment_id: str, query: LogQuery) -> dict[str, Any]:
        """Return `{items, firstLine, nextLine, lastLine, positions}`.

        To go on, ask from `nextLine`; when it is above `lastLine` there is nothing more yet. A page
        holds at most `log_append_lines` lines and about `log_append_bytes` of text, but one line at
        least. `firstLine` is the first line that retention left, `lastLine` + 1 if it left none. Raises
        `not_found`, `invalid_payload`, and `lines_expired` where the lines asked for by number are gone.
        """
        async with self._db.session() as session:
            row = await _find(session, caller, deployment_id)
            heads = await positions(session, [stream_of(row.organization_id)])
            first_line = await _first_line(session, row)
            start = _start(query.from_line, first_line, row.last_line)
            lines, next_line = await self._lines(session, row, start, query, query.limit)
        items = [
            {
                "line": line.line,
                "text": line.text,
                "t": None if line.time is None else wire_time(line.time),
                "stream": line.stream,
                "level": line.level,
            }
            for line in lines
        ]
        return {
            "items": items,
            "firstLine": first_line,
            "nextLine": next_line,
            "lastLine": row.last_line,
            "positions": heads,
        }

    async def log_text(self, caller: Caller, deployment_id: str, query: LogQuery) -> AsyncIterator[str]:
        """Return the lines as text, page by page, each line with its line end, up to what is the last line now.

        Raises `not_found`, `invalid_payload` and `lines_expired` before it returns. A deployment that is
        deleted meanwhile ends the text; in place of lines that retention removes meanwhile, one line says so.
        """
        async with self._db.session() as session:
            row = await _find(session, caller, deployment_id)
            start = _start(query.from_line, await _first_line(session, row), row.last_line)
            first, next_line = await self._lines(session, row, start, query, query.limit)
        return self._pages(row, query, first, next_line)

    async def _pages(
        self, row: Row[Any], query: LogQuery, lines: Sequence[Row[Any]], next_line: int
    ) -> AsyncIterator[str]:
        left = query.limit
        while lines:
            yield "".join(f"{line.text}\n" for line in lines)
            left = None if left is None else left - len(lines)
            if next_line > row.last_line or left == 0:
                return
            wanted = next_line
            async with self._db.session() as session:
                if await _is_gone(session, row):
                    return
                first_line = min(await _first_line(session, row), row.last_line + 1)
                lines, next_line = await self._lines(session, row, max(first_line, wanted), query, left)
            if first_line > wanted:
                yield f"[lines {wanted} to {first_line - 1} were removed by retention]\n"

    async def _lines(
        self, session: AsyncSession, row: Row[Any], start: int, query: LogQuery, limit: int | None
    ) -> tuple[Sequence[Row[Any]], int]:
        """Return a page of lines and the line to go on from. What is too large for a page is never read."""
        size = min(limit or self._settings.log_append_lines, self._settings.log_append_lines)
        conditions = [DeploymentLog.deployment_id == row.id, DeploymentLog.line <= row.last_line]
        if query.level:
            conditions.append(func.lower(DeploymentLog.level) == _storable(query.level).lower())
        if query.q:
            conditions.append(contains(DeploymentLog.text, query.q, is_sqlite=self._db.is_sqlite))
        found = await session.execute(
            select(DeploymentLog.line, DeploymentLog.size)
            .where(*conditions, DeploymentLog.line >= start)
            .order_by(DeploymentLog.line)
            .limit(size)
        )
        sizes = found.all()
        numbers = _prefix(sizes, self._settings.log_append_bytes)
        if not numbers:
            return [], row.last_line + 1
        is_all = len(numbers) == len(sizes) and len(sizes) < size
        page = await session.execute(
            select(DeploymentLog.__table__)
            .where(DeploymentLog.deployment_id == row.id, DeploymentLog.line.in_(numbers))
            .order_by(DeploymentLog.line)
        )
        return page.all(), row.last_line + 1 if is_all else numbers[-1] + 1


async def _find(session: AsyncSession, caller: Caller, deployment_id: str) -> Row[Any]:
    if not is_storable(deployment_id):
        raise missing()
    row = (await session.execute(select(Deployment.__table__).where(Deployment.id == deployment_id))).first()
    if row is None or not caller.can_reach(row.organization_id):
        raise missing()
    return row


async def _require_organization(session: AsyncSession, organization_id: str) -> None:
    found = is_storable(organization_id) and await session.scalar(
        select(Organization.id).where(Organization.id == organization_id)
    )
    if not found:
        raise not_found("organization")


async def _is_gone(session: AsyncSession, row: Row[Any]) -> bool:
    return await session.scalar(select(Deployment.id).where(Deployment.id == row.id)) is None


async def _first_line(session: AsyncSession, row: Row[Any]) -> int:
    """Return the number of the first line that is there; the next one's if there is none."""
    found = await session.scalar(select(func.min(DeploymentLog.line)).where(DeploymentLog.deployment_id == row.id))
    return row.last_line + 1 if found is None else int(found)


def _start(from_line: int, first_line: int, last_line: int) -> int:
    """Return the line to start at; raise `lines_expired` if it was asked for by its number and is gone."""
    if from_line < 0:
        return max(first_line, last_line + 1 + from_line)
    if 1 < from_line < first_line:
        message = f"fromLine: retention removed the lines before {first_line}"
        raise WindFlowError(ErrorCode.LINES_EXPIRED, message, details={"firstAvailable": first_line})
    return max(first_line, from_line)


def _storable(text: str) -> str:
    return text if is_storable(text) else ""


def _prefix(sizes: Sequence[Row[int, int]], most_bytes: int) -> list[int]:
    """Return the numbers of the first lines that fit together, at least one if there is one."""
    numbers: list[int] = []
    total = 0
    for number, size in sizes:
        total += size
        if numbers and total > most_bytes:
            break
        numbers.append(number)
    return numbers
