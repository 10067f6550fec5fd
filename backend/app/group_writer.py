"""Groups of appends on PostgreSQL: who stores records and nothing else shares a transaction with others.

Owned by `Database`. While one group is committed the next one gathers; each caller is answered
after the commit of its group. A group that the database refuses is tried again one by one, so
that what is wrong with one unit hurts nobody else.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Any

from backend.app.schemas.errors import ErrorCode, WindFlowError
from backend.app.storage_failures import is_unavailable

Store = Callable[[Sequence[Any], Callable[[], None]], Awaitable[None]]
"""Stores units in one transaction, and calls the second argument as soon as it is committed."""


@dataclass(slots=True, eq=False)
class _Job:
    unit: Any
    future: "asyncio.Future[None]"
    expires: float
    """Monotonic time after which it is not started any more."""


class GroupWriter:
    """One group at a time, of all that waits by then."""

    def __init__(
        self,
        store: Store,
        *,
        max_waiting: int,
        group_units: int,
        unit_timeout_seconds: float,
        wait_seconds: float,
    ) -> None:
        self._store = store
        self._max_waiting = max_waiting
        self._group_units = group_units
        self._unit_timeout_seconds = unit_timeout_seconds
        self._wait_seconds = wait_seconds
        self._waiting: deque[_Job] = deque()
        self._task: asyncio.Task[None] | None = None
        self._is_stopped = False

    async def append(self, unit: Any) -> None:
        """Store a unit and return after its commit; raise what storing it raises.

        A cancelled caller's unit is dropped while it waits; one that is being stored may be committed.
        """
        if self._is_stopped:
            raise WindFlowError(ErrorCode.STORAGE_UNAVAILABLE, "the database is not connected")
        if len(self._waiting) >= self._max_waiting:
            raise WindFlowError(ErrorCode.STORAGE_UNAVAILABLE, "too many writes are waiting", retry_after_seconds=1)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Job(unit, future, time.monotonic() + self._wait_seconds))
        if self._task is None:
            # In a context of its own: it works for all, not for the request that came first.
            self._task = asyncio.create_task(self._run(), name="groups of appends", context=Context())
        await future

    async def stop(self) -> None:
        """Take nothing more, and store what waits."""
        self._is_stopped = True
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        group: list[_Job] = []
        try:
            while self._waiting:
                group = self._next_group()
                if group:
                    await self._store_group(group)
        finally:
            self._task = None
            # Only when this task is cancelled is anything left.
            for job in (*group, *self._waiting):
                job.future.cancel()
            self._waiting.clear()

    def _next_group(self) -> list[_Job]:
        group: list[_Job] = []
        moment = time.monotonic()
        while self._waiting and len(group) < self._group_units:
            job = self._waiting.popleft()
            if job.future.done():  # its caller was cancelled
                continue
            if moment > job.expires:
                job.future.set_exception(_busy())
            else:
                group.append(job)
        return group

    async def _store_group(self, group: Sequence[_Job]) -> None:
        error = await self._stored(group)
        if error is None:
            return
        if len(group) == 1 or is_unavailable(error) or isinstance(error, WindFlowError):
            for job in group:
                _fail(job, error)
            return
        for job in group:
            if not job.future.done() and (error := await self._stored([job])) is not None:
                _fail(job, error)

    async def _stored(self, group: Sequence[_Job]) -> Exception | None:
        """Store a group and answer its callers, or return why it was not stored."""

        def committed() -> None:
            for job in group:
                if not job.future.done():
                    job.future.set_result(None)

        try:
            async with asyncio.timeout(self._unit_timeout_seconds):
                await self._store([job.unit for job in group], committed)
        except TimeoutError:
            return _busy()
        except Exception as error:  # noqa: BLE001 - the callers get it
            return error
        return None


def _busy() -> WindFlowError:
    return WindFlowError(ErrorCode.STORAGE_UNAVAILABLE, "the database is busy", retry_after_seconds=1)


def _fail(job: _Job, error: Exception) -> None:
    if not job.future.done():
        job.future.set_exception(error)
