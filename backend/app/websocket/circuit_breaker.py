"""The circuit breaker of one plugin: a state machine without task, timer or I/O.

The supervisor asks it before each call and tells it how the call ended. CLOSED: every call is made. OPEN: none, for
`open_seconds`. HALF_OPEN: one call is made as a probe, and its end decides. What does not count as an answer of the
plugin (a call that its caller gave up) changes nothing.
"""

import time
from collections.abc import Callable
from enum import StrEnum


class BreakerState(StrEnum):
    """Whether a plugin is called."""

    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"


OnChange = Callable[[BreakerState, str], None]
"""Told of every change of state, with its reason."""


class CircuitBreaker:
    """Opens after `failures` in a row, or when it is told to."""

    def __init__(
        self,
        failures: int,
        open_seconds: float,
        on_change: OnChange = lambda state, reason: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = failures
        self._open_seconds = open_seconds
        self._on_change = on_change
        self._clock = clock
        self._failures = 0
        """In a row."""
        self._opened_at = 0.0
        self._is_probing = False
        self.state = BreakerState.CLOSED
        self.reason: str | None = None
        """Why it is not CLOSED."""

    @property
    def retry_after_seconds(self) -> float:
        """How long no call is made; 0 unless it is OPEN."""
        if self.state is not BreakerState.OPEN:
            return 0.0
        return max(0.0, self._opened_at + self._open_seconds - self._clock())

    def admit(self) -> bool:
        """Tell whether a call may be made now. Who gets True tells the end: `succeeded`, `failed` or `gave_up`."""
        if self.state is BreakerState.CLOSED:
            return True
        if self.state is BreakerState.OPEN:
            if self.retry_after_seconds > 0:
                return False
            self._change(BreakerState.HALF_OPEN, self.reason)
        if self._is_probing:
            return False
        self._is_probing = True
        return True

    def succeeded(self) -> None:
        """A call ended well. In HALF_OPEN that is the probe, or one that began before it opened: either may speak."""
        self._failures = 0
        if self.state is BreakerState.HALF_OPEN and self._is_probing:
            self._change(BreakerState.CLOSED, None)

    def failed(self, reason: str) -> None:
        """A call failed, or a task of the plugin did."""
        self._failures += 1
        if self.state is BreakerState.HALF_OPEN or (self.state is BreakerState.CLOSED and self._failures >= self._most):
            in_a_row = f"{self._failures} failures in a row; the last: " if self._failures > 1 else ""
            self.trip(f"{in_a_row}{reason}")

    def gave_up(self) -> None:
        """A call ended without an answer of the plugin: its caller was cancelled. The next one is the probe."""
        self._is_probing = False

    def trip(self, reason: str) -> None:
        """Open, or stay open for the whole time from now on."""
        self._opened_at = self._clock()
        self._change(BreakerState.OPEN, reason)

    def reset(self) -> None:
        """Close, as an operator asks or because the plugin is another one now."""
        self._failures = 0
        self._change(BreakerState.CLOSED, None)

    def _change(self, state: BreakerState, reason: str | None) -> None:
        self._is_probing = False
        self.reason = reason
        if state is not self.state:
            self.state = state
            self._on_change(state, reason or "it was called and answered")
