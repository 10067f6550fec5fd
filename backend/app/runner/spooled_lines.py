"""The lines of a spool as a reporter takes them: batches in order, numbered as the server numbers them.

Made by `deploy` and `spool flush`. Invariant: which number a line gets follows from what is on disk alone, so that a
process that takes over after a crash sends the same lines under the same numbers.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from backend.app.client.line_buffer import BufferLimits
from backend.app.client.runner_api import LogLine
from backend.app.runner.spool_store import Spool


@dataclass(frozen=True, slots=True)
class _Entry:
    line: LogLine
    missing: int = 0
    """How many lines it stands for, where it is a marker."""


class SpooledLines:
    """Keeps what is added in the spool, and holds in memory the batch that is being sent."""

    is_kept = True

    def __init__(self, spool: Spool, limits: BufferLimits | None = None) -> None:
        self._spool = spool
        self._limits = limits or BufferLimits()
        self._most_lines = self._limits.batch_lines
        self._read: deque[_Entry] = deque()
        self._handed = 0  # how many of them are the present batch
        self._lost = 0
        self.first_line = spool.state.next_number
        """Number of the batch's first line on the server."""

    def __len__(self) -> int:
        has_marker = self._spool.state.missing and (self._spool.waiting or self._spool.is_final)
        return self._spool.waiting + (1 if has_marker else 0)

    @property
    def dropped(self) -> int:
        """Lines of this process that will never reach the server."""
        return self._lost

    @property
    def is_full(self) -> bool:
        """Whether a further line has no room."""
        return self._spool.is_full

    @property
    def has_full_batch(self) -> bool:
        """Whether waiting for more lines would not make the next report larger."""
        return self._handed > 0 or len(self) >= self._most_lines

    def add(self, lines: Sequence[LogLine]) -> None:
        """Write lines to the spool."""
        self._spool.add([line.body() for line in lines])

    def make_room(self, count: int) -> bool:
        """Drop the oldest lines that were not sent yet; where there are none, count so many new ones as missing."""
        dropped = self._spool.drop_oldest()
        if not dropped:
            self._spool.skip(count)
        self._lost += dropped or count
        return dropped > 0

    def batch(self) -> list[LogLine]:
        """Return the lines to send next, starting at `first_line`; the same ones until they are confirmed."""
        if not self._handed:
            if not self._read:
                self._fill()
            self._handed = min(len(self._read), self._most_lines)
        return [entry.line for entry in islice(self._read, self._handed)]

    def confirm(self, next_line: int) -> None:
        """Forget the lines below `next_line`: the server has them.

        A server that has more than the batch got it from a process whose notes are lost: the next
        batches say the same again, under the same numbers.
        """
        known = min(max(next_line - self.first_line, 0), self._handed)
        if not known:
            return
        done = [self._read.popleft() for _ in range(known)]
        self._handed -= known
        self.first_line += known
        missing = sum(entry.missing for entry in done)
        lines = missing + sum(not entry.missing for entry in done)
        self._spool.confirm(self._spool.state.next_line + lines, self.first_line, missing)

    def renumber(self, next_line: int) -> None:
        """Go on at the number the server expects, where it has fewer lines than it once confirmed."""
        self.first_line = next_line
        self._spool.confirm(self._spool.state.next_line, next_line)

    def refuse(self) -> None:
        """Make smaller what the server found too large: half the batch, or a marker instead of a single line."""
        if self._handed > 1:
            self._handed = self._most_lines = max(1, self._handed // 2)
        elif self._handed:
            entry = self._read[0]
            line = LogLine("… one line is missing: the server did not take it", time=entry.line.time)
            self._read[0] = _Entry(line, entry.missing)
            self._lost += 1

    def stop(self) -> None:
        """Nothing more is sent; everything stays where it is."""

    def _fill(self) -> None:
        expected = self._spool.state.next_line
        lines = self._spool.read(self._limits.batch_lines, self._limits.batch_bytes)
        for line in lines:
            self._mark(line.number - expected)
            body = line.body
            self._read.append(_Entry(LogLine(body["text"], body.get("t"), body.get("stream"), body.get("level"))))
            expected = line.number + 1
        if not lines and self._spool.is_final:
            # Before that it could grow, and who takes over after a crash would count differently.
            self._mark(self._spool.next_line - expected)

    def _mark(self, missing: int) -> None:
        """Let one counted line stand for those that are not there."""
        if missing > 0:
            cause = "the server was away and the spool full" if self._spool.state.missing else "the spool was damaged"
            what = "1 line is" if missing == 1 else f"{missing} lines are"
            self._read.append(_Entry(LogLine(f"… {what} missing: {cause}"), missing))
