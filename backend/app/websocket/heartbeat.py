"""Pings the sockets of this node and ends those that are dead: one task for all of them.

The endpoint watches each authenticated connection whose outlet is our own protocol; under another
server the heartbeat is that server's. The rules are in `liveness.py`.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

from backend.app.realtime.connection import Connection
from backend.app.schemas.messages import CloseCode
from backend.app.websocket.liveness import Liveness, LivenessRules, Verdict

logger = logging.getLogger("windflow.socket")

_LOOKS = 4
"""Looks within the shortest of the durations: a verdict comes at most a quarter of it late."""
_LONGEST_PAUSE_SECONDS = 1.0


class Watched(Protocol):
    """What the heartbeat needs of a socket: `frame_protocol.FrameProtocol`."""

    read_paused: bool
    """Set while the server itself does not read: the client's signs of life wait in the kernel then."""
    received_at: float

    def taken_bytes(self) -> int: ...
    def buffered_bytes(self) -> int: ...
    def ping(self) -> None: ...
    def abort(self) -> None: ...


class Heartbeat:
    """The watch over all sockets. `main` runs `run` as a task."""

    def __init__(self, rules: LivenessRules, clock: Callable[[], float] = time.monotonic) -> None:
        self._rules = rules
        self._clock = clock
        self._watched: dict[Connection, tuple[Watched, Liveness]] = {}
        shortest = min(rules.heartbeat, rules.pong_timeout, rules.write_stall, rules.write_stall_max)
        self._pause_seconds = min(shortest / _LOOKS, _LONGEST_PAUSE_SECONDS)
        self._looked_at = clock()

    def __len__(self) -> int:
        return len(self._watched)

    def watch(self, connection: Connection, socket: Watched) -> Callable[[], None]:
        """Watch a connection; return the undo."""
        self._watched[connection] = socket, Liveness(self._rules, self._clock())
        return lambda: self._watched.pop(connection, None) and None

    async def run(self) -> None:
        """Look at every socket until cancelled."""
        self._looked_at = self._clock()
        while True:
            await asyncio.sleep(self._pause_seconds)
            self.look()

    def look(self) -> None:
        """Look at every socket once: ping, close, or abort."""
        now = self._clock()
        late = now - self._looked_at - self._pause_seconds
        self._looked_at = now
        for connection, (socket, liveness) in tuple(self._watched.items()):
            if late > self._pause_seconds:
                # Nobody could be heard while this process stood still.
                liveness.forgive(late)
            try:
                self._judge(connection, socket, liveness, now)
            except Exception:
                # One socket's trouble must not keep the others from being watched.
                logger.exception("a socket could not be watched", extra={"connection_id": connection.id})

    def _judge(self, connection: Connection, socket: Watched, liveness: Liveness, now: float) -> None:
        verdict = liveness.look(
            now,
            taken_bytes=socket.taken_bytes(),
            waiting_bytes=socket.buffered_bytes(),
            received_at=now if socket.read_paused else socket.received_at,
        )
        if verdict is Verdict.PING:
            socket.ping()
        elif verdict is Verdict.NO_PONG:
            connection.close(CloseCode.NO_PONG, "no answer to a ping")
        elif verdict is Verdict.STALLED:
            connection.close(CloseCode.WRITE_STALLED, "the client takes no messages")
            socket.abort()
