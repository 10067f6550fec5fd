"""The plugin's cursor as a state machine: nothing lost, doubled or reordered, whatever comes when (I8, I9)."""

from collections import defaultdict
from datetime import UTC, datetime

from hypothesis import settings as hypothesis_settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.strategies import booleans, data, integers, sampled_from

from backend.app.realtime.event import Event
from backend.app.schemas.websocket_events import core_catalogue
from backend.app.websocket.plugin_backlog import Page, PluginBacklog
from tests.proving import amount

SPEC = core_catalogue()["DEPLOYMENT_STATUS_CHANGED"]
STREAM = "org:o1"


def event_of(offset: int | None, subject: str | None = "d1") -> Event:
    """An event of the log."""
    number = 0 if offset is None else offset
    return Event(f"{number:06}", SPEC, "o1", {}, b"{}", datetime.now(UTC), subject=subject, offset=offset)


def offered(backlog: PluginBacklog, *events: Event) -> None:
    """Tell of events that the plugin wants."""
    for event in events:
        backlog.offer("n1", event, True)


def finish(backlog: PluginBacklog, offset: int) -> None:
    """Handle the event of this offset, which is the first of its lane."""
    key = next(key for key, lane in backlog.lanes.items() if lane and lane[0].event.offset == offset)
    backlog.finish(key, backlog.lanes[key][0])
    if not backlog.lanes[key]:
        backlog.end_lane(key)


def test_the_cursor_is_the_highest_offset_below_which_everything_is_done() -> None:
    """R8: out-of-order completion plus a crash must not lose one."""
    backlog = PluginBacklog(10)
    offered(backlog, *(event_of(offset, f"d{offset}") for offset in (3, 5, 6)))
    track = backlog.tracks["n1", STREAM]
    assert track.cursor == 2
    finish(backlog, 5)
    assert track.cursor == 2
    finish(backlog, 3)
    assert track.cursor == 5
    finish(backlog, 6)
    assert track.cursor == 6


def test_what_does_not_fit_waits_in_the_log_and_is_read_in_order() -> None:
    """Stream events that do not fit stay in the log and are read later, not dropped."""
    backlog = PluginBacklog(2)
    offered(backlog, *(event_of(offset, f"d{offset}") for offset in (1, 2, 3, 4)))
    assert (backlog.in_memory, backlog.in_log, backlog.next_page(10)) == (2, 2, None)
    finish(backlog, 1)
    # Room alone lets nobody overtake those that wait.
    offered(backlog, event_of(5, "d5"))
    assert (backlog.in_memory, backlog.in_log) == (1, 3)
    page = backlog.next_page(10)
    assert page is not None
    assert (page.start, page.upto, page.limit) == (2, 5, 1)
    assert backlog.page(page, [event_of(3, "d3")], is_last=False) == 0
    assert (backlog.in_memory, backlog.in_log) == (2, 2)


def test_an_event_that_no_log_keeps_does_not_overtake_its_stream() -> None:
    """Transient events are dropped while their stream waits in the log, and when memory is full."""
    backlog = PluginBacklog(2)
    transient = event_of(None)
    offered(backlog, event_of(1), event_of(2))
    assert not backlog.put(transient)
    offered(backlog, event_of(3))
    finish(backlog, 1)
    assert not backlog.put(transient)
    page = backlog.next_page(10)
    assert page is not None
    backlog.page(page, [event_of(3)], is_last=False)
    finish(backlog, 2)
    assert backlog.put(transient)


def test_what_retention_removed_is_counted() -> None:
    """The retention floor passing a cursor counts as skipped."""
    backlog = PluginBacklog(1)
    offered(backlog, *(event_of(offset) for offset in range(1, 6)))
    finish(backlog, 1)
    page = backlog.next_page(10)
    assert page is not None
    assert backlog.page(Page(page.track, page.start, page.upto, page.counted, 10), [event_of(5)], is_last=True) == 3
    assert (backlog.in_log, backlog.waiting) == (0, 1)
    finish(backlog, 5)
    assert page.track.cursor == 5


