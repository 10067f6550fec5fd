"""Flushes every connection that has something due once, at the end of the event loop's tick.

A write costs a system call whether it carries one event or twenty, and the loop does not join the
writes of one tick by itself. There is no timer: an isolated event waits for nothing.
"""

import asyncio
from typing import Protocol


class Flushable(Protocol):
    """A connection, as the flusher sees it."""

    def flush(self, joined: dict[tuple[bytes, ...], bytes]) -> None:
        """Write what is due; `joined` is shared by all of one tick."""


class Flusher:
    """The list of one node's connections that have something due."""

    __slots__ = ("_due",)

    def __init__(self) -> None:
        self._due: list[Flushable] = []

    def add(self, connection: Flushable) -> None:
        """Put a connection on the list, once per tick; to be called on the event loop."""
        if not self._due:
            asyncio.get_running_loop().call_soon(self.flush)
        self._due.append(connection)

    def flush(self) -> None:
        """Flush all that are on the list."""
        due, self._due = self._due, []
        joined: dict[tuple[bytes, ...], bytes] = {}
        for connection in due:
            connection.flush(joined)
