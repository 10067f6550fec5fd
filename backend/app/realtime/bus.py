"""The way of committed events: in stream order, each once, to every listener of this node.

`hand_on` is called after each commit. On PostgreSQL the callers of two commits may resume in
reverse order; the bus holds back what came early, and reads the log when the missing one does
not come (its commit was made but its answer was lost).
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping

from backend.app import metrics
from backend.app.database import Database
from backend.app.realtime import event_log
from backend.app.realtime.event import Event
from backend.app.realtime.event_log import Position
from backend.app.realtime.heads import Heads
from backend.app.schemas.event_spec import Delivery, EventSpec
from backend.app.storage_failures import log_failure

logger = logging.getLogger("windflow.bus")

Listener = Callable[[Event], None]

_PAGE = 500


class StreamOrder:
    """Puts the events of streams in order of their offsets. Pure: no clock, no I/O."""

    def __init__(self) -> None:
        self._heads: dict[str, int] = {}
        self._early: dict[str, dict[int, Event]] = {}

    def learn(self, stream: str, offset: int) -> None:
        """Tell where a stream stands of which nothing was given out; one that was never named stands at 0."""
        if stream not in self._heads:
            self._heads[stream] = offset

    def reset(self, stream: str, offset: int) -> None:
        """A stream has begun anew: what came early is of no use."""
        self._heads[stream] = offset
        self._early.pop(stream, None)

    def skip_to(self, stream: str, offset: int) -> None:
        """Nothing up to an offset will come any more; what came early after it is kept."""
        self._heads[stream] = offset
        early = self._early.get(stream, {})
        for past in [number for number in early if number <= offset]:
            del early[past]

    def head(self, stream: str) -> int:
        """Return the offset of the last event that was given out."""
        return self._heads.get(stream, 0)

    def has_gap(self, stream: str) -> bool:
        """Tell whether an event is held back because one before it is missing."""
        return bool(self._early.get(stream))

    def accept(self, event: Event) -> list[Event]:
        """Take an event in; return what is due now, in order. One at or below the head was given out before."""
        if event.offset is None:
            return [event]
        stream = event.stream
        head = self.head(stream)
        early = self._early.setdefault(stream, {})
        if event.offset > head:
            early[event.offset] = event
        due = []
        while head + 1 in early:
            head += 1
            due.append(early.pop(head))
        self._heads[stream] = head
        if not early:
            del self._early[stream]
        return due


class Bus:
    """Hands committed events to the listeners: the hub, the plugins."""

    def __init__(
        self,
        database: Database,
        catalogue: Mapping[str, EventSpec],
        gap_seconds: float,
        late_lines_seconds: float,
        heads: Heads,
    ) -> None:
        self._database = database
        self._catalogue = catalogue
        self._gap_seconds = gap_seconds
        self._late_lines_seconds = late_lines_seconds
        self._heads = heads
        """How far the hub is: it advances them; here they are learned."""
        self._order = StreamOrder()
        self._listeners: list[Listener] = []
        self._filling: dict[str, asyncio.Task[None]] = {}
        self.on_hole: Callable[[str, Position], None] = lambda stream, position: None
        """Called when retention has removed what was not handed on yet, with where the stream goes on."""
        self._targets: dict[str, int] = {}
        """The offsets up to which streams have to be read from the log, whatever comes."""

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Add a listener, called in order for every event; it must be quick. Returns its undo."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def start(self) -> None:
        """Learn where the streams, and the logs that still grow, stand. To be called before the first event."""
        async with self._database.session() as session:
            self._learn(await event_log.heads(session))
            for deployment_id, _, last in await event_log.open_logs(session, self._late_lines_seconds):
                self._heads.learn_lines(deployment_id, last)

    async def learn(self, streams: Iterable[str]) -> None:
        """Learn where streams stand of which nothing is known yet; reads the database only if there are any."""
        unknown = [stream for stream in streams if self._heads.position(stream) is None]
        if unknown:
            async with self._database.session() as session:
                self._learn(await event_log.heads(session, unknown))

    def _learn(self, positions: Mapping[str, Position]) -> None:
        for stream, position in positions.items():
            self._order.learn(stream, position.offset)
            # What was handed on while this was read may be further.
            self._heads.learn({stream: Position(position.epoch, self._order.head(stream))})

    def reset(self, stream: str, offset: int) -> None:
        """A stream has begun anew, with another epoch: what comes after this offset is next."""
        self._order.reset(stream, offset)
        self._targets.pop(stream, None)

    def read_up_to(self, stream: str, offset: int) -> None:
        """Have a stream handed on from the log up to an offset of which nobody told here (R5)."""
        self._targets[stream] = max(offset, self._targets.get(stream, 0))
        self._fill(stream)

    async def stop(self) -> None:
        """End what still reads the log."""
        tasks = list(self._filling.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def hand_on(self, event: Event) -> None:
        """Give an event to the listeners, in its stream's order. Never raises."""
        for due in self._order.accept(event):
            self._emit(due)
        if event.spec.delivery is Delivery.STREAM:
            self._watch_gap(event.stream)

    def _emit(self, event: Event) -> None:
        metrics.EVENTS_COMMITTED.labels(event.spec.name, event.spec.delivery.value).inc()
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except Exception:
                # One listener's failure must neither stop the others nor reach who published.
                logger.exception("a listener failed", extra={"event_type": event.spec.name, "event_id": event.id})

    def _watch_gap(self, stream: str) -> None:
        if self._order.has_gap(stream):
            self._fill(stream, self._gap_seconds)

    def _fill(self, stream: str, after_seconds: float = 0) -> None:
        if stream not in self._filling:
            task = asyncio.get_running_loop().create_task(self._fill_gap(stream, after_seconds))
            self._filling[stream] = task
            task.add_done_callback(lambda _: self._filling.pop(stream, None))

    def _is_missing(self, stream: str) -> bool:
        return self._order.has_gap(stream) or self._order.head(stream) < self._targets.get(stream, 0)

    async def _fill_gap(self, stream: str, after_seconds: float) -> None:
        """Wait for what is missing; when it does not come, read it from the log, until nothing is missing."""
        await asyncio.sleep(after_seconds)
        while self._is_missing(stream):
            try:
                async with self._database.session() as session:
                    rows = await event_log.read_since(session, stream, self._order.head(stream), _PAGE)
            except Exception as error:  # noqa: BLE001 - log_failure tells of it
                # The log is the truth: what cannot be read now is read in the next round.
                log_failure(logger, "the event log cannot be read", error, stream=stream)
                rows = []
            if rows and rows[0].offset > self._order.head(stream) + 1:
                self._pass_hole(stream, rows[0].offset - 1)
            for row in rows:
                event = event_log.event_of(row, self._catalogue)
                if event.offset is not None and event.offset > self._order.head(stream):
                    metrics.EVENTS_REREAD.inc()
                    for due in self._order.accept(event):
                        self._emit(due)
            if not rows:
                await asyncio.sleep(self._gap_seconds)
        self._targets.pop(stream, None)

    def _pass_hole(self, stream: str, offset: int) -> None:
        """Go on after what retention removed before it was handed on here."""
        known = self._heads.position(stream)
        logger.warning("events were removed before they were handed on", extra={"stream": stream, "up_to": offset})
        self._order.skip_to(stream, offset)
        if known is not None:
            self.on_hole(stream, Position(known.epoch, offset))
