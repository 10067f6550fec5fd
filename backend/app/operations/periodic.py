"""Work of the server that comes round: something is called at an interval.

`main` runs it in a task that it owns. Invariant: a round that fails is logged, counted and
followed by the next one; rounds of one work never overlap.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from backend.app import metrics
from backend.app.storage_failures import log_failure

logger = logging.getLogger("windflow.periodic")

SPREAD = 0.1
"""Part of the interval by which a round comes early at random, so that servers do not all come at once."""


class Periodic:
    """Calls `act` every `seconds` at the latest, first after one interval."""

    def __init__(self, work: str, act: Callable[[], Awaitable[object]], seconds: float) -> None:
        self._work = work
        self._act = act
        self._seconds = seconds

    async def run(self) -> None:
        """Go on until cancelled; a round that runs is cancelled with it."""
        while True:
            await asyncio.sleep(self._seconds * random.uniform(1 - SPREAD, 1))
            try:
                await self._act()
            except Exception as error:  # noqa: BLE001 - log_failure tells of it
                # Whatever failed must not be the end of the work.
                metrics.PERIODIC_FAILURES.labels(self._work).inc()
                log_failure(logger, f"{self._work} failed; it is tried again", error)