def test_a_page_that_was_skipped_while_it_was_read_is_not_taken() -> None:
    """Every event is done once or skipped once."""
    backlog = PluginBacklog(1)
    offered(backlog, event_of(1), event_of(2), event_of(3))
    finish(backlog, 1)
    page = backlog.next_page(10)
    assert page is not None
    assert backlog.start_at_head() == 2
    assert backlog.page(page, [event_of(2)], is_last=False) == 0
    assert (backlog.in_memory, backlog.in_log, page.track.cursor) == (0, 0, 3)


def test_a_plugin_that_comes_back_starts_at_the_head() -> None:
    """A disabled plugin starts again at the head; what runs finishes."""
    backlog = PluginBacklog(2)
    offered(backlog, *(event_of(offset) for offset in range(1, 6)))
    running = next(iter(backlog.lanes.values()))[0]
    running.is_running = True
    assert backlog.start_at_head() == 4
    assert backlog.tracks["n1", STREAM].cursor == 0
    finish(backlog, 1)
    assert backlog.tracks["n1", STREAM].cursor == 5


def test_the_track_of_a_dead_node_ends_when_nothing_is_left() -> None:
    """What a dead node left is handled, then forgotten; also where it left nothing."""
    backlog = PluginBacklog(10)
    backlog.inherit(("dead", STREAM), 3, 5, 2)
    backlog.inherit(("idle", STREAM), 9, 9, 0)
    track = backlog.tracks["dead", STREAM]
    assert backlog.tracks["idle", STREAM].is_finished
    assert not track.is_finished
    page = backlog.next_page(10)
    assert page is not None
    backlog.page(page, [event_of(4), event_of(5)], is_last=True)
    finish(backlog, 4)
    assert not track.is_finished
    finish(backlog, 5)
    assert track.is_finished
    assert track in backlog.dirty


def test_a_lost_node_is_dropped_and_what_runs_hurts_nobody() -> None:
    """A node that lost its lease stops dispatching: what is done later writes nothing in its name."""
    backlog = PluginBacklog(10)
    offered(backlog, event_of(1, "d1"), event_of(2, "d2"))
    lane = next(iter(backlog.lanes.values()))
    lane[0].is_running = True
    backlog.drop_node("n1")
    assert (backlog.in_memory, backlog.tracks, backlog.dirty) == (1, {}, set())
    finish(backlog, 1)
    assert (backlog.in_memory, backlog.waiting, backlog.dirty) == (0, 0, set())


