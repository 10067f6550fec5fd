"""What was asked for and what came: acknowledged, delivered, doubled, missing, out of order.

Publishers write what they were answered, followers what they were sent; `verdict` compares the two. Pure.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Delivered:
    """One event as a follower got it."""

    entry: str
    event_id: str
    offset: int


@dataclass(slots=True)
class Received:
    """Everything that one follower got, over all its connections."""

    events: list[Delivered] = field(default_factory=list)
    lines: list[tuple[int, str]] = field(default_factory=list)
    """Number and text."""
    faults: list[str] = field(default_factory=list)
    """What the protocol forbids."""


@dataclass(slots=True)
class Ledger:
    """The books of one run."""

    acknowledged: dict[str, str | None] = field(default_factory=dict)
    """The id that the publisher was told of each entry; None where the answer does not tell it."""
    unanswered: set[str] = field(default_factory=set)
    """Entries whose request got no answer and was not sent again."""
    lines: list[str] = field(default_factory=list)
    """Acknowledged lines: `lines[0]` is number 1."""
    retries: int = 0
    """Requests that were sent again with their key, or with their line numbers."""

    def is_complete(self, received: Received) -> bool:
        """Tell whether a follower has got everything that was acknowledged."""
        entries = {event.entry for event in received.events}
        return len(received.lines) >= len(self.lines) and self.acknowledged.keys() <= entries

    def verdict(self, received: Received, *, with_lines: bool = True) -> dict[str, object]:
        """Return what is wrong with what an entitled follower got; empty if nothing is."""
        counted = Counter(event.entry for event in received.events)
        offsets = [event.offset for event in received.events]
        ids = Counter(event.event_id for event in received.events)
        found: dict[str, object] = {
            "missing": sorted(self.acknowledged.keys() - counted.keys()),
            "doubled": sorted(entry for entry, count in counted.items() if count > 1),
            "doubled ids": sorted(event_id for event_id, count in ids.items() if count > 1),
            "nobody's": sorted(counted.keys() - self.acknowledged.keys() - self.unanswered),
            "out of order": [pair for pair in pairwise(offsets) if pair[0] >= pair[1]],
            "other id": sorted(
                event.entry
                for event in received.events
                if self.acknowledged.get(event.entry) not in (None, event.event_id)
            ),
            "lines": self._lines_verdict(received.lines) if with_lines else [],
            "faults": received.faults,
        }
        return {what: value for what, value in found.items() if value}

    def _lines_verdict(self, lines: Sequence[tuple[int, str]]) -> list[str]:
        expected = list(enumerate(self.lines, 1))
        if list(lines) == expected:
            return []
        numbers = [number for number, _ in lines]
        wrong = next((got for got, want in zip(lines, expected, strict=False) if got != want), None)
        doubled = [number for number, count in Counter(numbers).items() if count > 1]
        return [f"{len(lines)} of {len(expected)}, first wrong {wrong}, doubled {doubled[:5]}"]

    def plugin_verdict(self, recorded: Mapping[str, set[str]]) -> dict[str, object]:
        """Return what is wrong with what a plugin saw: each acknowledged event at least once, with one id."""
        found: dict[str, object] = {
            "missing": sorted(self.acknowledged.keys() - recorded.keys()),
            "several ids": sorted(entry for entry, ids in recorded.items() if len(ids) > 1),
            "other id": sorted(
                entry
                for entry, event_id in self.acknowledged.items()
                if event_id is not None and entry in recorded and recorded[entry] != {event_id}
            ),
        }
        return {what: value for what, value in found.items() if value}
