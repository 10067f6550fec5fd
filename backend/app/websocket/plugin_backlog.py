"""What waits for one plugin, and how far it is: a state machine without clock, task or I/O.

`plugin_queue.py` drives it. A track is the plugin's cursor in the events of one (node, stream);
lanes hold, per subject, what was taken into memory. Invariants: a cursor never falls, and every
event at or below it is done or was skipped (I8); what is taken is taken once and in order (I9).
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from backend.app.realtime.event import Event

Place = tuple[str, str]
"""A node and a stream."""


@dataclass(slots=True, eq=False)
class Track:
    """How far a plugin is in the events of a stream that were born on a node. What it does not want counts as done."""

    place: Place
    cursor: int
    """All at or below are done or skipped (R8)."""
    mark: int
    """All at or below were taken into memory, or need not be."""
    known: int
    """The last event that exists, as far as was told."""
    in_log: int = 0
    """Wanted events above the mark: they wait in the log."""
    is_inherited: bool = False
    """Left by a dead node: it ends."""
    written: int = -1
    """What of the cursor is in the database."""
    _open: "OrderedDict[int, None]" = field(default_factory=OrderedDict)
    """Taken and not done, ascending."""

    @property
    def is_behind(self) -> bool:
        """Tell whether something has to be read from the log."""
        return self.in_log > 0

    @property
    def is_finished(self) -> bool:
        """Tell whether nothing is left of what a dead node had."""
        return self.is_inherited and not self._open and self.mark >= self.known

    def take(self, offset: int) -> None:
        """Take an event into memory."""
        self._open[offset] = None
        self.mark = offset

    def pass_over(self, offset: int) -> None:
        """Put the mark where everything before it was taken or is not wanted."""
        self.mark = max(self.mark, offset)
        self.known = max(self.known, offset)
        self._settle()

    def done(self, offset: int) -> None:
        """Note that an event was handled or skipped."""
        del self._open[offset]
        self._settle()

    def _settle(self) -> None:
        # The highest offset below which everything is done: not the highest that is.
        self.cursor = next(iter(self._open)) - 1 if self._open else self.mark


@dataclass(slots=True, eq=False)
class Entry:
    """An event in memory; `track` is None for one that is not in the log."""

    event: Event
    track: Track | None
    is_running: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """What is asked of the log: a track's events after `start` and up to `upto`, of which so many were counted."""

    track: Track
    start: int
    upto: int
    counted: int
    limit: int


