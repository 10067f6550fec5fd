"""Nothing lost, nothing twice, in order: the client's ledger against a model of a server, in every unlucky order."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.app.client.intake import Intake
from backend.app.client.items import LOGS_UPDATE, Event, PositionLost
from backend.app.client.positions import Ledger, LinesMissing
from backend.app.client.socket import Message

STREAM, LOG = "org:1", "d1"
SOURCE = f"log:{LOG}"


class ModelServer:
    """One stream and one log; what it sends lies on a wire until the client takes it or the wire is cut."""

    def __init__(self) -> None:
        self.epoch, self.head, self.floor = 0, 0, 0
        self.wanted: list[int] = []
        """Offsets of this epoch that the client is to get."""
        self.published: list[tuple[str, int]] = []
        self.last_line, self.first_line = 0, 1
        self.wire: list[Message] = []
        self.is_connected = False

    def position(self, offset: int) -> dict[str, Any]:
        return {STREAM: {"epoch": str(self.epoch), "offset": offset}}

    def publish(self, is_wanted: bool) -> None:
        self.head += 1
        if is_wanted:
            self.wanted.append(self.head)
            self.published.append((str(self.epoch), self.head))
            self.send(self.event(self.head))

    def append(self, count: int) -> None:
        first = self.last_line + 1
        self.last_line += count
        self.send(self.lines(first, count))

    def event(self, offset: int) -> Message:
        return {"type": "A", "stream": STREAM, "offset": offset, "data": {"epoch": str(self.epoch)}}

    def lines(self, first: int, count: int) -> Message:
        texts = [f"line {number}" for number in range(first, first + count)]
        return {"type": LOGS_UPDATE, "data": {"deploymentId": LOG, "firstLine": first, "logs": texts}}

    def send(self, message: Message) -> None:
        if self.is_connected:
            self.wire.append(message)

    def tell(self, kind: str) -> None:
        """Say how far it is: behind everything that lies on the wire, so that is the head (R1)."""
        positions = {**self.position(self.head), SOURCE: {"line": self.last_line + 1}}
        self.send({"type": kind, "data": {"stream": SOURCE, "positions": positions}})

    def begin_anew(self) -> None:
        """A restored backup: another epoch, whose offsets begin again."""
        self.epoch, self.head, self.floor, self.wanted = self.epoch + 1, 0, 0, []
        self.cut()

    def expire(self) -> None:
        """Retention removes everything that there is; who is connected has it on the wire."""
        self.floor, self.wanted, self.first_line = self.head, [], self.last_line + 1

    def cut(self) -> None:
        self.wire, self.is_connected = [], False

    def connect(self, given: dict[str, Any] | None, line: int) -> dict[str, Any]:
        """Answer an `auth` message; return its positions."""
        self.wire, self.is_connected = [], True
        position = (given or {}).get(STREAM)
        welcome = self.position(self.head)
        if position is not None:
            reason = self.why_lost(position)
            if reason is None:
                welcome = {STREAM: position}
                self.wire += [self.event(each) for each in self.wanted if each > position["offset"]]
            else:
                self.lose(STREAM, reason, position, self.position(self.head))
        if line < self.first_line:
            self.lose(SOURCE, "expired", {"line": line}, {SOURCE: {"line": self.first_line}})
        first = max(line, self.first_line)
        if first <= self.last_line:
            self.wire.append(self.lines(first, self.last_line - first + 1))
        return welcome

    def why_lost(self, position: dict[str, Any]) -> str | None:
        if position["epoch"] != str(self.epoch):
            return "epoch"
        if position["offset"] > self.head:
            return "future"
        return "expired" if position["offset"] < self.floor else None

    def lose(self, name: str, reason: str, lost: dict[str, Any], positions: dict[str, Any]) -> None:
        data = {"stream": name, "reason": reason, "lost": lost, "positions": positions}
        self.wire.append({"type": "position_lost", "data": data})


class ModelClient:
    """What `EventStream` does with ledger and intake, without a socket."""

    def __init__(self, server: ModelServer) -> None:
        self.server = server
        self.ledger = Ledger()
        self.ledger.follow(LOG, 1)
        self.intake = Intake(self.ledger)
        self.events: list[tuple[str, int]] = []
        self.lines: list[int] = []
        self.lost: list[PositionLost] = []

    def connect(self) -> None:
        known = self.ledger.streams or None
        line = self.ledger.line(LOG)
        assert line is not None
        welcome = self.server.connect(known, line)
        self.ledger.learn(welcome)
        self.intake.begin(known, {LOG: line}, welcome)

    def save_and_restart(self) -> None:
        """Another process begins with what this one kept."""
        self.server.cut()
        self.ledger = Ledger(self.ledger.positions)
        self.intake = Intake(self.ledger)

    def take(self, count: int) -> None:
        for _ in range(min(count, len(self.server.wire))):
            message = self.server.wire.pop(0)
            try:
                items = self.intake.take(message)
            except LinesMissing:
                self.server.cut()
                return
            for item in items:
                if isinstance(item, PositionLost):
                    self.lost.append(item)
                elif isinstance(item, Event) and item.type == LOGS_UPDATE:
                    first = item.data["firstLine"]
                    assert item.data["logs"] == [
                        f"line {number}" for number in range(first, first + len(item.data["logs"]))
                    ]
                    self.lines += range(first, first + len(item.data["logs"]))
                elif isinstance(item, Event):
                    assert item.offset is not None
                    self.events.append((item.data["epoch"], item.offset))

    def is_told_lost(self, epoch: str, offset: int) -> bool:
        return any(
            _place(each.lost) < (int(epoch), offset) <= _place(each.now)
            for each in self.lost
            if each.stream == STREAM and each.lost is not None and each.now is not None
        )

    def lines_told_lost(self) -> set[int]:
        lost: set[int] = set()
        for each in self.lost:
            if each.stream == SOURCE and each.lost is not None and each.now is not None:
                lost |= set(range(each.lost["line"], each.now["line"]))
        return lost


def _place(position: dict[str, Any]) -> tuple[int, int]:
    return int(position["epoch"]), position["offset"]


STEPS = st.one_of(
    st.tuples(st.just("publish"), st.booleans()),
    st.tuples(st.just("append"), st.integers(1, 5)),
    st.tuples(st.just("take"), st.integers(1, 8)),
    st.tuples(st.just("cut"), st.none()),
    st.tuples(st.just("connect"), st.none()),
    st.tuples(st.just("tell"), st.sampled_from(["pong", "positions", "caught_up"])),
    st.tuples(st.just("resend"), st.integers(0, 6)),
    st.tuples(st.just("drop_lines"), st.none()),
    st.tuples(st.just("restart"), st.none()),
    st.tuples(st.sampled_from(["expire", "begin_anew"]), st.none()),
)


def act(server: ModelServer, client: ModelClient, step: tuple[str, Any]) -> None:
    kind, value = step
    if kind == "publish":
        server.publish(value)
    elif kind == "append":
        server.append(value)
    elif kind == "take":
        client.take(value)
    elif kind == "cut":
        server.cut()
    elif kind == "connect" and not server.is_connected:
        client.connect()
    elif kind == "tell":
        server.tell(value)
    elif kind == "resend" and server.last_line >= server.first_line:
        # Lines and events again that it sent already, beside what it did not.
        server.send(
            server.lines(
                max(server.first_line, server.last_line - value), min(value, server.last_line - server.first_line) + 1
            )
        )
        for offset in server.wanted[-value:]:
            server.send(server.event(offset))
    elif kind == "drop_lines":
        server.wire = [message for message in server.wire if message["type"] != LOGS_UPDATE]
    elif kind == "restart":
        client.save_and_restart()
    elif kind == "expire":
        server.expire()
    elif kind == "begin_anew":
        server.begin_anew()


@settings(max_examples=200, deadline=None)
@given(st.lists(STEPS, min_size=50, max_size=50))
def test_every_event_and_line_comes_once_and_in_order_or_is_told_as_lost(steps: list[tuple[str, Any]]) -> None:
    """I1: per stream, received = wanted, ascending, once, between `position_lost` marks; lines as well, by number."""
    server = ModelServer()
    client = ModelClient(server)
    client.connect()
    for step in steps:
        act(server, client, step)
    client.take(len(server.wire))
    server.cut()  # What a fault left out at the very end, only the next connection shows.
    client.connect()
    client.take(len(server.wire))
    assert len(set(client.events)) == len(client.events)
    for epoch in {epoch for epoch, _ in client.events}:
        offsets = [offset for each, offset in client.events if each == epoch]
        assert offsets == sorted(offsets)
    missing = [each for each in server.published if each not in client.events]
    assert [each for each in missing if not client.is_told_lost(*each)] == []
    assert set(client.events) <= set(server.published)
    assert client.lines == sorted(set(client.lines))
    assert set(range(1, server.last_line + 1)) - set(client.lines) <= client.lines_told_lost()


def test_positions_survive_being_saved() -> None:
    """What is kept is what is given."""
    saved = {STREAM: {"epoch": "e", "offset": 3}, SOURCE: {"line": 4}}
    assert Ledger(saved).positions == saved


def test_what_is_not_followed_any_more_is_forgotten() -> None:
    """`position_lost`, unknown: the client's organization changed; the stream is let go."""
    ledger = Ledger({STREAM: {"epoch": "e", "offset": 3}})
    assert ledger.lose(STREAM, {"org:2": {"epoch": "f", "offset": 1}}) is None
    assert ledger.positions == {}


def test_lines_of_logs_that_nobody_named_pass_as_they_are() -> None:
    """Log events without a deployment are live only: nothing is counted, nothing is trimmed."""
    ledger = Ledger()
    assert ledger.take_lines("other", 5, 2) == ledger.take_lines("other", 9, 2) == ledger.take_lines("other", 1, 1) == 0
    assert ledger.positions == {}


def test_a_log_is_never_skipped_by_what_is_told() -> None:
    """Only lines that came, and `position_lost`, move a log on."""
    ledger = Ledger()
    ledger.follow(LOG, 5)
    with pytest.raises(LinesMissing) as missing:
        ledger.told({SOURCE: {"line": 9}})
    assert (missing.value.line, ledger.line(LOG)) == (5, 5)
