"""What waits for one connection: prepared frames in order, each with the place it can be read again from.

Pure. A frame without a mark is an answer or a notice: it is never withdrawn. One entry may hold
several frames of one source, which were read from the log together.
"""

from collections.abc import Collection

from backend.app.realtime.marks import Mark
from backend.app.schemas.event_spec import Delivery


class Outbox:
    """The queue of one connection."""

    __slots__ = ("_marks", "frames", "size")

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.size = 0
        """Bytes of all frames."""
        self._marks: list[Mark | None] = []

    def __len__(self) -> int:
        return len(self.frames)

    def append(self, frame: bytes, mark: Mark | None = None) -> None:
        """Queue a frame as the last one."""
        self.frames.append(frame)
        self._marks.append(mark)
        self.size += len(frame)

    def insert_first(self, frame: bytes) -> None:
        """Queue an unmarked frame before all others."""
        self.frames.insert(0, frame)
        self._marks.insert(0, None)
        self.size += len(frame)

    def replace(self, frame: bytes, mark: Mark) -> bool:
        """Put a newer value where an older one of the same name waits; False if none does."""
        for index, waiting in enumerate(self._marks):
            if waiting is not None and waiting.source == mark.source:
                self.size += len(frame) - len(self.frames[index])
                self.frames[index], self._marks[index] = frame, mark
                return True
        return False

    def first_of(self, source: str) -> int | None:
        """Return the number of the first entry of a source; None if none waits."""
        return next((mark.number for mark in self._marks if mark is not None and mark.source == source), None)

    def withdraw(self, deliveries: Collection[Delivery], source: str | None = None) -> list[Mark]:
        """Take the entries of some delivery classes out, of one source where given; return their marks in order."""
        kept: list[tuple[bytes, Mark | None]] = []
        withdrawn: list[Mark] = []
        for frame, mark in zip(self.frames, self._marks, strict=True):
            if mark is not None and mark.delivery in deliveries and source in (None, mark.source):
                withdrawn.append(mark)
            else:
                kept.append((frame, mark))
        if withdrawn:
            self.frames = [frame for frame, _ in kept]
            self._marks = [mark for _, mark in kept]
            self.size = sum(map(len, self.frames))
        return withdrawn

    def clear(self) -> None:
        """Forget everything: it was written, or the connection ends."""
        self.frames.clear()
        self._marks.clear()
        self.size = 0
