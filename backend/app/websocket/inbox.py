"""What a socket's protocol and its application hand to each other: messages one way, "writable" the other.

asyncio's `Queue` and `Event` hold five deques between them, 4 KiB for a socket that is silent; with
one producer and one consumer on one loop none of that is needed. Bounded by its user: the protocol
stops reading from the socket while a message waits.
"""

import asyncio
from typing import Generic, TypeVar

T = TypeVar("T")


class Inbox(Generic[T]):
    """The part of `asyncio.Queue` that uvicorn's protocol uses, for one reader."""

    __slots__ = ("_is_held", "_items", "_reader")

    def __init__(self) -> None:
        self._items: list[T] = []
        self._is_held = False
        self._reader: asyncio.Future[None] | None = None

    def put_nowait(self, item: T) -> None:
        """Add an item and wake the reader."""
        self._items.append(item)
        self._wake()

    def hold(self) -> None:
        """Give the reader nothing until `release`."""
        self._is_held = True

    def release(self) -> None:
        """Give the reader what came meanwhile."""
        self._is_held = False
        if self._items:
            self._wake()

    async def get(self) -> T:
        """Wait for the next item and take it. A cancelled reader takes nothing."""
        while self._is_held or not self._items:
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        return self._items.pop(0)

    def _wake(self) -> None:
        if not self._is_held and self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def __len__(self) -> int:
        return len(self._items)

    def empty(self) -> bool:
        """Tell whether nothing waits."""
        return not self._items


class Gate:
    """The part of `asyncio.Event` that uvicorn's protocol uses: `send` waits here while the transport takes nothing."""

    __slots__ = ("_is_set", "_waiters")

    def __init__(self) -> None:
        self._is_set = False
        self._waiters: list[asyncio.Future[None]] | None = None

    def set(self) -> None:
        """Open the gate: everyone who waits goes on."""
        self._is_set = True
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def clear(self) -> None:
        """Close the gate."""
        self._is_set = False

    def is_set(self) -> bool:
        """Tell whether the gate is open."""
        return self._is_set

    async def wait(self) -> None:
        """Wait until the gate is open."""
        if self._is_set:
            return
        waiter = asyncio.get_running_loop().create_future()
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(waiter)
        await waiter
