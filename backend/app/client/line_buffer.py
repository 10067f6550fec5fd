"""The lines of a deployment that are not yet on the server, in order, within bounds, in memory. Pure.

Filled by the command's output, emptied by `Reporter`. A batch that was handed out keeps its
numbers until it is confirmed, so that repeating it makes nothing twice; only lines that were never
handed out can be dropped, and a counted marker line takes their place.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from backend.app.client.runner_api import LogLine

LINE_OVERHEAD_BYTES = 64
"""What a line costs besides its text: its time and the JSON around it."""


@dataclass(frozen=True, slots=True)
class BufferLimits:
    """How much one report may hold, and how much may wait."""

    batch_lines: int = 1_000
    batch_bytes: int = 1_048_576
    """Text of one report (bytes); a single longer line goes alone."""
    lines: int = 50_000
    bytes: int = 33_554_432


class PendingLines(Protocol):
    """What a reporter needs of the lines it delivers: `LineBuffer`, or a spool on disk."""

    first_line: int
    """Number of the batch's first line."""

    @property
    def is_kept(self) -> bool:
        """Whether what is not delivered now can be delivered later."""
        ...

    @property
    def dropped(self) -> int:
        """Lines that will never reach the server."""
        ...

    @property
    def is_full(self) -> bool:
        """Whether a further line has no room."""
        ...

    @property
    def has_full_batch(self) -> bool:
        """Whether waiting for more lines would not make the next report larger."""
        ...

    def __len__(self) -> int: ...

    def add(self, lines: Sequence[LogLine]) -> None:
        """Append lines."""
        ...

    def make_room(self, count: int) -> bool:
        """Drop old lines; False if there was none to drop and so many new ones are counted as dropped instead."""
        ...

    def batch(self) -> list[LogLine]:
        """Return the lines to send next, starting at `first_line`; the same ones until they are confirmed."""
        ...

    def confirm(self, next_line: int) -> None:
        """Forget the lines below `next_line`: the server has them."""
        ...

    def renumber(self, next_line: int) -> None:
        """Go on at the number the server expects, where it has fewer lines than it once confirmed."""
        ...

    def refuse(self) -> None:
        """Make smaller what the server found too large: half the batch, or a marker instead of a single line."""
        ...

    def stop(self) -> None:
        """Learn that nothing more is sent."""
        ...


class LineBuffer:
    """Numbered lines: confirmed < batch < waiting."""

    is_kept = False

    def __init__(self, limits: BufferLimits | None = None) -> None:
        self._limits = limits or BufferLimits()
        self._waiting: deque[LogLine] = deque()
        self._waiting_bytes = 0
        self._batch: list[LogLine] = []
        self._batch_lines = self._limits.batch_lines
        self._skipped = 0
        self._is_stopped = False
        self.first_line = 1
        """Number of the batch's first line."""
        self.dropped = 0
        """Lines that will never reach the server."""

    def __len__(self) -> int:
        return len(self._batch) + len(self._waiting) + (1 if self._skipped else 0)

    @property
    def is_full(self) -> bool:
        """Whether a further line has no room."""
        return len(self._waiting) >= self._limits.lines or self._waiting_bytes >= self._limits.bytes

    @property
    def has_full_batch(self) -> bool:
        """Whether waiting for more lines would not make the next report larger."""
        return (
            bool(self._batch)
            or len(self._waiting) >= self._batch_lines
            or self._waiting_bytes >= self._limits.batch_bytes
        )

    def add(self, lines: Sequence[LogLine]) -> None:
        """Append lines."""
        if self._is_stopped:
            self.dropped += len(lines)
            return
        self._waiting += lines
        self._waiting_bytes += sum(map(_size, lines))

    def make_room(self, count: int) -> bool:
        """Make room: the oldest tenth of the waiting lines becomes one marker line, which counts them.

        Always True: what is full has waiting lines.
        """
        for _ in range(max(1, len(self._waiting) // 10)):
            if not self._waiting:
                break
            self._waiting_bytes -= _size(self._waiting.popleft())
            self._skipped += 1
            self.dropped += 1
        return True

    def batch(self) -> list[LogLine]:
        """Return the lines to send next, starting at `first_line`; the same ones until they are confirmed."""
        if not self._batch:
            if self._skipped:
                self._batch.append(LogLine(f"… {self._skipped} lines are missing: the server was away"))
                self._skipped = 0
            size = 0
            while self._waiting and len(self._batch) < self._batch_lines:
                size += _size(self._waiting[0])
                if self._batch and size > self._limits.batch_bytes:
                    break
                line = self._waiting.popleft()
                self._waiting_bytes -= _size(line)
                self._batch.append(line)
        return self._batch

    def confirm(self, next_line: int) -> None:
        """Forget the lines below `next_line`: the server has them."""
        known = min(max(next_line - self.first_line, 0), len(self._batch))
        del self._batch[:known]
        self.first_line = max(self.first_line, next_line)

    def renumber(self, next_line: int) -> None:
        """Go on at the number the server expects, where it has fewer lines than it once confirmed."""
        self.first_line = next_line

    def refuse(self) -> None:
        """Make smaller what the server found too large: half the batch, or a marker instead of a single line."""
        if len(self._batch) > 1:
            self._batch_lines = max(1, len(self._batch) // 2)
            for line in reversed(self._batch[self._batch_lines :]):
                self._waiting.appendleft(line)
                self._waiting_bytes += _size(line)
            del self._batch[self._batch_lines :]
        elif self._batch:
            self._batch[0] = LogLine("… one line is missing: the server did not take it", time=self._batch[0].time)
            self.dropped += 1

    def stop(self) -> None:
        """Give up everything that is not confirmed, and what comes; it counts as dropped."""
        self._is_stopped = True
        self.dropped += len(self._batch) + len(self._waiting)
        self._batch.clear()
        self._waiting.clear()
        self._waiting_bytes = 0
        self._skipped = 0


def _size(line: LogLine) -> int:
    # Characters, not bytes: exact bytes would cost an encoding per line, and the limits leave room for it.
    return len(line.text) + LINE_OVERHEAD_BYTES
