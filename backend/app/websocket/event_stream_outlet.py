"""The outlet of an event stream: server-sent events as the body of one HTTP answer, in order, from a task of its own.

`send` waits while the client does not read; meanwhile the outlet is paused, as a socket's is, so that the
connection's budget holds. What the server's own buffers hold beyond that is the server's to bound.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from starlette.types import Receive, Send

from backend.app.realtime.frames import texts_of
from backend.app.schemas.messages import server_message
from backend.app.websocket.server_sent_events import HEARTBEAT, EventStreamFormat

HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    # nginx would hold events back.
    (b"x-accel-buffering", b"no"),
)
_CHUNK_BYTES = 32_768
"""Events that wait together are sent together, up to about so many bytes."""


class EventStreamOutlet:
    """One stream's way out. Nothing is sent before `run`."""

    def __init__(
        self,
        events: EventStreamFormat,
        *,
        retry_seconds: float,
        heartbeat_seconds: float,
        high_water_bytes: int,
        abort: Callable[[], None] | None,
    ) -> None:
        self.is_paused = False
        self.on_resume: Callable[[], None] | None = None
        self._events = events
        self._heartbeat_seconds = heartbeat_seconds
        self._high_water_bytes = high_water_bytes
        self._abort_transport = abort
        """Ends the client's TCP connection, where the server can."""
        self._waiting: deque[bytes] = deque([b"retry: %d\n\n" % round(retry_seconds * 1000)])
        self._bytes = len(self._waiting[0])
        self._is_closing = False
        self._close_timer: asyncio.TimerHandle | None = None
        self._due = asyncio.Event()
        self._aborted = asyncio.Event()

    def write(self, frames: bytes) -> None:
        """Queue the messages of whole text frames as events; no-op once the stream is closing."""
        if self._is_closing:
            return
        for text in texts_of(frames):
            self._append(self._events.event(text))
        self.is_paused = self._bytes > self._high_water_bytes
        self._due.set()

    def buffered_bytes(self) -> int:
        """Return how many bytes wait for `send`."""
        return self._bytes

    def close(self, code: int, reason: str, within_seconds: float) -> None:
        """End after what was written and an event `closed`, which stands for a socket's close frame, in that time."""
        if self._is_closing:
            return
        self._append(self._events.event(server_message("closed", {"code": code, "reason": reason})))
        self._is_closing = True
        self._close_timer = asyncio.get_running_loop().call_later(within_seconds, self.abort)
        self._due.set()

    def abort(self) -> None:
        """Send nothing any more, and end the client's connection where the server can do that."""
        self._is_closing = True
        self._aborted.set()

    async def run(self, receive: Receive, send: Send) -> None:
        """Send until the client is gone, or the end that was asked for."""
        writing = asyncio.create_task(self._write_all(send), name="event stream")
        leaving = asyncio.create_task(_until_gone(receive))
        aborting = asyncio.create_task(self._aborted.wait())
        try:
            await asyncio.wait({writing, leaving, aborting}, return_when=asyncio.FIRST_COMPLETED)
            if aborting.done() and not writing.done() and self._abort_transport is not None:
                self._abort_transport()
                # To leave an answer undone is a mistake for the server, unless it knows that the client is gone.
                await leaving
        finally:
            self._is_closing = True
            if self._close_timer is not None:
                self._close_timer.cancel()
            for task in (writing, leaving, aborting):
                task.cancel()
            await asyncio.gather(writing, leaving, aborting, return_exceptions=True)

    def _append(self, event: bytes) -> None:
        self._waiting.append(event)
        self._bytes += len(event)

    async def _write_all(self, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": list(HEADERS)})
            while True:
                self._due.clear()
                await self._write_waiting(send)
                if self._is_closing:
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                    return
                try:
                    async with asyncio.timeout(self._heartbeat_seconds):
                        await self._due.wait()
                except TimeoutError:
                    await send({"type": "http.response.body", "body": HEARTBEAT, "more_body": True})
        except OSError:
            return  # the client is gone

    async def _write_waiting(self, send: Send) -> None:
        while self._waiting:
            chunk = [self._waiting.popleft()]
            size = len(chunk[0])
            while self._waiting and size + len(self._waiting[0]) <= _CHUNK_BYTES:
                chunk.append(self._waiting.popleft())
                size += len(chunk[-1])
            await send({"type": "http.response.body", "body": b"".join(chunk), "more_body": True})
            self._bytes -= size
            if self.is_paused and self._bytes <= self._high_water_bytes // 4:
                self.is_paused = False
                if self.on_resume is not None:
                    self.on_resume()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