class PluginBacklog:
    """All tracks and lanes of one plugin. At most `limit` events are in memory."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.tracks: dict[Place, Track] = {}
        self.lanes: dict[str, deque[Entry]] = {}
        self.in_memory = 0
        self.in_log = 0
        """How many wanted events wait in the log, in all tracks."""
        self._open = 0
        """How many events of the log are in memory."""
        self.dirty: set[Track] = set()
        """Tracks whose cursor is above what is written."""
        self._new_lanes: list[str] = []
        self._turn = 0

    @property
    def waiting(self) -> int:
        """How many events of the log are not done."""
        return self.in_log + self._open

    @property
    def room(self) -> int:
        """How many events memory takes."""
        return self.limit - self.in_memory

    def behind(self) -> list[Track]:
        """Return the tracks that wait to be read from the log."""
        return [track for track in self.tracks.values() if track.is_behind]

    def new_lanes(self) -> list[str]:
        """Return the lanes that began since this was asked: each needs somebody who works it off."""
        lanes, self._new_lanes = self._new_lanes, []
        return lanes

    # ---- taking in -------------------------------------------------------------------------------

    def offer(self, node: str, event: Event, is_wanted: bool) -> None:
        """Tell of an event of the log that is at hand, in order; what does not fit stays in the log."""
        assert event.offset is not None
        track = self.tracks.get((node, event.stream))
        if track is None:
            # The plugin was here before the event: its cursor's row was made with this append, or before.
            before = event.offset - 1
            track = self.tracks[node, event.stream] = Track((node, event.stream), before, before, before)
        if event.offset <= track.known:
            return
        if not is_wanted and not track.is_behind:
            # Not written for its own sake: reading over it again would cost nothing else.
            track.pass_over(event.offset)
        elif track.is_behind or self.room <= 0:
            track.known = event.offset
            self._count_in_log(track, int(is_wanted))
        else:
            track.known = event.offset
            self._take(track, event)

    def put(self, event: Event) -> bool:
        """Take an event that is kept nowhere else; False if there is no room, or it would overtake its stream."""
        if self.room <= 0 or (self.in_log and self._is_behind(event.stream)):
            return False
        self._enqueue(Entry(event, None))
        return True

    def _is_behind(self, stream: str) -> bool:
        return any(track.is_behind and track.place[1] == stream for track in self.tracks.values())

    def inherit(self, place: Place, cursor: int, last: int, count: int) -> None:
        """Take over what a dead node left: so many wanted events above a cursor, the last one known."""
        track = self.tracks[place] = Track(place, cursor, cursor, last, is_inherited=True, written=cursor)
        self._count_in_log(track, count)
        if not count:
            track.pass_over(last)
            self._touch(track)

    def next_page(self, most: int) -> Page | None:
        """Return what is to be read next; tracks take turns. None: nothing, or there is no room."""
        behind = self.behind()
        limit = min(most, self.room)
        if not behind or limit <= 0:
            return None
        self._turn += 1
        track = behind[self._turn % len(behind)]
        return Page(track, track.mark, track.known, track.in_log, limit)

    def page(self, asked: Page, events: Iterable[Event], is_last: bool) -> int:
        """Take what was read of a page. Returns how many events are gone: retention has removed them."""
        track = asked.track
        if self.tracks.get(track.place) is not track or track.mark != asked.start:
            return 0  # What was asked for was skipped meanwhile.
        taken = 0
        for event in events:
            self._take(track, event)
            taken += 1
        self._count_in_log(track, -taken)
        if not is_last:
            return 0
        gone = asked.counted - taken
        self.skip_in_log(track, asked.upto, gone)
        return gone

    def _take(self, track: Track, event: Event) -> None:
        assert event.offset is not None
        track.take(event.offset)
        self._open += 1
        self._enqueue(Entry(event, track))

    def _enqueue(self, entry: Entry) -> None:
        event = entry.event
        # An event without subject has nothing to be in order with: its own id is its lane.
        key = f"{event.stream} {event.subject}" if event.subject is not None else event.id
        lane = self.lanes.get(key)
        if lane is None:
            lane = self.lanes[key] = deque()
            self._new_lanes.append(key)
        lane.append(entry)
        self.in_memory += 1

    # ---- working off -----------------------------------------------------------------------------

    def finish(self, key: str, entry: Entry) -> None:
        """Note that the first of a lane is done."""
        lane = self.lanes[key]
        assert lane[0] is entry
        lane.popleft()
        self._gone(entry)

    def end_lane(self, key: str) -> None:
        """Forget a lane that is empty."""
        assert not self.lanes[key]
        del self.lanes[key]

    def _gone(self, entry: Entry) -> None:
        self.in_memory -= 1
        if entry.track is not None and entry.event.offset is not None:
            self._open -= 1
            entry.track.done(entry.event.offset)
            self._touch(entry.track)

    def _touch(self, track: Track) -> None:
        if self.tracks.get(track.place) is track and (track.cursor > track.written or track.is_finished):
            self.dirty.add(track)

    # ---- letting go ------------------------------------------------------------------------------

    def idle(self) -> Iterator[tuple[str, Entry]]:
        """Return what is in memory and does not run, oldest first: ids sort by time."""
        found = [(key, entry) for key, lane in self.lanes.items() for entry in lane if not entry.is_running]
        return iter(sorted(found, key=lambda each: each[1].event.id))

    def skip(self, key: str, entry: Entry) -> None:
        """Skip one that is in memory and does not run."""
        self.lanes[key].remove(entry)
        self._gone(entry)

    def skip_in_log(self, track: Track, offset: int, count: int) -> None:
        """Skip the oldest that wait in the log, up to an offset."""
        self._count_in_log(track, -count)
        track.pass_over(offset)
        self._touch(track)

    def recount(self, track: Track, mark: int, change: int) -> None:
        """Correct how many events after a mark wait in the log, unless they were skipped meanwhile."""
        if self.tracks.get(track.place) is not track or track.mark != mark:
            return
        self._count_in_log(track, change)
        if not track.in_log:
            self.skip_in_log(track, track.known, 0)

    def _count_in_log(self, track: Track, change: int) -> None:
        track.in_log += change
        self.in_log += change

    def start_at_head(self) -> int:
        """Skip everything that does not run, for good; return how much of it was in the log or in memory."""
        skipped = 0
        for key, entry in list(self.idle()):
            self.skip(key, entry)
            skipped += 1
        for track in self.tracks.values():
            skipped += track.in_log
            self.skip_in_log(track, track.known, track.in_log)
        return skipped

    def drop_node(self, node: str) -> None:
        """Forget a node that another one has taken over, and what of it does not run: that one handles it."""
        for key, entry in list(self.idle()):
            if entry.track is not None and entry.track.place[0] == node:
                self.skip(key, entry)
        for place in [place for place in self.tracks if place[0] == node]:
            track = self.tracks.pop(place)
            self._count_in_log(track, -track.in_log)
            self.dirty.discard(track)

    def touch_all(self) -> None:
        """Have every cursor written that is above what is, also for events that were not wanted."""
        for track in self.tracks.values():
            self._touch(track)

    def end(self, track: Track) -> None:
        """Forget the finished track of a dead node."""
        self.tracks.pop(track.place, None)
        self.dirty.discard(track)
