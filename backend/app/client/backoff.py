"""How long to wait before trying again. Pure; used for requests and for reconnecting."""

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential back-off with full jitter above a half: `first_seconds` doubles up to `longest_seconds`."""

    first_seconds: float = 0.2
    longest_seconds: float = 15.0

    def delay_seconds(self, attempt: int, draw: Callable[[], float] = random.random) -> float:
        """Return the wait after failed attempt number `attempt` (from 1): between half and all of its step."""
        step = min(self.longest_seconds, self.first_seconds * 2.0 ** min(attempt - 1, 32))
        return step * (0.5 + draw() / 2)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how long a request is tried: at most `attempts` times and not after `give_up_seconds`."""

    attempts: int = 4
    give_up_seconds: float = 20.0
    backoff: Backoff = Backoff()


ONCE = RetryPolicy(attempts=1)
"""For requests whose failure a person or a loop of its own answers."""
