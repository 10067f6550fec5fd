"""Lets connections that are behind read the log, at the speed of their sockets, until they are LIVE again.

One mechanism for a client that comes back, one that reads slowly, one that wants a log from a line on, and
one whose rights changed while something waited. A connection that is behind has one task here; what it asks of
the database is bounded by the reader, what it holds by a page and half the connection's budget.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from backend.app import kill_points, metrics
from backend.app.realtime.audience import Wish
from backend.app.realtime.connection import Connection
from backend.app.realtime.event_log import Position
from backend.app.realtime.hub import Hub
from backend.app.realtime.latest_payments import LatestPayments
from backend.app.realtime.log_reader import LinesPage, Reader, StreamPage
from backend.app.realtime.marks import LOGS_UPDATE, Mark, deployment_of
from backend.app.realtime.resume import LostReason, why_lost
from backend.app.schemas.errors import WindFlowError
from backend.app.schemas.event_spec import Delivery, EventSpec
from backend.app.schemas.messages import server_message

logger = logging.getLogger("windflow.catch_up")


class CatchUp:
    """The tasks of the connections that are behind."""

    def __init__(
        self,
        hub: Hub,
        reader: Reader,
        catalogue: Mapping[str, EventSpec],
        *,
        chunk_bytes: int,
        gap_seconds: float,
        retry_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Any] = asyncio.sleep,
    ) -> None:
        self._hub = hub
        self._reader = reader
        self._catalogue = catalogue
        self.chunk_bytes = chunk_bytes
        """Most bytes of a stream that are queued together (one event may be larger)."""
        self._gap_seconds = gap_seconds
        self._retry_seconds = retry_seconds
        self._clock = clock
        self._sleep = sleep
        self.payments = LatestPayments(hub, reader, catalogue, self.room)
        self._tasks: dict[Connection, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, connection: Connection) -> None:
        """Have a connection catch up; no-op if it does already."""
        if connection in self._tasks or connection.is_over:
            return
        task = asyncio.get_running_loop().create_task(self._run(connection), name="catch up")
        self._tasks[connection] = task
        metrics.CONNECTIONS_BEHIND.set(len(self._tasks))

    async def stop(self) -> None:
        """End all tasks."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, connection: Connection) -> None:
        pursuit = _Pursuit(self, connection)
        try:
            while connection.is_behind and not connection.is_over:
                await self.room(connection)
                await self._step(connection, pursuit)
        finally:
            # In the step of the last look, so that nobody who falls behind right after it is overlooked.
            self._tasks.pop(connection, None)
            metrics.CONNECTIONS_BEHIND.set(len(self._tasks))

    async def _step(self, connection: Connection, pursuit: "_Pursuit") -> None:
        try:
            await pursuit.step()
        except (SQLAlchemyError, OSError, TimeoutError, WindFlowError) as error:
            # The log is the truth: what cannot be read now is read later, and the socket stays.
            logger.warning("the log cannot be read: %s", error, extra={"connection_id": connection.id})
        except Exception:
            logger.exception("a connection cannot catch up", extra={"connection_id": connection.id})
        else:
            return
        metrics.CATCH_UP_FAILURES.inc()
        await self._sleep(self._retry_seconds)

    async def room(self, connection: Connection) -> None:
        """Wait until the connection takes more of the log, and let others have their turn in any case."""
        await asyncio.sleep(0)
        while not connection.is_over and not connection.has_page_room():
            waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            connection.on_room = lambda waiting=waiting: None if waiting.done() else waiting.set_result(None)
            try:
                await waiting
            finally:
                connection.on_room = None


