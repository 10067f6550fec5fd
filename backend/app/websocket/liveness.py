"""Tells whether one client is alive: the rules of heartbeat and write stall. Pure: clock and counts are given.

While bytes for a client wait in the transport, a ping would wait behind them: then the write-stall
rule judges, else the heartbeat. Anything a client sends is a sign of life, not only a pong.
"""

from dataclasses import dataclass
from enum import Enum, auto


@dataclass(frozen=True, slots=True)
class LivenessRules:
    """Durations in seconds."""

    heartbeat: float
    """Between two pings."""
    pong_timeout: float
    """For the answer."""
    write_stall: float
    """The client confirmed no byte and nothing came: dead."""
    write_stall_max: float
    """The client confirmed no byte, whatever comes: dead."""


class Verdict(Enum):
    """What is to be done with the client now."""

    FINE = auto()
    PING = auto()
    NO_PONG = auto()
    STALLED = auto()


class Liveness:
    """What is known of one client's signs of life."""

    __slots__ = ("_is_awaiting", "_pinged_at", "_rules", "_taken_at", "_taken_bytes", "_was_waiting")

    def __init__(self, rules: LivenessRules, now: float) -> None:
        self._rules = rules
        self._pinged_at = now
        """When the last ping was sent; at first, when the connection began."""
        self._is_awaiting = False
        """Whether nothing came since the last ping."""
        self._taken_bytes = 0
        self._taken_at = now
        """When the client last confirmed a byte, as far as was looked."""
        self._was_waiting = False
        """Whether bytes waited when it was last looked: a ping that is out lies behind them."""

    def look(self, now: float, *, taken_bytes: int, waiting_bytes: int, received_at: float) -> Verdict:
        """Judge the client by how many bytes it confirmed so far, how many wait, and when it last sent something."""
        rules = self._rules
        if taken_bytes != self._taken_bytes or not waiting_bytes:
            self._taken_bytes = taken_bytes
            self._taken_at = now
        if received_at >= self._pinged_at:
            self._is_awaiting = False
        if waiting_bytes:
            self._was_waiting = True
            silent_for = now - max(self._taken_at, received_at)
            is_stalled = silent_for >= rules.write_stall or now - self._taken_at >= rules.write_stall_max
            return Verdict.STALLED if is_stalled else Verdict.FINE
        if self._was_waiting:
            # It has taken everything only now: the time for an answer begins now, too.
            self._was_waiting = False
            return self._ping(now)
        if self._is_awaiting:
            return Verdict.NO_PONG if now - self._pinged_at >= rules.pong_timeout else Verdict.FINE
        return self._ping(now) if now - self._pinged_at >= rules.heartbeat else Verdict.FINE

    def forgive(self, seconds: float) -> None:
        """Leave out a time in which this process could not look: it was stopped, or its loop was blocked."""
        self._pinged_at += seconds
        self._taken_at += seconds

    def _ping(self, now: float) -> Verdict:
        self._pinged_at = now
        self._is_awaiting = True
        return Verdict.PING
