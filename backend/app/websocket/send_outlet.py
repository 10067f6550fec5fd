"""The outlet for servers that take messages, not frames: plain ASGI `send`, in order, from a task of its own.

Used where `scope["extensions"]` has no frame writer (another server, tests). It pauses as a
transport does, so that the connection's budget holds; what the server's own buffers hold beyond
that is the server's to bound.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from backend.app.realtime.connection import Connection
from backend.app.realtime.frames import texts_of
from backend.app.websocket.heartbeat import Heartbeat


class SendOutlet:
    """One socket's way out through `websocket.send_text`. Made by the endpoint, which ends it with `stop`."""

    def __init__(self, websocket: WebSocket, *, high_water_bytes: int, send_seconds: float) -> None:
        self.is_paused = False
        self.on_resume: Callable[[], None] | None = None
        self._websocket = websocket
        self._high_water_bytes = high_water_bytes
        self._send_seconds = send_seconds
        """A `send` that takes longer ends the socket: the client takes nothing."""
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._closing: tuple[int, str] | None = None
        self._is_gone = False
        self._due = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name="socket writer")

    def write(self, frames: bytes) -> None:
        """Queue whole text frames; no-op once the socket is closing."""
        if self._is_gone or self._closing is not None:
            return
        self._waiting.append(frames)
        self._bytes += len(frames)
        self.is_paused = self._bytes > self._high_water_bytes
        self._due.set()

    def buffered_bytes(self) -> int:
        """Return how many bytes wait for `send`."""
        return self._bytes

    def close(self, code: int, reason: str, within_seconds: float) -> None:
        """Close after what was written, in the given time at most."""
        if self._closing is None:
            self._closing = code, reason
            self._send_seconds = min(self._send_seconds, within_seconds)
            self._due.set()

    def abort(self) -> None:
        """Send nothing any more. An ASGI application cannot do more than end."""
        self._is_gone = True
        self._task.cancel()

    async def receive(self) -> Mapping[str, Any]:
        """Return the next ASGI message; `websocket.disconnect` once either side has closed."""
        receiving = asyncio.create_task(self._websocket.receive())
        try:
            await asyncio.wait({receiving, self._task}, return_when=asyncio.FIRST_COMPLETED)
            if receiving.done():
                return receiving.result()
            return {"type": "websocket.disconnect", "code": self._closing[0] if self._closing else 1006}
        finally:
            if not receiving.done():
                receiving.cancel()
                await asyncio.gather(receiving, return_exceptions=True)

    def watched_by(self, heartbeat: Heartbeat, connection: Connection) -> Callable[[], None]:
        """Nothing: pings are the other server's."""
        return lambda: None

    async def stop(self) -> None:
        """Wait for the end that was asked for, else end now."""
        if self._closing is None:
            self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while True:
                self._due.clear()
                await self._send_waiting()
                if self._closing is not None:
                    async with asyncio.timeout(self._send_seconds):
                        await self._websocket.close(*self._closing)
                    return
                await self._due.wait()
        except (TimeoutError, WebSocketDisconnect, RuntimeError, OSError):
            return  # gone, or taking nothing: either way the endpoint ends the connection
        finally:
            self._is_gone = True

    async def _send_waiting(self) -> None:
        while self._waiting:
            frames = self._waiting[0]
            for text in texts_of(frames):
                async with asyncio.timeout(self._send_seconds):
                    await self._websocket.send_text(text)
            self._waiting.popleft()
            self._bytes -= len(frames)
            if self.is_paused and self._bytes <= self._high_water_bytes // 4:
                self.is_paused = False
                if self.on_resume is not None:
                    self.on_resume()
