"""A model of the log beside the real hub, connections and catch-up: no database, no sockets, no clock."""

import asyncio
import json
from collections.abc import Iterable, Mapping
from typing import Any

from backend.app.realtime.budget import Budget
from backend.app.realtime.bus import StreamOrder
from backend.app.realtime.catch_up import CatchUp
from backend.app.realtime.connection import Connection
from backend.app.realtime.event import Event, event_frame, new_event
from backend.app.realtime.event_log import Position, Standing
from backend.app.realtime.flusher import Flusher
from backend.app.realtime.heads import Heads
from backend.app.realtime.hub import Hub
from backend.app.realtime.log_reader import LinesPage, StoredEvent, StoredValue, StreamPage
from backend.app.realtime.marks import LOGS_UPDATE, latest_source
from backend.app.realtime.resume import judge
from backend.app.realtime.resumes import Resumed
from backend.app.realtime.topics import Topic
from backend.app.schemas.event_spec import Audience, Delivery, EventSpec, Payload
from backend.app.schemas.roles import Role
from backend.app.schemas.websocket_events import CORE_EVENTS
from tests.unit.realtime.outlets import HandOutlet, principal

ORGANIZATION = "org"
STREAM = f"org:{ORGANIZATION}"
EPOCH = "e1"
OPEN, CLOSED = "OPEN_EVENT", "OPERATORS_EVENT"
VALUE = "DEPLOYMENT_PROGRESS"
CATALOGUE = {spec.name: spec for spec in CORE_EVENTS} | {
    name: EventSpec(
        name, Payload, Delivery.STREAM, Audience.ORGANIZATION, frozenset(), "of a test", least_role=role,
        subject_field="subject",
    )
    for name, role in ((OPEN, Role.VIEWER), (CLOSED, Role.OPERATOR))
}  # fmt: skip
BUDGET = Budget(max_bytes=2000, max_messages=10, high_water_bytes=100, close_seconds=5, stalled_close_seconds=30)
PAGE = 3


