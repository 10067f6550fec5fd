"""Reads what a command prints, as it prints it, from one or two non-blocking descriptors.

Owns the order of reading, back-pressure (nothing is read that nobody asked for) and when the output is over; called
by `process.py`. Invariant: what the command printed before its end is always given, and a process it left behind
that holds its output open delays the end by no more than `linger_seconds`.
"""

import asyncio
import errno
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Stream = Literal["out", "err"]

DRAIN_BYTES = 1_048_576
"""More than a pipe or terminal holds (Linux: 64 KiB by default): read after the end, it is all the command printed."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes as they were printed; `stream` is "out" throughout where both streams share one descriptor."""

    stream: Stream
    data: bytes


class OutputReader:
    """Gives chunks of at most `read_bytes` until the output is over. Does not close the descriptors."""

    def __init__(self, sources: Sequence[tuple[int, Stream]], *, read_bytes: int, linger_seconds: float) -> None:
        self._sources = deque(sources)
        self._read_bytes = read_bytes
        self._linger_seconds = linger_seconds
        self._linger_until: float | None = None
        self._bytes_after_exit = 0
        self._watched: list[int] = []
        self._wake: asyncio.Future[None] | None = None
        self.is_busy = False

    async def read(self) -> Chunk | None:
        """Waits for the next chunk; None once the output is over. Cancelling it loses nothing.

        Raises RuntimeError if another task is already reading.
        """
        if self.is_busy:
            raise RuntimeError("the output of a command is read by one task at a time")
        self.is_busy = True
        try:
            await asyncio.sleep(0)  # a command that prints without pause must not keep the loop to itself
            while self._sources:
                if self._is_linger_over() and self._bytes_after_exit >= DRAIN_BYTES:
                    break
                chunk = self._read_available()
                if chunk is not None:
                    return chunk
                if self._is_linger_over():
                    break
                await self._readable()
            self._sources.clear()
            return None
        finally:
            self.is_busy = False

    def command_ended(self) -> None:
        """Starts the linger time."""
        self._linger_until = asyncio.get_running_loop().time() + self._linger_seconds
        self._wake_reader()

    def end(self) -> None:
        """Ends the output at once: no descriptor is watched any more, so they may be closed."""
        self._sources.clear()
        self._unwatch()
        self._wake_reader()

    def _is_linger_over(self) -> bool:
        return self._linger_until is not None and asyncio.get_running_loop().time() >= self._linger_until

    def _read_available(self) -> Chunk | None:
        """Reads what is there now, of the sources in turn; None if none has anything."""
        for _ in range(len(self._sources)):
            descriptor, stream = source = self._sources.popleft()
            data, is_over = _drain(descriptor, self._read_bytes)
            if not is_over:
                self._sources.append(source)
            if data:
                if self._linger_until is not None:
                    self._bytes_after_exit += len(data)
                return Chunk(stream, data)
        return None

    async def _readable(self) -> None:
        """Returns when a source may have something, the command ended, or the linger time is over."""
        if not self._sources:
            return
        loop = asyncio.get_running_loop()
        self._wake = loop.create_future()
        for descriptor, _ in self._sources:
            loop.add_reader(descriptor, self._wake_reader)
            self._watched.append(descriptor)
        try:
            timeout = None if self._linger_until is None else max(0.0, self._linger_until - loop.time())
            await asyncio.wait({self._wake}, timeout=timeout)
        finally:
            self._unwatch()
            self._wake.cancel()
            self._wake = None

    def _wake_reader(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _unwatch(self) -> None:
        loop = asyncio.get_running_loop()
        while self._watched:
            loop.remove_reader(self._watched.pop())


def _drain(descriptor: int, limit_bytes: int) -> tuple[bytes, bool]:
    """Reads up to the limit without waiting; also says whether the source is over."""
    parts: list[bytes] = []
    room = limit_bytes
    while room > 0:
        try:
            data = os.read(descriptor, room)
        except BlockingIOError:
            return b"".join(parts), False
        except OSError as error:
            if error.errno != errno.EIO:  # how Linux says that nobody holds the terminal's other side any more
                raise
            data = b""
        if not data:
            return b"".join(parts), True
        parts.append(data)
        room -= len(data)
    return b"".join(parts), False
