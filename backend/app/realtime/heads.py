"""How far this node has handed on each stream, each log and each latest value. Pure.

Streams are in order when they come here: the bus sees to that. Lines and values are not: here it shows
what is next, what was there before, and what has something missing before it.
"""

from collections import OrderedDict
from collections.abc import Mapping
from enum import Enum, auto
from typing import TypeVar

from backend.app.realtime.event import Event
from backend.app.realtime.event_log import Position
from backend.app.realtime.marks import deployment_of
from backend.app.schemas.event_spec import Delivery

V = TypeVar("V")

REMEMBERED = 10_000
"""Logs and latest values whose place is remembered; of one that was forgotten the next event counts as the next."""


class Step(Enum):
    """What an event is to what was handed on before."""

    NEXT = auto()
    PAST = auto()
    """It was handed on before, or something newer was."""
    GAP = auto()
    """Something before it is missing, or a part of it was handed on before."""


class Heads:
    """The heads of one node. `main` makes one for bus and hub."""

    def __init__(self) -> None:
        self._streams: dict[str, Position] = {}
        self._logs: OrderedDict[str, int] = OrderedDict()
        self._versions: OrderedDict[str, int] = OrderedDict()

    # ---- streams -----------------------------------------------------------------------------------------

    def position(self, stream: str) -> Position | None:
        """Return where a stream stands here; None if nothing is known of it."""
        return self._streams.get(stream)

    def head(self, source: str) -> int | None:
        """Return the offset of a stream, or the last line of a log, that was handed on; None if nothing is known."""
        deployment_id = deployment_of(source)
        if deployment_id is not None:
            return self._logs.get(deployment_id)
        position = self._streams.get(source)
        return None if position is None else position.offset

    def learn(self, positions: Mapping[str, Position]) -> None:
        """Take over where streams stand that are not known yet."""
        for stream, position in positions.items():
            self._streams.setdefault(stream, position)

    def reset(self, stream: str, position: Position) -> None:
        """A stream has begun anew, with another epoch."""
        self._streams[stream] = position

    # ---- events ------------------------------------------------------------------------------------------

    def take(self, event: Event) -> Step:
        """Take note of an event that is handed on, and tell what it is to those before it."""
        if event.spec.delivery is Delivery.STREAM:
            return self._take_stream(event)
        if event.spec.delivery is Delivery.LATEST:
            return self._take_latest(event)
        return Step.NEXT

    def _take_stream(self, event: Event) -> Step:
        known = self._streams.get(event.stream)
        if event.offset is None:
            return Step.NEXT
        if known is None or event.epoch not in (None, known.epoch):
            self._streams[event.stream] = Position(event.epoch or "", event.offset)
        elif event.offset <= known.offset:
            return Step.PAST
        else:
            self._streams[event.stream] = Position(known.epoch, event.offset)
        return Step.NEXT

    def _take_latest(self, event: Event) -> Step:
        if event.version is None:
            return Step.NEXT
        source = event.mark.source
        known = self._versions.pop(source, 0)
        _remember(self._versions, source, max(known, event.version))
        return Step.NEXT if event.version > known else Step.PAST

    # ---- lines and values --------------------------------------------------------------------------------

    def take_lines(self, deployment_id: str, first: int, last: int) -> Step:
        """Take note of lines that are handed on, and tell what they are to those before."""
        known = self._logs.pop(deployment_id, None)
        _remember(self._logs, deployment_id, last if known is None else max(known, last))
        if known is None or first == known + 1:
            return Step.NEXT
        return Step.PAST if last <= known else Step.GAP

    def learn_lines(self, deployment_id: str, last: int) -> None:
        """Take over how many lines a log has, if nothing is known of it yet."""
        if deployment_id not in self._logs:
            _remember(self._logs, deployment_id, last)

    def version(self, source: str) -> int:
        """Return the version of a latest value that was handed on; 0 if none is known."""
        return self._versions.get(source, 0)

    def begin_lines(self, deployment_id: str) -> None:
        """A deployment was made: its log is empty, whatever another one with this id had."""
        _remember(self._logs, deployment_id, 0)

    def forget_lines(self, deployment_id: str) -> None:
        """Forget the log of a deployment that is gone."""
        self._logs.pop(deployment_id, None)


def _remember(places: "OrderedDict[str, V]", key: str, value: V) -> None:
    places[key] = value
    while len(places) > REMEMBERED:
        places.popitem(last=False)
