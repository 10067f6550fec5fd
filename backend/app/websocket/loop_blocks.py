"""What follows when a plugin blocks the event loop: it is counted and shown, and at repeated offences called no more.

Called on the loop with what the watchdog saw; the watchdog has logged it while it lasted.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Protocol

from backend.app import metrics
from backend.app.websocket.supervisor import Supervisor
from backend.app.websocket.watchdog import Block, Named, Watchdog


class BlockLimits(Protocol):
    """The settings that are read here."""

    @property
    def loop_block_seconds(self) -> float: ...
    @property
    def loop_block_offences(self) -> int: ...
    @property
    def loop_block_window_seconds(self) -> float: ...


class LoopBlocks:
    """Counts the blocks of each plugin; `offences` of them within `window_seconds` open its breaker."""

    def __init__(
        self,
        supervisor: Supervisor,
        offences: int,
        window_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._supervisor = supervisor
        self._offences = offences
        self._window_seconds = window_seconds
        self._clock = clock
        self._recent: dict[str, deque[float]] = {}

    def __call__(self, block: Block) -> None:
        """Take one block that is over."""
        now = self._clock()
        metrics.LOOP_BLOCKS.inc()
        metrics.LOOP_BLOCKED_SECONDS.inc(max(0.0, now - block.began))
        if block.plugin is None:
            return
        metrics.PLUGIN_LOOP_BLOCKS.labels(block.plugin).inc()
        stats = self._supervisor.stats_of(block.plugin)
        stats.loop_blocks += 1
        stats.last_error = f"{block.hook} blocked the event loop for {now - block.began:.1f} s at {block.position}"
        stats.last_error_at = datetime.now(UTC)
        recent = self._recent.setdefault(block.plugin, deque(maxlen=self._offences))
        recent.append(block.began)
        if len(recent) == self._offences and now - recent[0] <= self._window_seconds:
            recent.clear()
            times = "once" if self._offences == 1 else f"{self._offences} times"
            reason = f"it blocked the event loop {times} within {self._window_seconds:g} s; the last: {block.position}"
            self._supervisor.breaker_of(block.plugin).trip(reason)


@contextmanager
def watching(supervisor: Supervisor, limits: BlockLimits, plugins: Callable[[], Iterable[Named]]) -> Iterator[None]:
    """Watch the running loop; to be entered and left on it."""
    blocks = LoopBlocks(supervisor, limits.loop_block_offences, limits.loop_block_window_seconds)
    watchdog = Watchdog(limits.loop_block_seconds, blocks, plugins)
    watchdog.start()
    try:
        yield
    finally:
        watchdog.stop()
