"""Work of the server that comes round: something is called at an interval.

`main` runs it in a task that it owns. Invariant: a round that fails is logged, counted and
followed by the next one; rounds of one work never overlap.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from backend.app import metrics
from backend.app.schemas.errors import WindFlowError

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
            except WindFlowError as error:
                metrics.PERIODIC_FAILURES.labels(self._work).inc()
                # Why is logged already where it was found out; no traceback of it each second.
                level = logging.WARNING if error.status == 503 else logging.ERROR
                logger.log(level, "%s failed; it is tried again: %s", self._work, error)
            except Exception:
                # Whatever failed must not be the end of the work.
                metrics.PERIODIC_FAILURES.labels(self._work).inc()
                logger.exception("%s failed; it is tried again", self._work)
