"""One spool that this process owns: lines go in as they are printed and come out until the server has them.

Made by `SpoolFolder`; `SpooledLines` puts it behind a reporter. Invariants: a line is written before it is given out;
disk and memory stay within their limits, and what has no room is counted; who is killed loses nothing that was written.
"""

import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from filelock import BaseFileLock

from backend.app.runner.spool import End, Head, Line, State, encode
from backend.app.runner.spool_files import SpoolFiles, files_of, records_of, remove_folder

LEAST_SPOOL_BYTES = 1_048_576
MOST_FILE_BYTES = 8_388_608
MOST_UNWRITTEN_BYTES = 4_194_304
"""What may wait in memory for a disk that takes nothing."""
RETRY_SECONDS = 1.0
"""How often a disk that took nothing is tried again."""


class SpoolDamaged(Exception):
    """Not even what the deployment is can be read any more."""


def scan(folder: Path) -> tuple[Head, State, int]:
    """Return what a spool says of itself, and the number after that of its last line.

    Reads no more files, from the last one back, than are needed. Raises SpoolDamaged and OSError.
    """
    head: Head | None = None
    state: State | None = None
    next_line = 1
    for file in reversed(files_of(folder)):
        newest: State | None = None
        next_line = max(next_line, file.first_line)
        for record in records_of(file):
            if isinstance(record, Line):
                next_line = max(next_line, record.number + 1)
            elif isinstance(record, State):
                newest = record
            else:
                head = record
        state = state or newest
        if head is not None and state is not None:
            return head, state, max(next_line, state.next_line, state.last_line + 1)
    raise SpoolDamaged(f"{folder} holds no readable spool")


