"""How far a client is in each stream and each followed log: what it resumes with, and what it drops. Pure.

A position rises with each event or line that was taken, and with what the server says *behind* those on the same
socket. It falls only where the server says that it is lost. Positions of REST answers never come here, and those of
`subscribed` only for a stream of which nothing was followed before: resuming from them would skip what is still on
its way.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LOG_PREFIX = "log:"

Positions = dict[str, dict[str, Any]]
"""As they cross the wire: `{"org:…": {"epoch": "…", "offset": 42}, "log:<deployment id>": {"line": 7}}`."""


class LinesMissing(Exception):
    """Lines of a log were left out: `line` is the first of them."""

    def __init__(self, deployment_id: str, line: int) -> None:
        self.deployment_id = deployment_id
        self.line = line
        super().__init__(f"lines of {deployment_id} are missing from {line} on")


@dataclass(slots=True)
class _Place:
    epoch: str | None
    """None: events came, but nobody said yet of which life of the stream."""
    offset: int

    def wire(self) -> dict[str, Any] | None:
        return None if self.epoch is None else {"epoch": self.epoch, "offset": self.offset}


class Ledger:
    """The positions of one client. What it holds is bounded by the streams and logs that are followed."""

    def __init__(self, positions: Mapping[str, Any] | None = None) -> None:
        """Begin with saved positions; raise ValueError naming the one that is none."""
        self._streams: dict[str, _Place] = {}
        self._lines: dict[str, int | None] = {}
        """The next line of each followed log; None: whichever comes first."""
        for name, position in (positions or {}).items():
            if not _is_position(name, position):
                raise ValueError(f"positions: {name}: neither an epoch with an offset nor a line")
            if name.startswith(LOG_PREFIX):
                self._lines[name.removeprefix(LOG_PREFIX)] = position["line"]
            else:
                self._streams[name] = _Place(position["epoch"], position["offset"])

    # ---- what there is ------------------------------------------------------------------------------------

    @property
    def streams(self) -> Positions:
        """What to resume the streams with; one whose epoch nobody told is left out."""
        wires = {stream: place.wire() for stream, place in self._streams.items()}
        return {stream: wire for stream, wire in wires.items() if wire is not None}

    @property
    def positions(self) -> Positions:
        """The streams and the followed logs together: what to keep, and to begin with another time."""
        lines = {LOG_PREFIX + log: {"line": line} for log, line in self._lines.items() if line is not None}
        return {**self.streams, **lines}

    def line(self, deployment_id: str) -> int | None:
        """Return the number of the next line of a followed log; None if that is open."""
        return self._lines.get(deployment_id)

    # ---- what is followed ----------------------------------------------------------------------------------

    def follow(self, deployment_id: str, line: int | None) -> None:
        """Follow a log, from a line on where one is given; one that is followed already stays where it is."""
        if self._lines.get(deployment_id) is None:
            self._lines[deployment_id] = line

    def unfollow(self, deployment_id: str) -> None:
        """Let go of a log."""
        self._lines.pop(deployment_id, None)

    def learn(self, positions: Mapping[str, Any]) -> list[str]:
        """Take over where streams begin that were not followed before; return their names."""
        new = [name for name in positions if name not in self._streams and _is_stream_position(name, positions[name])]
        self._adopt(positions, new)
        return new

    # ---- what comes ----------------------------------------------------------------------------------------

    def take(self, stream: str, offset: int) -> bool:
        """Take an event; False if it was taken before."""
        place = self._streams.get(stream)
        if place is None:
            self._streams[stream] = _Place(None, offset)
        elif offset <= place.offset:
            return False
        else:
            place.offset = offset
        return True

    def knows_epoch(self, stream: str) -> bool:
        """Tell whether a stream could be resumed."""
        return stream in self._streams and self._streams[stream].epoch is not None

    def take_lines(self, deployment_id: str, first: int, count: int) -> int:
        """Take lines; return how many of them, from the first on, were taken before.

        Lines of logs that are not followed are all new. Raises LinesMissing, and takes none, where some before them
        did not come.
        """
        wanted = self._lines.get(deployment_id)
        if wanted is not None and first > wanted:
            raise LinesMissing(deployment_id, wanted)
        known = 0 if wanted is None else min(count, wanted - first)
        if deployment_id in self._lines and known < count:
            self._lines[deployment_id] = first + count
        return known

    def told(self, positions: Mapping[str, Any]) -> None:
        """Raise positions to what the server said on this socket: everything up to there was sent before.

        Another epoch, and a stream that is further already, change nothing. Raises LinesMissing where a log is said
        to be further than the lines that came.
        """
        for name, position in positions.items():
            if not _is_position(name, position):
                continue
            if name.startswith(LOG_PREFIX):
                self._told_line(name.removeprefix(LOG_PREFIX), position["line"])
                continue
            place = self._streams.get(name)
            if place is None:
                self._streams[name] = _Place(position["epoch"], position["offset"])
            elif place.epoch in (None, position["epoch"]):
                place.epoch, place.offset = position["epoch"], max(place.offset, position["offset"])

    def lose(self, name: str, positions: Mapping[str, Any]) -> dict[str, Any] | None:
        """Put what the server says in the place of a position that it cannot continue from, and return that.

        A stream of which it says nothing is not followed any more: None.
        """
        position = positions.get(name)
        if not _is_position(name, position):
            position = None
        if name.startswith(LOG_PREFIX):
            log = name.removeprefix(LOG_PREFIX)
            if log in self._lines:
                self._lines[log] = None if position is None else position["line"]
        elif position is None:
            self._streams.pop(name, None)
        else:
            self._streams[name] = _Place(position["epoch"], position["offset"])
        return position

    def forget_unnamed(self) -> list[str]:
        """Let go of the streams whose epoch nobody told: they cannot be resumed. Return their names."""
        unnamed = [stream for stream, place in self._streams.items() if place.epoch is None]
        for stream in unnamed:
            del self._streams[stream]
        return unnamed

    def _told_line(self, deployment_id: str, line: int) -> None:
        if deployment_id not in self._lines:
            return
        wanted = self._lines[deployment_id]
        if wanted is None:
            self._lines[deployment_id] = line
        elif line > wanted:
            raise LinesMissing(deployment_id, wanted)

    def _adopt(self, positions: Mapping[str, Any], names: list[str]) -> None:
        for name in names:
            self._streams[name] = _Place(positions[name]["epoch"], positions[name]["offset"])


def _is_position(name: str, position: object) -> bool:
    if name.startswith(LOG_PREFIX):
        return isinstance(position, Mapping) and _is_number(position.get("line"), 1)
    return _is_stream_position(name, position)


def _is_stream_position(name: str, position: object) -> bool:
    return (
        not name.startswith(LOG_PREFIX)
        and isinstance(position, Mapping)
        and isinstance(position.get("epoch"), str)
        and _is_number(position.get("offset"), 0)
    )


def _is_number(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
