"""Publishes and audits authenticated sockets in groups: a restart brings everyone back at once.

The endpoint adds each one; a group is written after `group_seconds`, or as soon as it is full. The
socket does not wait for it. What cannot be written is logged and counted, never silently dropped.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from backend.app import metrics
from backend.app.auth.permissions import Caller

logger = logging.getLogger("windflow.socket")

WAITING_GROUPS = 20
"""Groups that may wait for a slow database; above, records are dropped with a counter."""


class ConnectRecords:
    """Collects and writes. `main` stops it, which writes what is left."""

    def __init__(
        self, write: Callable[[Sequence[Caller]], Awaitable[None]], *, group_seconds: float, group_rows: int
    ) -> None:
        self._write = write
        self._group_seconds = group_seconds
        self._group_rows = group_rows
        self._waiting: list[Caller] = []
        self._is_full = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def add(self, caller: Caller) -> None:
        """Take the record of a socket that authenticated; `caller` names its connection."""
        if len(self._waiting) >= WAITING_GROUPS * self._group_rows:
            metrics.EVENTS_DROPPED.labels("connect records").inc()
            return
        self._waiting.append(caller)
        if len(self._waiting) >= self._group_rows:
            self._is_full.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="connect records")

    async def stop(self) -> None:
        """Write what is left."""
        self._group_seconds = 0
        self._is_full.set()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._collect()
                group, self._waiting = self._waiting[: self._group_rows], self._waiting[self._group_rows :]
                try:
                    await self._write(group)
                except Exception:
                    # A trail that cannot be written degrades: sockets are served, and it is told.
                    metrics.EVENTS_DROPPED.labels("connect records").inc(len(group))
                    logger.exception("the records of %d sockets could not be written", len(group))
        finally:
            self._task = None

    async def _collect(self) -> None:
        if len(self._waiting) < self._group_rows and self._group_seconds:
            self._is_full.clear()
            try:
                async with asyncio.timeout(self._group_seconds):
                    await self._is_full.wait()
            except TimeoutError:
                return
