"""The files of one spool: appended to at the end, read from the beginning, removed from the beginning.

Used by `Spool` alone, which owns the folder. Each file opens with its head and state, so that those before it can go.
Invariants: a write is there whole or not at all; a file is never changed once a later one exists. No fsync here: what
was written survives the end of this process, and `descriptor` is synced by who cares for power cuts.
"""

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from backend.app.runner.spool import Line, Record, RecordReader

READ_BYTES = 262_144
_NAME = re.compile(r"(\d{6,})-(\d+)\.spool")


@dataclass(slots=True)
class SpoolFile:
    """One file: its place in the order, the number of the first line that may stand in it, its size in bytes."""

    index: int
    first_line: int
    path: Path
    size: int
    skipped: int = 0
    """Lines of its range that were counted as missing when they came."""


def files_of(folder: Path) -> list[SpoolFile]:
    """Return the files of a folder in their order; what is none of ours is left out. Raises OSError."""
    found = []
    for entry in os.scandir(folder):
        name = _NAME.fullmatch(entry.name)
        if name is not None:
            found.append(SpoolFile(int(name[1]), int(name[2]), folder / entry.name, entry.stat().st_size))
    return sorted(found, key=lambda file: file.index)


def records_of(file: SpoolFile) -> Iterator[Record]:
    """Yield the whole records of a file. Raises OSError."""
    reader = RecordReader()
    with file.path.open("rb") as source:
        while data := source.read(READ_BYTES):
            yield from reader.feed(data)
    yield from reader.finish()


class SpoolFiles:
    """All files of one spool; the last one is written, unless there is none yet."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = files_of(folder)
        self._index = self._files[-1].index if self._files else 0
        self.descriptor = -1
        """Of the file that is written; -1 before the first `rotate`."""
        self._cursor = _Cursor()

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self._files)

    @property
    def last(self) -> SpoolFile:
        """The newest file."""
        return self._files[-1]

    def rotate(self, first_line: int, opening: bytes) -> None:
        """Begin a new file with these records; on OSError the old one goes on."""
        file = SpoolFile(
            self._index + 1, first_line, self._folder / f"{self._index + 1:06d}-{first_line}.spool", len(opening)
        )
        descriptor = os.open(file.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _write_all(descriptor, opening)
        except BaseException:
            os.close(descriptor)
            with suppress(OSError):
                file.path.unlink()
            raise
        self.close_descriptor()
        self.descriptor = descriptor
        self._index += 1
        self._files.append(file)

    def append(self, data: bytes) -> None:
        """Write records behind the last one, whole or, on OSError, not at all."""
        try:
            _write_all(self.descriptor, data)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self.descriptor, self.last.size)
            raise
        self.last.size += len(data)

    def read(self) -> list[Line] | None:
        """Return lines further on than those of the last call, None at the end of what is written.

        A file that the disk does not give back is passed over.
        """
        while True:
            if not self._cursor.is_open:
                following = next((file for file in self._files if file.index > self._cursor.index), None)
                if following is None:
                    return None
                self._cursor.open(following)
                continue
            is_written = self.descriptor >= 0 and self._cursor.index == self.last.index
            records, is_over = self._cursor.read(is_written=is_written)
            if lines := [record for record in records if isinstance(record, Line)]:
                return lines
            if is_over and is_written:
                return None

    def forget_below(self, line: int) -> None:
        """Remove the files that hold nothing but lines below this number."""
        while len(self._files) > 1 and self._files[1].first_line <= line:
            _unlink(self._files.pop(0))

    def drop_oldest(self) -> int:
        """Remove the oldest file that is neither being read nor written; return how many lines that costs."""
        for place, file in enumerate(self._files[:-1]):
            if file.index > self._cursor.index:
                del self._files[place]
                _unlink(file)
                return self._files[place].first_line - file.first_line - file.skipped
        return 0

    def moved(self, folder: Path) -> None:
        """Follow the folder, which was renamed."""
        self._folder = folder
        for file in self._files:
            file.path = folder / file.path.name

    def close_descriptor(self) -> None:
        """Stop writing."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def close(self) -> None:
        """Close everything; the files stay."""
        self.close_descriptor()
        self._cursor.close()


class _Cursor:
    """How far the files were read."""

    def __init__(self) -> None:
        self.index = 0
        self._descriptor = -1
        self._reader = RecordReader()

    @property
    def is_open(self) -> bool:
        return self._descriptor >= 0

    def open(self, file: SpoolFile) -> None:
        self.index = file.index
        self._reader = RecordReader()
        with suppress(OSError):
            self._descriptor = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, *, is_written: bool) -> tuple[list[Record], bool]:
        """Return further records, with True if there are no more bytes; a file that is not written is closed then."""
        try:
            data = os.read(self._descriptor, READ_BYTES)
        except OSError:
            data, is_written = b"", False
        if data:
            return self._reader.feed(data), False
        if is_written:
            return [], True
        self.close()
        return self._reader.finish(), True

    def close(self) -> None:
        if self.is_open:
            os.close(self._descriptor)
            self._descriptor = -1


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _unlink(file: SpoolFile) -> None:
    with suppress(OSError):  # gone already, or a disk that only reads: nothing of it is needed any more
        file.path.unlink()


def remove_folder(folder: Path) -> None:
    """Delete a spool's folder: first out of sight, so that nobody meets half of it. Raises OSError."""
    hidden = folder.with_name(f".gone-{folder.name}-{os.getpid()}-{time.monotonic_ns()}")
    folder.rename(hidden)
    shutil.rmtree(hidden)
