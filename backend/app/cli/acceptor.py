"""Takes connections from the listening socket, so many in one turn of the event loop; the rest wait in the kernel.

An event loop's own server takes all that wait at once, which with ten thousand is a long turn for everybody else.
Used by `draining_server.py` in place of the loop's server.
"""

import asyncio
import logging
import socket
from collections.abc import Callable

logger = logging.getLogger("windflow")

_PAUSE_SECONDS = 0.1
"""How long nothing is accepted after the kernel could not give a connection, for want of a descriptor."""


class Acceptor:
    """The part of `asyncio.Server` that uvicorn uses. Must be made in the loop that serves."""

    def __init__(
        self,
        listener: socket.socket,
        make_protocol: Callable[[], asyncio.Protocol],
        *,
        per_turn: int,
        room: Callable[[], int],
    ) -> None:
        """`room` is for how many more connections the server has place; where there is none they come one by one."""
        self._listener = listener
        self._make_protocol = make_protocol
        self._per_turn = per_turn
        self._room = room
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[None]] = set()
        self._resume: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._has_failed = False
        listener.setblocking(False)
        self._listen()

    def close(self) -> None:
        """Take no more connections; those that are being opened are served. The socket is the caller's to close."""
        if not self._is_closed:
            self._is_closed = True
            if self._resume is not None:
                self._resume.cancel()
            self._loop.remove_reader(self._listener)

    async def wait_closed(self) -> None:
        """Wait until no connection is being opened."""
        await asyncio.gather(*self._opening, return_exceptions=True)

    def _listen(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        """Take connections; called in each turn as long as some wait."""
        # Not beyond the room: who is refused holds a descriptor until then.
        for _ in range(min(self._per_turn, max(1, self._room() - len(self._opening)))):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:  # that client is gone already
                continue
            except OSError as error:
                self._pause(error)
                return
            self._has_failed = False
            task = self._loop.create_task(self._open(connection))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def _pause(self, error: OSError) -> None:
        """Stop for a moment: the kernel says again and again that there is a connection, and gives none."""
        if not self._has_failed:
            logger.warning("no connection can be accepted: %s", error.strerror)
        self._has_failed = True
        self._loop.remove_reader(self._listener)
        self._resume = self._loop.call_later(_PAUSE_SECONDS, self._listen)

    async def _open(self, connection: socket.socket) -> None:
        """Give a connection its transport and protocol; one that ended meanwhile is let go."""
        try:
            connection.setblocking(False)
            await self._loop.connect_accepted_socket(self._make_protocol, connection)
        except OSError:
            connection.close()