class Log:
    """What the database would hold, and the reader over it."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.floor = 0
        self.epoch = EPOCH
        self.lines = 0
        self.first_line = 1
        self.values: dict[str, Event] = {}
        self.is_down = False

    @property
    def head(self) -> int:
        return self.events[-1].offset or 0 if self.events else self.floor

    def standing(self) -> dict[str, Standing]:
        return {STREAM: Standing(self.epoch, self.floor, self.head)}

    async def events_after(self, after: int) -> list[Event]:
        return [event for event in self.events if (event.offset or 0) > max(after, self.floor)][:PAGE]

    # ---- what CatchUp asks -------------------------------------------------------------------------------

    async def events_(self, after: int) -> StreamPage:
        found = [] if after < self.floor else await self.events_after(after)
        page = [
            StoredEvent(event.offset or 0, event.spec, event.subject, event.user_id, event.frame()) for event in found
        ]
        return StreamPage(self.epoch, self.floor, self.head, ORGANIZATION, page)


class LogReaderOf:
    """Reads the model in pages; another task may run before an answer is there."""

    def __init__(self, log: Log) -> None:
        self._log = log

    async def events(self, stream: str, after: int) -> StreamPage | None:
        await self._wait()
        page = await self._log.events_(after) if stream == STREAM else None
        await asyncio.sleep(0)
        return page

    async def lines(self, deployment_id: str, after: int) -> LinesPage | None:
        await self._wait()
        log = self._log
        first, last = max(after + 1, log.first_line), min(max(after + 1, log.first_line) + PAGE - 1, log.lines)
        if first > log.lines:
            return LinesPage(ORGANIZATION, log.lines, log.lines + 1, log.lines, b"")
        page = LinesPage(ORGANIZATION, log.lines, first, last, lines_frame(deployment_id, first, last))
        await asyncio.sleep(0)
        return page

    async def values(self, sources: Iterable[str]) -> list[StoredValue]:
        await self._wait()
        return [self._value(self._log.values[source]) for source in sources if source in self._log.values]

    async def values_of(self, stream: str, kind: str, after: str) -> list[StoredValue]:
        await self._wait()
        found = sorted(self._log.values.values(), key=lambda value: value.subject or "")
        return [self._value(each) for each in found if each.spec.name == kind and (each.subject or "") > after][:PAGE]

    async def _wait(self) -> None:
        await asyncio.sleep(0)
        if self._log.is_down:
            raise OSError("the database is away")

    @staticmethod
    def _value(event: Event) -> StoredValue:
        source = latest_source(STREAM, event.spec.name, event.subject or "")
        return StoredValue(source, event.spec, ORGANIZATION, event.subject or "", event.version or 0, event.frame())


def lines_frame(deployment_id: str, first: int, last: int) -> bytes:
    """One push with lines of a log; each says its number."""
    data = {"deploymentId": deployment_id, "logs": [f"l{line}" for line in range(first, last + 1)], "firstLine": first}
    return event_frame(LOGS_UPDATE, json.dumps(data), "2026-01-01T00:00:00.000Z")


class LogWorld:
    """The hub over a log, with clients."""

    def __init__(self) -> None:
        self.log = Log()
        self.flusher = Flusher()
        heads = Heads()
        heads.learn({STREAM: Position(EPOCH, 0)})
        heads.learn_lines("d", 0)
        self.hub = Hub(self.flusher, BUDGET.high_water_bytes, heads)
        self.now = 0.0
        self.catch_up = CatchUp(
            self.hub, LogReaderOf(self.log), CATALOGUE, chunk_bytes=300, gap_seconds=0.5, retry_seconds=1,
            clock=lambda: self.now, sleep=self._sleep,
        )  # fmt: skip
        self.hub.on_behind = self.catch_up.start
        self._order = StreamOrder()
        self._hints: list[Event] = []
        self._version = 0

    async def _sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)

    # ---- publishing --------------------------------------------------------------------------------------

    def publish(
        self,
        kind: str = OPEN,
        subject: str = "s",
        user_id: str | None = None,
        payload: Mapping[str, Any] | None = None,
    ) -> Event:
        """Commit an event; it is handed on by `hand_on`."""
        event = new_event(CATALOGUE[kind], ORGANIZATION, payload or {"subject": subject}, user_id=user_id)
        event.offset, event.epoch = self.log.head + 1, self.log.epoch
        self.log.events.append(event)
        self._hints.append(event)
        return event

    def append_lines(self, count: int) -> Event:
        """Commit lines of the log of `d`."""
        first = self.log.lines + 1
        self.log.lines += count
        data = {"deploymentId": "d", "logs": [f"l{line}" for line in range(first, first + count)], "firstLine": first}
        event = new_event(CATALOGUE[LOGS_UPDATE], ORGANIZATION, data)
        self._hints.append(event)
        return event

    def set_value(self, subject: str, progress: float) -> Event:
        """Commit a latest value."""
        event = new_event(CATALOGUE[VALUE], ORGANIZATION, {"deploymentId": subject, "progress": progress})
        source = latest_source(STREAM, VALUE, subject)
        known = self.log.values.get(source)
        event.version = (known.version or 0) + 1 if known else 1
        self.log.values[source] = event
        self._hints.append(event)
        return event

    def hand_on(self, count: int | None = None) -> None:
        """Hand what was committed on, in order."""
        due, self._hints = self._hints[:count], [] if count is None else self._hints[count:]
        for event in due:
            for each in self._order.accept(event):
                self.hub.deliver(each)

    def reverse_hints(self) -> None:
        """What was committed is told in reverse order, from what is still to be told on."""
        self._hints.reverse()

    def retain(self, floor: int) -> None:
        """Remove the events up to an offset."""
        self.log.floor = max(self.log.floor, floor)
        self.log.events = [event for event in self.log.events if (event.offset or 0) > self.log.floor]

    def lose_hints(self) -> None:
        """Nobody tells this node of what was committed; a poll finds it."""
        self._hints.clear()

    def poll(self) -> None:
        """Do what the poll of the heads leads to: the stream is read, followers of the log read it."""
        self._hints.clear()
        for event in self.log.events:
            for each in self._order.accept(event):
                self.hub.deliver(each)
        self.hub.lines_were_added(ORGANIZATION, "d", self.log.lines)
        for value in self.log.values.values():
            self.hub.deliver(value)

    async def run(self, turns: int = 30) -> None:
        """Let everybody have some turns of the loop."""
        for _ in range(turns):
            await asyncio.sleep(0)

    async def settle(self) -> None:
        """Hand everything on and let everybody take everything, until nothing happens any more."""
        self.log.is_down = False
        self.poll()
        for connection in self.hub:
            connection.outlet.drain()  # type: ignore[attr-defined]
        for _ in range(400):
            await self.run(5)
            for connection in self.hub:
                connection.outlet.drain()  # type: ignore[attr-defined]
            if not any(connection.is_behind or connection.queued_messages for connection in self.hub):
                return
        raise AssertionError("somebody is behind for ever")

    # ---- clients -----------------------------------------------------------------------------------------

    def connect(
        self,
        topics: Iterable[Topic] = (),
        positions: dict[str, Position] | None = None,
        *,
        from_line: int | None = None,
        **who: Any,
    ) -> "Client":
        """Register a connection as the endpoint does."""
        outlet = HandOutlet()
        connection = Connection(principal(ORGANIZATION, **who), outlet, BUDGET, self.flusher.add, self.hub.settle)
        cursors, lost = judge(positions or {}, self.log.standing(), connection.streams())
        resumed = Resumed(self.hub, cursors, lost, is_resumed=positions is not None)
        self.hub.add(connection)
        self.hub.subscribe(connection, topics, resumed.cursors)
        resumed.begin(connection)
        if from_line is not None:
            connection.follow_from("log:d", from_line - 1)
        start = self.hub.positions(connection)
        connection.greet(json.dumps({"type": "welcome", "data": {"positions": start}}))
        resumed.tell_lost(connection)
        return Client(self, connection, outlet)


class Client:
    """What the other side knows: only what was written to its outlet."""

    def __init__(self, world: LogWorld, connection: Connection, outlet: HandOutlet) -> None:
        self.world = world
        self.connection = connection
        self.outlet = outlet

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(text) for text in self.outlet.texts]

    def events(self) -> list[int]:
        """The offsets that came, in order."""
        return [message["offset"] for message in self.messages if "offset" in message]

    def lines(self) -> list[int]:
        """The numbers of the lines that came, in order."""
        found = []
        for message in self.messages:
            if message["type"] == LOGS_UPDATE:
                for number, text in enumerate(message["data"]["logs"], message["data"]["firstLine"]):
                    assert text == f"l{number}"
                    found.append(number)
        return found

    def told(self, kind: str) -> list[dict[str, Any]]:
        """The data of each message of a kind."""
        return [message["data"] for message in self.messages if message["type"] == kind]

    def position(self) -> dict[str, Position]:
        """Where it would go on from, by what it was told and what it got."""
        known: dict[str, Position] = {}
        for message in self.messages:
            if "offset" in message:
                before = known[message["stream"]]
                known[message["stream"]] = Position(before.epoch, max(before.offset, message["offset"]))
            for stream, place in message.get("data", {}).get("positions", {}).items():
                if "offset" not in place:
                    continue
                given = Position(place["epoch"], place["offset"])
                before = known.get(stream, given)
                is_set = message["type"] in ("welcome", "position_lost") or given.epoch != before.epoch
                known[stream] = given if is_set or given.offset > before.offset else before
        return known

    def ping(self) -> dict[str, Any]:
        """Ask for its positions."""
        positions = self.world.hub.positions(self.connection)
        self.connection.push(json.dumps({"type": "pong", "data": {"positions": positions}}))
        return positions

    def leave(self) -> None:
        """The socket is gone."""
        self.world.hub.remove(self.connection)
        self.connection.end()