class _Pursuit:
    """One connection on its way to LIVE."""

    def __init__(self, catch_up: CatchUp, connection: Connection) -> None:
        self._all = catch_up
        self._hub = catch_up._hub
        self._reader = catch_up._reader
        self._connection = connection
        self._told: set[str] = set()
        """The sources that the client was told it is behind on."""
        self._ahead_since: dict[str, float] = {}

    async def step(self) -> None:
        """Read one page."""
        connection = self._connection
        if connection.is_over:
            return
        if connection.latest_debt is not None:
            await self._all.payments.pay(connection, connection.latest_debt)
            return
        source = next(iter(connection.cursors), None)
        if source is None:
            return
        if self._is_live(source):
            return
        # The next step is another source's turn.
        after = connection.cursors[source] = connection.cursors.pop(source)
        deployment_id = deployment_of(source)
        if deployment_id is None:
            await self._read_stream(source, after)
        else:
            await self._read_lines(source, deployment_id, after)

    def _is_live(self, source: str) -> bool:
        if not self._hub.try_live(self._connection, source):
            return False
        self._ahead_since.pop(source, None)
        if source in self._told:
            self._told.discard(source)
            self._push("caught_up", {"stream": source, "positions": self._positions(source)})
        return True

    # ---- streams -------------------------------------------------------------------------------------------

    async def _read_stream(self, stream: str, after: int) -> None:
        page = await self._reader.events(stream, after)
        if self._connection.cursors.get(stream) != after:
            return  # It fell further back, or does not follow the stream any more.
        known = self._hub.heads.position(stream)
        if page is None:
            self._lose_stream(stream, LostReason.UNKNOWN, after)
            return
        reason = why_lost(Position(known.epoch if known else page.epoch, after), page)
        if reason is not None:
            self._lose_stream(stream, reason, after)
            return
        self._tell_behind(stream, page.head - after)
        if page.events:
            await self._push_events(stream, page, after)
        else:
            await self._wait_for_hub(stream)

    async def _push_events(self, stream: str, page: StreamPage, cursor: int) -> None:
        """Push what the connection may have and wants of a page, as long as it takes it and goes on from here."""
        connection, events = self._connection, page.events
        at = 0
        while at < len(events):
            if not connection.has_page_room():
                await self._all.room(connection)
            if connection.cursors.get(stream) != cursor:
                return
            frames: list[bytes] = []
            first = size = 0
            # From the question to the queue without an await: nothing is pushed under older rights (R6).
            wish = Wish(connection, page.organization_id)
            while at < len(events) and size < self._all.chunk_bytes:
                event = events[at]
                if wish.has(event.spec, event.subject, event.user_id, event.offset):
                    first = first or event.offset
                    frames.append(event.frame)
                    size += len(event.frame)
                cursor = event.offset
                at += 1
            connection.push_page(b"".join(frames), Mark(Delivery.STREAM, stream, first), cursor)
            metrics.EVENTS_REPLAYED.inc(len(frames))
            kill_points.reached("during_replay")

    def _lose_stream(self, stream: str, reason: LostReason, after: int) -> None:
        """Go on from the hub's head, and say that what lay between is lost."""
        connection, hub = self._connection, self._hub
        hub.settle()
        connection.forget_source(stream)
        known = hub.heads.position(stream)
        lost = {"epoch": known.epoch if known else "", "offset": after}
        tell_lost(connection, stream, reason, lost, hub.positions(connection))

    # ---- logs ----------------------------------------------------------------------------------------------

    async def _read_lines(self, source: str, deployment_id: str, after: int) -> None:
        connection = self._connection
        page = await self._reader.lines(deployment_id, after)
        if connection.cursors.get(source) != after:
            return
        if page is None or not self._follows(page, deployment_id):
            connection.forget_source(source)
            return
        if after > page.last_line:
            self._lose_lines(source, LostReason.FUTURE, after, page.last_line)
            return
        if page.first > after + 1:
            self._lose_lines(source, LostReason.EXPIRED, after, page.first - 1)
            return
        self._tell_behind(source, page.last_line - after)
        if page.frame:
            if not connection.has_page_room():
                await self._all.room(connection)
            if connection.cursors.get(source) != after or not self._follows(page, deployment_id):
                return
            connection.push_page(page.frame, Mark(Delivery.LOG, source, page.first), page.last)
            metrics.EVENTS_REPLAYED.inc()
            kill_points.reached("during_replay")
            return
        if self._hub.heads.head(source) is None and self._has_waited(source):
            # Nothing was handed on of this log for so long: what the page showed is all there is.
            self._hub.heads.learn_lines(deployment_id, after)
            return
        await self._wait_for_hub(source)

    def _follows(self, page: LinesPage, deployment_id: str) -> bool:
        spec = self._all._catalogue[LOGS_UPDATE]
        return Wish(self._connection, page.organization_id).has(spec, deployment_id)

    def _lose_lines(self, source: str, reason: LostReason, after: int, cursor: int) -> None:
        self._connection.follow_from(source, cursor)
        tell_lost(self._connection, source, reason, {"line": after + 1}, {source: {"line": cursor + 1}})

    # ---- what the client is told ---------------------------------------------------------------------------

    def _tell_behind(self, source: str, behind: int) -> None:
        if behind > 0 and source not in self._told:
            self._told.add(source)
            self._push("catching_up", {"stream": source, "behind": behind})

    def _positions(self, source: str) -> dict[str, Any]:
        if deployment_of(source) is None:
            return self._hub.positions(self._connection)
        line = self._connection.position(source, self._hub.heads.head(source) or 0) + 1
        return {source: {"line": line}}

    def _push(self, kind: str, data: Mapping[str, Any]) -> None:
        self._connection.push(server_message(kind, data))

    # ---- waiting -------------------------------------------------------------------------------------------

    async def _wait_for_hub(self, source: str) -> None:
        """The page went further than what was handed on here: the hub is about to get there."""
        self._ahead_since.setdefault(source, self._all._clock())
        await self._all._sleep(self._all._gap_seconds / 25)

    def _has_waited(self, source: str) -> bool:
        since = self._ahead_since.get(source)
        return since is not None and self._all._clock() - since >= self._all._gap_seconds


def tell_lost(
    connection: Connection,
    source: str,
    reason: LostReason,
    lost: Mapping[str, Any],
    positions: Mapping[str, Any],
) -> None:
    """Tell a client that a position of it is lost, and where it is now."""
    metrics.POSITIONS_LOST.labels(reason.value).inc()
    data = {"stream": source, "reason": reason.value, "lost": lost, "positions": positions}
    connection.push(server_message("position_lost", data))