class Dispatch(RuleBasedStateMachine):
    """One plugin of one node, its log, and a cursor in the database; without crash also I9."""

    may_crash = False

    def __init__(self) -> None:
        super().__init__()
        self.log: list[tuple[Event, bool]] = []
        self.told = 0
        self.floor = 0
        self.handled: list[Event] = []
        self.skipped: set[int] = set()
        self.gone = self.lost = 0
        self.stored = 0
        self.asked: Page | None = None
        self.upto_when_asked = 0
        self.backlog = PluginBacklog(3)

    @property
    def cursor(self) -> int:
        track = self.backlog.tracks.get(("n1", STREAM))
        return self.stored if track is None else track.cursor

    @rule(subject=sampled_from(["a", "b", None]), is_wanted=booleans(), gap=integers(1, 3))
    def append(self, subject: str | None, is_wanted: bool, gap: int) -> None:
        """The node appends; offsets between are other nodes'."""
        last = self.log[-1][0].offset if self.log else 0
        assert last is not None
        self.log.append((event_of(last + gap, subject), is_wanted))

    @precondition(lambda self: self.told < len(self.log))
    @rule()
    def hand_over(self) -> None:
        event, is_wanted = self.log[self.told]
        self.told += 1
        self.backlog.offer("n1", event, is_wanted)
        # Somebody hands it over twice.
        self.backlog.offer("n1", event, is_wanted)

    @precondition(lambda self: any(self.backlog.lanes.values()))
    @rule(choice=data())
    def handle(self, choice) -> None:  # type: ignore[no-untyped-def]
        key = choice.draw(sampled_from(sorted(key for key, lane in self.backlog.lanes.items() if lane)))
        entry = self.backlog.lanes[key][0]
        self.handled.append(entry.event)
        self.backlog.finish(key, entry)
        if not self.backlog.lanes[key]:
            self.backlog.end_lane(key)

    @precondition(lambda self: self.asked is None)
    @rule()
    def ask(self) -> None:
        """A page is asked for; everything may happen before it comes."""
        self.asked = self.backlog.next_page(2)

    @precondition(lambda self: self.asked is not None)
    @rule()
    def read(self) -> None:
        page, self.asked = self.asked, None
        assert page is not None
        rows = [e for e, is_wanted in self.log if is_wanted and e.offset is not None and e.offset > self.floor]
        rows = [e for e in rows if page.start < (e.offset or 0) <= page.upto][: page.limit]
        mark = page.track.mark
        is_last = len(rows) < page.limit
        self.gone += self.backlog.page(page, rows, is_last)
        if mark == page.start:
            upto = page.upto if is_last else rows[-1].offset or 0
            span = {e.offset or 0 for e, is_wanted in self.log if is_wanted and page.start < (e.offset or 0) <= upto}
            lost = span - {e.offset or 0 for e in rows} - self.skipped
            self.lost += len(lost)
            self.skipped |= lost

    @rule()
    def store(self) -> None:
        assert self.cursor >= self.stored
        self.stored = self.cursor

    @precondition(lambda self: self.may_crash)
    @rule()
    def crash(self) -> None:
        """The next node takes over from what is stored."""
        wanted = [e for e, is_wanted in self.log if is_wanted and (e.offset or 0) > max(self.stored, self.floor)]
        last = max((e.offset or 0 for e, _ in self.log), default=self.stored)
        self.backlog = PluginBacklog(3)
        self.asked = None
        self.gone = self.lost = 0
        self.told = len(self.log)
        gone = {e.offset or 0 for e, w in self.log if w and self.stored < (e.offset or 0) <= self.floor}
        self.skipped |= gone
        self.backlog.inherit(("n1", STREAM), self.stored, max(last, self.stored), len(wanted))

    @precondition(lambda self: self.may_crash and self.log)
    @rule(choice=data())
    def retain(self, choice) -> None:  # type: ignore[no-untyped-def]
        self.floor = max(self.floor, choice.draw(sampled_from([e.offset or 0 for e, _ in self.log])))

    @invariant()
    def all_below_the_cursor_is_done(self) -> None:
        """I8: all at or below it is done or counted as skipped."""
        done = {event.offset for event in self.handled} | self.skipped
        below = {e.offset for e, is_wanted in self.log if is_wanted and (e.offset or 0) <= self.cursor}
        assert below <= done

    @invariant()
    def memory_is_bounded(self) -> None:
        assert 0 <= self.backlog.in_memory <= 3
        assert self.backlog.in_log == sum(track.in_log for track in self.backlog.tracks.values()) >= 0

    @invariant()
    def handled_once_and_in_order(self) -> None:
        """I9: without crash, once, in order per subject."""
        if self.may_crash:
            return
        by_subject: dict[str, list[int]] = defaultdict(list)
        for event in self.handled:
            by_subject[event.subject or event.id].append(event.offset or 0)
        assert all(offsets == sorted(set(offsets)) for offsets in by_subject.values())

    def teardown(self) -> None:
        """Whatever happened: at the end everything that is wanted is done."""
        while self.told < len(self.log):
            self.hand_over()
        while any(self.backlog.lanes.values()) or self.backlog.in_log:
            if self.asked is not None:
                self.read()
            for key in [key for key, lane in self.backlog.lanes.items() if lane]:
                entry = self.backlog.lanes[key][0]
                self.handled.append(entry.event)
                self.backlog.finish(key, entry)
                if not self.backlog.lanes[key]:
                    self.backlog.end_lane(key)
            self.ask()
        assert {e.offset for e, w in self.log if w} <= {e.offset for e in self.handled} | self.skipped
        self.handled_once_and_in_order()
        # What was removed before a take-over is known to nobody; since then every one is counted.
        assert self.gone == self.lost


class DispatchWithCrashes(Dispatch):
    """The same with crashes and retention."""

    may_crash = True


TestDispatch = Dispatch.TestCase
TestDispatch.settings = hypothesis_settings(max_examples=amount(60, 200), stateful_step_count=50)
TestDispatchWithCrashes = DispatchWithCrashes.TestCase
TestDispatchWithCrashes.settings = hypothesis_settings(max_examples=amount(60, 200), stateful_step_count=50)
