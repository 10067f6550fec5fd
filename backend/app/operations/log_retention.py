"""Retention of log lines: by age, by the size of one log, by the size of all; always the oldest first.

`Retention` calls `run` periodically, and deleting a deployment takes its lines away in the same steps.
Invariants: what is removed is a log's beginning, under its deployment's lock; an active deployment
keeps its lines unless its log alone is too large; each write is bounded in lines and bytes.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Row, delete, func, select

from backend.app import metrics
from backend.app.config import Settings
from backend.app.database import Database, Transaction
from backend.app.models import Deployment, DeploymentLog
from backend.app.models.columns import now
from backend.app.operations.deployment_logs import LINE_BYTES
from backend.app.operations.deployment_rows import ACTIVE, change, find_locked

logger = logging.getLogger("windflow.retention")

STEP_BYTES = 8_388_608
"""What one write removes at most, but one line at least: others wait for it."""
EVERYTHING = 2**62
"""Bytes that no log has."""
PAGE = 500
"""Deployments that are looked up at once."""


class Removed(NamedTuple):
    """What one write removed of a log."""

    lines: int = 0
    is_last: bool = True
    """Nothing more of this log is due."""
    left_bytes: int = 0
    """What the log takes now."""


def remove_lines(tx: Transaction, row: Row[Any], wanted_bytes: int, most: int) -> Removed:
    """Remove the first lines of a locked deployment until so many bytes are free, as far as one write may."""
    of_log = DeploymentLog.deployment_id == row.id
    first = select(DeploymentLog.line, DeploymentLog.size).where(of_log).order_by(DeploymentLog.line).limit(most + 1)
    found = tx.conn.execute(first).all()
    taken = freed = last = 0
    for line, size in found[:most]:
        if taken and freed >= min(wanted_bytes, STEP_BYTES):
            break
        taken, freed, last = taken + 1, freed + size + LINE_BYTES, line
    if taken:
        tx.conn.execute(delete(DeploymentLog).where(of_log, DeploymentLog.line <= last))
    is_empty = taken == len(found)
    left = 0 if is_empty else max(LINE_BYTES, row.log_bytes - freed)
    change(tx, row, {"log_bytes": left})
    return Removed(taken, is_empty or freed >= wanted_bytes, left)


class LogRetention:
    """Which lines are kept."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self._db = db
        self._seconds = settings.log_retention_seconds
        self._total_bytes = settings.log_total_bytes
        # A log that breaks the limit of all logs by itself breaks its own.
        self._deployment_bytes = min(settings.log_deployment_bytes, settings.log_total_bytes)
        self._most = settings.housekeeping_rows

    async def run(self) -> int:
        """Remove the lines that are too old or too much, and return how many."""
        return await self._remove_old() + await self._remove_of_large() + await self._remove_of_all()

    async def _remove_old(self) -> int:
        """Remove the logs of deployments that ended long ago."""
        limit = now() - timedelta(seconds=self._seconds)

        def due_bytes(row: Row[Any]) -> int:
            return EVERYTHING if _ended_before(row, limit) else 0

        return await self._remove((Deployment.finished_at < limit) & (Deployment.log_bytes > 0), due_bytes)

    async def _remove_of_large(self) -> int:
        """Remove the beginning of logs that are too large, also of active deployments."""
        most = self._deployment_bytes

        def due_bytes(row: Row[Any]) -> int:
            return int(row.log_bytes) - most

        return await self._remove(Deployment.log_bytes > most, due_bytes)

    async def _remove(self, which: ColumnElement[bool], due_bytes: Callable[[Row[Any]], int]) -> int:
        removed, is_more = 0, True
        while is_more:
            async with self._db.session() as session:
                wanted = select(Deployment.id).where(which).order_by(Deployment.finished_at, Deployment.id).limit(PAGE)
                ids = list(await session.scalars(wanted))
            before = removed
            for deployment_id in ids:
                is_last = False
                while not is_last:
                    lines, is_last, _ = await self._step(deployment_id, due_bytes)
                    removed += lines
            is_more = len(ids) == PAGE and removed > before
        return removed

    async def _remove_of_all(self) -> int:
        """Remove the logs that ended first until all together are small enough; active deployments keep theirs."""
        removed, is_more = 0, True
        while is_more:
            async with self._db.session() as session:
                total = await session.scalar(select(func.sum(Deployment.log_bytes))) or 0
                excess = int(total) - self._total_bytes
                if excess <= 0:
                    break
                is_ended = Deployment.status.not_in(ACTIVE) & (Deployment.log_bytes > 0)
                wanted = select(Deployment.id, Deployment.log_bytes).where(is_ended)
                found = await session.execute(wanted.order_by(Deployment.finished_at, Deployment.id).limit(PAGE))
                rows = found.all()
            if not rows:
                logger.warning(
                    "the logs of active deployments take %d bytes, more than all logs together may "
                    "(WINDFLOW_LOG_TOTAL_BYTES, %d); their lines are kept",
                    total,
                    self._total_bytes,
                )
                break
            before = removed
            for deployment_id, log_bytes in rows:
                lines, freed = await self._remove_ended(deployment_id, log_bytes, excess)
                removed, excess = removed + lines, excess - freed
                if excess <= 0:
                    break
            is_more = removed > before
        return removed

    async def _remove_ended(self, deployment_id: str, log_bytes: int, excess: int) -> tuple[int, int]:
        """Remove lines of one ended deployment; return how many, and how many bytes that freed.

        Only while its log takes what it took when it was looked at: otherwise another server is at it.
        """
        removed, left, is_last = 0, log_bytes, False

        def due_bytes(row: Row[Any]) -> int:
            is_as_seen = row.status not in ACTIVE and row.log_bytes == left
            wanted = excess - (log_bytes - left)
            return (EVERYTHING if wanted >= left else wanted) if is_as_seen else 0

        while not is_last:
            lines, is_last, now_left = await self._step(deployment_id, due_bytes)
            if lines == 0:
                break
            removed, left = removed + lines, now_left
        return removed, log_bytes - left

    async def _step(self, deployment_id: str, due_bytes: Callable[[Row[Any]], int]) -> Removed:
        """Remove what one write may of one log; what is due is asked under the deployment's lock."""

        def unit(tx: Transaction) -> Removed:
            row = find_locked(tx, deployment_id)
            wanted = 0 if row is None else due_bytes(row)
            return Removed() if row is None or wanted <= 0 else remove_lines(tx, row, wanted, self._most)

        removed = await self._db.write(unit)
        metrics.ROWS_REMOVED.labels(DeploymentLog.__tablename__).inc(removed.lines)
        return removed


def _ended_before(row: Row[Any], limit: datetime) -> bool:
    return row.status not in ACTIVE and row.finished_at is not None and row.finished_at < limit
