"""The load generator as an object: one process that holds connections to one server.

Made by the measurements; every answer is checked, so that a figure never stands on events of the wrong size.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.build import build
from benchmarks.candidates import SOCKET_PATH, Server
from benchmarks.failure import BenchmarkError
from benchmarks.processes import Child

EVENT_BYTES = range(300, 313)
"""What one event may have on the wire: 306 bytes, give or take a digit."""
PATIENCE_SECONDS = 120.0
"""More than the generator's own patience: it knows better what is missing."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one command led to; the CPU time is the server's."""

    connections: int
    seconds: float
    user_seconds: float
    system_seconds: float
    rounds: int
    events: int
    event_bytes: int
    other_messages: int
    p50_ms: float
    p99_ms: float

    @property
    def cpu_seconds(self) -> float:
        """User and system time of the server; at least one tick, so that a short run divides by something."""
        return max(self.user_seconds + self.system_seconds, 0.01)


class Generator:
    """Connections to one server, and what is done with them."""

    def __init__(self, child: Child) -> None:
        self._child = child

    def open(self, count: int, at_once: int = 100) -> Answer:
        """Open and authenticate further connections."""
        return self._ask(f"open {count} {at_once}", PATIENCE_SECONDS)

    def burst(self, events: int, seconds: float) -> Answer:
        """Let `events` be published in one go, again and again, each time when all have come."""
        return self._ask(f"burst {events} {seconds:g}", seconds + PATIENCE_SECONDS)

    def paced(self, per_second: float, seconds: float) -> Answer:
        """Let one event be published at a steady rate."""
        return self._ask(f"paced {per_second:g} {seconds:g}", seconds + PATIENCE_SECONDS)

    def churn(self, count: int, at_once: int = 50) -> Answer:
        """Open, authenticate and close so many connections."""
        return self._ask(f"churn {count} {at_once}", PATIENCE_SECONDS)

    def close(self) -> Answer:
        """Close all connections."""
        return self._ask("close", PATIENCE_SECONDS)

    def _ask(self, command: str, seconds: float) -> Answer:
        self._child.say(command)
        answer = Answer(**self._child.hear(seconds))
        if answer.events and answer.event_bytes // answer.events not in EVENT_BYTES:
            raise BenchmarkError(f"events have {answer.event_bytes / answer.events:.0f} bytes instead of 306")
        return answer


@contextmanager
def generator(server: Server, most: int, core: int | None) -> Iterator[Generator]:
    """Run a load generator for a server, with room for so many connections, until the block ends."""
    command = [str(build("load")), str(server.port), SOCKET_PATH, str(server.child.pid), str(most)]
    child = Child(f"load of {server.name}", command, core=core)
    try:
        if server.greeting is not None:
            child.say(f"greet {server.greeting}")
        yield Generator(child)
    finally:
        child.stop()
