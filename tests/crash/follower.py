"""A client that follows and resumes: the protocol's rules for positions in a few lines, on plain `websockets`.

It shares nothing with backend/app/client, so that it checks both sides. Invariant: a position only rises, by the
events that came and by the positions that the server tells.
"""

import asyncio
import contextlib
import json
import random
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, WebSocketException

from tests.crash.ledger import Delivered, Received

PING_SECONDS = 0.1
"""Often, so that a position which is ahead of what was sent is found."""
PAUSE_SECONDS = 0.05
OPEN_SECONDS = 20.0


class Follower:
    """One client; `async with` starts and ends it. `deployment_id` None: it follows no log."""

    def __init__(
        self,
        socket_url: str,
        token: str,
        deployment_id: str | None,
        *,
        ping_seconds: float = PING_SECONDS,
        spread_seconds: float = 0.0,
    ) -> None:
        self._ping_seconds = ping_seconds
        self._spread_seconds = spread_seconds
        self._retry_after_seconds: float | None = None
        """What a server that was about to end has told; it holds for one try."""
        self._url = socket_url
        self._token = token
        self._deployment_id = deployment_id
        self._positions: dict[str, dict[str, Any]] = {}
        self._next_line = 1
        self._task: asyncio.Task[None] | None = None
        self.received = Received()
        self.connects = 0
        self.is_connected = asyncio.Event()
        self.changed = asyncio.Event()
        """Set with every message."""

    async def __aenter__(self) -> "Follower":
        self.begin()
        await self.is_connected.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()

    def begin(self) -> None:
        """Connect, and go on from where it was."""
        assert self._task is None
        self._task = asyncio.create_task(self._run())

    async def end(self) -> None:
        """Go away without a word; `begin` comes back."""
        task, self._task = self._task, None
        self.is_connected.clear()
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def subscriptions(self) -> list[dict[str, Any]]:
        """Return what it asks for with its next `auth`."""
        wanted: list[dict[str, Any]] = [{"event_type": "NOTIFICATION_SENT"}]
        if self._deployment_id is not None:
            lines = {"event_type": "DEPLOYMENT_LOGS_UPDATE", "deployment_id": self._deployment_id}
            wanted.append({**lines, "from_line": self._next_line})
        return wanted

    async def _run(self) -> None:
        try:
            await self._keep_following()
        except Exception as error:
            # The test looks at the faults; nobody awaits this task before its end.
            self.received.faults.append(f"the follower failed: {error!r}")
            self.changed.set()
            raise

    async def _keep_following(self) -> None:
        while True:
            with contextlib.suppress(OSError, TimeoutError, InvalidHandshake, WebSocketException):
                # A server that is away, or ends in the middle of something: come again.
                async with connect(
                    self._url, compression=None, max_size=None, open_timeout=OPEN_SECONDS, close_timeout=1
                ) as socket:
                    await self._follow(socket)
            self.is_connected.clear()
            told, self._retry_after_seconds = self._retry_after_seconds, None
            await asyncio.sleep(told or random.uniform(PAUSE_SECONDS, PAUSE_SECONDS + self._spread_seconds))

    async def _follow(self, socket: ClientConnection) -> None:
        data: dict[str, Any] = {"token": self._token, "subscriptions": self.subscriptions()}
        if self._positions:
            data["positions"] = self._positions
        await socket.send(json.dumps({"type": "auth", "data": data}))
        pinging: asyncio.Task[None] | None = None
        try:
            async for text in socket:
                message = json.loads(text)
                self._take(message)
                if message["type"] == "AUTH_LOGIN_SUCCESS":
                    self.connects += 1
                    self.is_connected.set()
                    pinging = asyncio.create_task(self._ping(socket))
                self.changed.set()
        finally:
            if pinging is not None:
                pinging.cancel()
                await asyncio.gather(pinging, return_exceptions=True)

    async def _ping(self, socket: ClientConnection) -> None:
        while True:
            await asyncio.sleep(self._ping_seconds)
            await socket.send(json.dumps({"type": "ping"}))

    def _take(self, message: dict[str, Any]) -> None:
        kind, data = message["type"], message["data"]
        if "offset" in message:
            self._raise(message["stream"], {"offset": message["offset"]})
        if kind == "NOTIFICATION_SENT":
            self.received.events.append(Delivered(data["title"], message["id"], message["offset"]))
        elif kind == "DEPLOYMENT_LOGS_UPDATE":
            self._take_lines(data)
        elif kind == "WEBSOCKET_ERROR" and data["code"] == "server_restarting":
            self._retry_after_seconds = data["details"]["retryAfterMs"] / 1000
        elif kind in ("position_lost", "WEBSOCKET_ERROR"):
            self.received.faults.append(json.dumps(message))
        elif kind == "AUTH_LOGIN_SUCCESS" and data["refused"]:
            self.received.faults.append(f"refused: {data['refused']}")
        for source, position in (data.get("positions") or {}).items():
            if "line" in position:
                self._check_line(source, position["line"])
            else:
                self._raise(source, position)

    def _take_lines(self, data: dict[str, Any]) -> None:
        if data["firstLine"] != self._next_line:
            self.received.faults.append(f"line {data['firstLine']} came where {self._next_line} was next")
        self.received.lines += enumerate(data["logs"], data["firstLine"])
        self._next_line = data["firstLine"] + len(data["logs"])

    def _check_line(self, source: str, line: int) -> None:
        """A position in a log is the line to go on with: what is before it and did not come would be lost."""
        if line > self._next_line:
            self.received.faults.append(f"{source}: {line} is told to be next where {self._next_line} is")

    def _raise(self, stream: str, position: dict[str, Any]) -> None:
        mine = self._positions.setdefault(stream, {"offset": 0})
        mine["offset"] = max(mine["offset"], position["offset"])
        epoch = position.get("epoch", mine.get("epoch"))
        if mine.setdefault("epoch", epoch) != epoch:
            self.received.faults.append(f"{stream} has another epoch now")
