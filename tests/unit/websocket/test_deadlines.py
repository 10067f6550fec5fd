"""The table of deadlines: who is not removed in time is told once, in order, with one timer for all."""

import asyncio
from typing import Any

import pytest

from backend.app.websocket.deadlines import Deadlines
from tests.plugin_world import LOOPS, until

SECONDS = 0.02


class Entry:
    """Something with a deadline."""

    def __init__(self, name: str, told: list[str]) -> None:
        self.name = name
        self._told = told

    def expired(self) -> None:
        """Keep it."""
        self._told.append(self.name)


class CountingLoop:
    """A loop whose time stands still until it is moved, and that has its timers counted."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Any] = []

    def time(self) -> float:
        """What is the time."""
        return self.now

    def call_later(self, delay: float, callback: Any) -> "CountingLoop.Timer":
        """Set a timer."""
        self.timers.append(timer := CountingLoop.Timer(self.now + delay, callback))
        return timer

    class Timer:
        """One timer."""

        def __init__(self, due: float, callback: Any) -> None:
            self.due = due
            self.callback = callback
            self.is_cancelled = False

        def cancel(self) -> None:
            """Do not call back."""
            self.is_cancelled = True

    def move(self, now: float) -> None:
        """Let the time pass and the timers fire."""
        self.now = now
        due, self.timers = [t for t in self.timers if t.due <= now], [t for t in self.timers if t.due > now]
        for timer in due:
            if not timer.is_cancelled:
                timer.callback()


@pytest.mark.parametrize("kind", sorted(LOOPS))
def test_on_a_real_loop_each_expires_in_its_order(kind: str) -> None:
    """A shorter one that came later is first; who was removed is not told."""

    async def main() -> list[str]:
        told: list[str] = []
        deadlines = Deadlines(asyncio.get_running_loop())
        entries = {name: Entry(name, told) for name in ("long", "gone", "short", "last")}
        deadlines.add(entries["long"], SECONDS * 2)
        deadlines.add(entries["gone"], SECONDS)
        deadlines.add(entries["short"], SECONDS)
        deadlines.add(entries["last"], SECONDS * 4)
        deadlines.remove(entries["gone"], SECONDS)
        await until(lambda: len(told) == 3)
        assert len(deadlines) == 0
        return told

    with asyncio.Runner(loop_factory=LOOPS[kind]) as runner:
        assert runner.run(main()) == ["short", "long", "last"]


def test_a_thousand_calls_that_end_in_time_set_one_timer() -> None:
    """The timer is set for the first; when it fires for nothing, it is set anew only if anything waits."""
    loop, told = CountingLoop(), list[str]()
    deadlines = Deadlines(loop)  # type: ignore[arg-type]
    for number in range(1000):
        entry = Entry(str(number), told)
        deadlines.add(entry, 5.0)
        loop.now += 1 / 1024
        deadlines.remove(entry, 5.0)
    assert len(loop.timers) == 1
    deadlines.add(Entry("waits", told), 5.0)
    loop.move(5.0)
    assert (told, len(loop.timers), loop.timers[0].due) == ([], 1, 1000 / 1024 + 5)
    loop.move(loop.timers[0].due)
    assert (told, loop.timers) == (["waits"], [])


def test_an_entry_may_begin_anew_when_it_expires() -> None:
    """As a call does that gets a time to end in after its time-out."""
    loop, told = CountingLoop(), list[str]()
    deadlines = Deadlines(loop)  # type: ignore[arg-type]

    class Twice(Entry):
        def expired(self) -> None:
            super().expired()
            if len(told) < 2:
                deadlines.add(self, 1.0)

    deadlines.add(Twice("call", told), 5.0)
    loop.move(5.0)
    assert told == ["call"]
    loop.move(5.9)
    assert told == ["call"]
    loop.move(6.0)
    assert told == ["call", "call"]
    assert len(deadlines) == 0
