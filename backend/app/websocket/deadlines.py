"""Deadlines of what runs on one event loop: a table with one timer, in place of a timer for each call.

Nearly every call ends long before its deadline. So adding and removing are two steps in a dictionary, and the timer is
left as it is when what it was set for has ended: it fires, finds nothing due, and is set for what is next.
"""

import asyncio
from typing import Protocol


class Expiring(Protocol):
    """What has a deadline; kept by its identity, so it must have the hash of `object`."""

    def expired(self) -> None:
        """Take notice that the time is over; called once for each `add`. Must not raise."""


LEAST_SECONDS = 0.001
"""A timer is never set for less: event loops round, and one that fires early must not spin."""


class Deadlines:
    """Calls `expired` of what is not removed in time; to be used on its loop only."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._by_length: dict[float, dict[Expiring, float]] = {}
        """Of one length the first that was added is the first that is due: the dictionaries are in order."""
        self._timer: asyncio.TimerHandle | None = None
        self._set_for = 0.0

    def __len__(self) -> int:
        return sum(len(waiting) for waiting in self._by_length.values())

    def add(self, entry: Expiring, seconds: float) -> None:
        """Begin to count the time of an entry that is not in the table."""
        due = self.loop.time() + seconds
        waiting = self._by_length.get(seconds)
        if waiting is None:
            waiting = self._by_length[seconds] = {}
        waiting[entry] = due
        if self._timer is None or due < self._set_for:
            self._set(due)

    def remove(self, entry: Expiring, seconds: float) -> None:
        """Take an entry out that was added with this length; nothing if it has expired."""
        waiting = self._by_length.get(seconds)
        if waiting is not None:
            waiting.pop(entry, None)

    def _set(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._set_for = due
        self._timer = self.loop.call_later(max(LEAST_SECONDS, due - self.loop.time()), self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        now = self.loop.time()
        over: list[tuple[float, Expiring]] = []
        for seconds, waiting in tuple(self._by_length.items()):
            while waiting and (first := next(iter(waiting.items())))[1] <= now:
                entry, due = first
                del waiting[entry]
                over.append((due, entry))
            if not waiting:
                del self._by_length[seconds]
        for _, entry in sorted(over, key=lambda each: each[0]):
            entry.expired()
        earliest = min((next(iter(waiting.values())) for waiting in self._by_length.values() if waiting), default=None)
        if earliest is not None and (self._timer is None or earliest < self._set_for):
            self._set(earliest)