class Spool:
    """Open from its making until `close` or `remove`."""

    def __init__(
        self, folder: Path, lock: BaseFileLock, head: Head, state: State, next_line: int, *, most_bytes: int
    ) -> None:
        """Begins a file of its own: nothing is appended to what another process may have left half-written."""
        self.folder = folder
        self.head = head
        self.state = state
        self.next_line = next_line
        """The number that the next line gets."""
        self.is_final = False
        """Whether no line comes any more: the command ended, or its runner did."""
        self.trouble: str | None = None
        """Why the disk took something not."""
        self._lock = lock
        self._most_bytes = most_bytes
        self._file_bytes = min(MOST_FILE_BYTES, most_bytes // 16)
        self._files = SpoolFiles(folder)
        self._unwritten: deque[Line] = deque()
        self._unwritten_bytes = 0
        self._retry_at = 0.0
        self._ahead: deque[Line] = deque()
        self._files.rotate(next_line, self._opening())

    @property
    def is_full(self) -> bool:
        """Whether a further line has no room."""
        return self._files.size >= self._most_bytes or self._unwritten_bytes >= MOST_UNWRITTEN_BYTES

    @property
    def waiting(self) -> int:
        """Lines that the server has not confirmed, without those that are missing."""
        return max(0, self.next_line - self.state.next_line - self.state.missing)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self._files.size

    @property
    def descriptor(self) -> int:
        """Of the file that is written, for `fdatasync`."""
        return self._files.descriptor

    def add(self, bodies: Sequence[dict[str, str]]) -> None:
        """Keep lines. Where the disk fails they wait in memory, and `trouble` says why."""
        lines = [Line(number, body) for number, body in enumerate(bodies, self.next_line)]
        self.next_line += len(lines)
        self._unwritten += lines
        self._unwritten_bytes += sum(map(_weight, lines))
        self._write()

    def skip(self, count: int) -> None:
        """Count lines as missing that find no room at all."""
        self.next_line += count
        self._files.last.skipped += count
        self._set(self.state.changed(missing=self.state.missing + count))

    def drop_oldest(self) -> int:
        """Make room by the oldest lines that were not given out yet; return how many they were, 0 if there are none."""
        count = self._files.drop_oldest()
        self._retry_at = 0.0  # for what waits for this disk
        if not count and self._unwritten:
            for _ in range(max(1, len(self._unwritten) // 10)):
                self._unwritten_bytes -= _weight(self._unwritten.popleft())
                count += 1
            self._files.last.skipped += count
        if count:
            self._set(self.state.changed(missing=self.state.missing + count))
        return count

    def read(self, most_lines: int, most_bytes: int) -> list[Line]:
        """Return the next lines, at least one if there is any. A number that is left out is missing.

        What the disk does not give back is missing, too.
        """
        lines: list[Line] = []
        size = 0
        while len(lines) < most_lines and (line := self._next()) is not None:
            if line.number < self.state.next_line:
                continue
            size += _weight(line)
            if lines and size > most_bytes:
                self._ahead.appendleft(line)
                break
            lines.append(line)
        return lines

    def confirm(self, next_line: int, next_number: int, found_missing: int = 0) -> None:
        """Note what the server has, and forget it here."""
        missing = max(0, self.state.missing - found_missing) if next_line < self.next_line else 0
        self._set(self.state.changed(next_line=next_line, next_number=next_number, missing=missing))
        self._files.forget_below(next_line)

    def set_created(self) -> None:
        """Note that the server has made the deployment."""
        self._set(self.state.changed(is_created=True))

    def set_end(self, status: str, reason: str | None, exit_code: int | None, at: str) -> None:
        """Note how the command ended; no line comes after that."""
        self.is_final = True
        self._write()
        self._set(self.state.changed(end=End(status, reason, exit_code, at)))

    def set_refusal(self, reason: str | None) -> None:
        """Note why the server takes no more."""
        self._set(self.state.changed(refusal=reason))

    def moved(self, folder: Path) -> None:
        """Follow the folder, which was renamed."""
        self.folder = folder
        self._files.moved(folder)

    def remove(self) -> None:
        """Delete everything: it is delivered, or unwanted. A crash in between leaves a hidden rest."""
        self._files.close()
        try:
            remove_folder(self.folder)
        finally:
            self._lock.release()

    def close(self) -> None:
        """Leave it to others; what is in it stays."""
        self._files.close()
        self._lock.release()

    def _next(self) -> Line | None:
        """Return the next line: of those read ahead, then of the files, then of what no file took."""
        if not self._ahead and (lines := self._files.read()) is not None:
            self._ahead.extend(lines)
        if self._ahead:
            return self._ahead.popleft()
        if not self._unwritten:
            return None
        line = self._unwritten.popleft()
        self._unwritten_bytes -= _weight(line)
        return line

    def _set(self, state: State) -> None:
        """Take a new state; a disk that does not take it may make a later process send lines again, by their number."""
        self.state = state = state.changed(last_line=self.next_line - 1)
        try:
            self._files.append(encode(state))
        except OSError as error:
            self.trouble = error.strerror or str(error)
        self._rotate_when_due()

    def _write(self) -> None:
        if not self._unwritten or time.monotonic() < self._retry_at:
            return
        try:
            self._files.append(b"".join(map(encode, self._unwritten)))
        except OSError as error:
            self.trouble, self._retry_at = error.strerror or str(error), time.monotonic() + RETRY_SECONDS
            return
        self.trouble = None
        self._unwritten.clear()
        self._unwritten_bytes = 0
        self._rotate_when_due()

    def _rotate_when_due(self) -> None:
        if self._files.last.size >= self._file_bytes and not self._unwritten:
            with suppress(OSError):  # then the present file grows on, and the next record tries again
                self._files.rotate(self.next_line, self._opening())
                self._files.forget_below(self.state.next_line)

    def _opening(self) -> bytes:
        return encode(self.head) + encode(self.state)


def _weight(line: Line) -> int:
    # Characters, not bytes: exact bytes would cost an encoding per line, and the limits leave room for it.
    return len(line.body["text"]) + 96
