"""Takes leave of the sockets when the server stops: a notice with a time to come back, then closing in batches.

Made by `main`, which turns every socket away that arrives while draining. Run by `windflow serve` while
its listener is still open; under another server by the end of the lifespan. Invariant: `run` ends in
bounded time whatever a client does.
"""

import asyncio
import logging
import math
import random
from collections.abc import Callable

from starlette.websockets import WebSocket, WebSocketDisconnect

from backend.app import metrics
from backend.app.config import Settings
from backend.app.realtime.connection import Connection
from backend.app.realtime.hub import Hub
from backend.app.schemas.errors import ErrorCode
from backend.app.schemas.messages import CloseCode, server_message
from backend.app.schemas.websocket_events import WebSocketEventType

logger = logging.getLogger("windflow.drain")

_LOOK_SECONDS = 0.02
"""How often it is looked whether the sockets are gone."""
_REASON = "the server restarts"


class Drain:
    """The end of all sockets of this process. Every method belongs to the loop's thread."""

    def __init__(self, settings: Settings, hub: Hub, served: Callable[[], int]) -> None:
        self._settings = settings
        self._hub = hub
        self._served = served
        """How many sockets are served that have authenticated; to the others nothing is due, nobody waits for them."""
        self._crowd = 0
        self._told: set[str] = set()
        self._has_run = False
        self.is_draining = False
        """True from the first moment of the stop on: `/readyz` answers 503, no socket is taken any more."""

    def begin(self) -> None:
        """Be draining from now on. Safe to call twice."""
        if not self.is_draining:
            self.is_draining, self._crowd = True, self._served()

    def notice(self) -> str:
        """Return the message `server_restarting`; each one with another time to come back.

        The times are spread over a window that grows with the number of sockets, so that the next
        server is not met by all clients at once.
        """
        settings = self._settings
        window = min(settings.reconnect_window_max_seconds, settings.reconnect_spacing_seconds * self._crowd)
        retry_after = settings.reconnect_after_seconds + random.uniform(0, window)
        data = {
            "code": ErrorCode.SERVER_RESTARTING.value,
            "message": _REASON,
            "details": {"retryAfterMs": round(retry_after * 1000)},
        }
        return server_message(WebSocketEventType.WEBSOCKET_ERROR, data)

    async def run(self, within_seconds: float) -> bool:
        """Take leave of every socket; return whether all are served to their end, latest after `within_seconds`.

        A second run does nothing. Cancelled, it leaves the remaining sockets as they are.
        """
        if self._has_run:
            return not self._due
        self._has_run = True
        self.begin()
        loop = asyncio.get_running_loop()
        until = loop.time() + within_seconds
        connections = list(self._hub)
        for connection in connections:
            self._tell(connection)
        if self._settings.drain_notice_seconds:
            await asyncio.sleep(min(self._settings.drain_notice_seconds, within_seconds / 2))
        closing = max(0.0, until - loop.time() - self._settings.close_timeout_seconds)
        await self._close_in_batches(connections, closing)
        is_empty = await self._until_gone(min(until, loop.time() + self._settings.close_timeout_seconds))
        if self._crowd:
            logger.info("sockets drained", extra={"sockets": self._crowd, "left": self._due})
        return is_empty

    @property
    def _due(self) -> int:
        """How many sockets there are whose end is waited for."""
        return max(self._served(), len(self._hub))

    async def _close_in_batches(self, connections: list[Connection], within_seconds: float) -> None:
        """Close the connections in random order, with a pause of random length between two batches."""
        random.shuffle(connections)
        size = self._settings.drain_batch
        pauses = max(1, math.ceil(len(connections) / size) - 1)
        # The longest pause is half as long again as the mean one.
        pause = min(self._settings.drain_pause_seconds, within_seconds / pauses / 1.5)
        for first in range(0, len(connections), size):
            if first:
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            for connection in connections[first : first + size]:
                connection.close(CloseCode.SERVER_RESTARTING, _REASON)

    async def _until_gone(self, until: float) -> bool:
        """Wait for the ends of what was closed; close also who was just authenticating when the drain began."""
        while self._due:
            for connection in self._hub:
                self._tell(connection)
                connection.close(CloseCode.SERVER_RESTARTING, _REASON)
            if asyncio.get_running_loop().time() >= until:
                return False
            await asyncio.sleep(_LOOK_SECONDS)
        return True

    def _tell(self, connection: Connection) -> None:
        if connection.id not in self._told:
            self._told.add(connection.id)
            # A client that does not take what is due learns of the restart from the close code.
            connection.push(self.notice(), is_droppable=True)

    async def turn_away(self, websocket: WebSocket) -> None:
        """Accept a socket to tell it when to come back, and close it with 1012."""
        metrics.CONNECTIONS_REFUSED.labels("draining").inc()
        try:
            async with asyncio.timeout(self._settings.close_timeout_seconds):
                await websocket.accept()
                await websocket.send_text(self.notice())
                await websocket.close(int(CloseCode.SERVER_RESTARTING), _REASON)
        except (TimeoutError, RuntimeError, WebSocketDisconnect, OSError):
            logger.debug("a client was gone before it could be told to come back")
