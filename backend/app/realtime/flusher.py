"""Ends each tick of the event loop: what was delivered in it reaches its connections, each in one write.

A write costs a system call whether it carries one event or twenty, and the loop does not join the
writes of one tick by itself. There is no timer: an isolated event waits for nothing.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol


class Flushable(Protocol):
    """A connection, as the flusher sees it."""

    def flush(self, joined: dict[tuple[bytes, ...], bytes]) -> None:
        """Write what is due; `joined` is shared by all of one tick."""


class Flusher:
    """The list of one node's connections that have something due, and what comes before they are flushed."""

    __slots__ = ("_due", "_is_scheduled", "before")

    def __init__(self) -> None:
        self._due: list[Flushable] = []
        self._is_scheduled = False
        self.before: Callable[[], None] = lambda: None
        """Called first at the end of a tick: the hub hands out what it collected."""

    def schedule(self) -> None:
        """Have this tick ended; to be called on the event loop."""
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self.flush)

    def add(self, connection: Flushable) -> None:
        """Put a connection on the list, once per tick."""
        self.schedule()
        self._due.append(connection)

    def flush(self) -> None:
        """End the tick."""
        self._is_scheduled = False
        self.before()
        due, self._due = self._due, []
        joined: dict[tuple[bytes, ...], bytes] = {}
        for connection in due:
            connection.flush(joined)
