"""Token buckets and counting windows of one connection. Pure: the clock is given."""

from collections import deque
from collections.abc import Callable


class TokenBucket:
    """Lets `burst` acts through at once and `per_minute` on average."""

    __slots__ = ("_at", "_burst", "_clock", "_per_second", "_tokens")

    def __init__(self, per_minute: float, burst: float, clock: Callable[[], float]) -> None:
        self._per_second = per_minute / 60
        self._burst = burst
        self._clock = clock
        self._tokens = burst
        self._at = clock()

    def take(self) -> bool:
        """Use one token; False if there is none."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_second)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Window:
    """Counts what happened within the last `seconds`; holds at most `limit` moments."""

    __slots__ = ("_clock", "_limit", "_moments", "_seconds")

    def __init__(self, limit: int, seconds: float, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._seconds = seconds
        self._clock = clock
        self._moments: deque[float] | None = None
        """None until something happens: most connections never do anything that is counted."""

    def count(self) -> bool:
        """Count one; True if that makes more than `limit` within the window."""
        now = self._clock()
        if self._moments is None:
            self._moments = deque(maxlen=self._limit)
        is_over = len(self._moments) == self._limit and now - self._moments[0] <= self._seconds
        self._moments.append(now)
        return is_over
