"""A socket client for tests that sees every message as it crosses the wire."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

Message = dict[str, Any]


class Socket:
    """A connection with helpers to send commands and to wait for messages."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.seen: list[Message] = []
        """Every message received so far, in order."""

    async def send(self, kind: str, data: Message | None = None, **more: Any) -> None:
        """Send one message."""
        await self.connection.send(json.dumps({"type": kind, "data": data or {}, **more}))

    async def receive(self, timeout: float = 10) -> Message:
        """Return the next message."""
        message: Message = json.loads(await asyncio.wait_for(self.connection.recv(), timeout))
        self.seen.append(message)
        return message

    async def until(self, is_it: str | Callable[[Message], bool], timeout: float = 10) -> Message:
        """Return the next message of a type, or the next one that is it; the others are kept in `seen`."""
        async with asyncio.timeout(timeout):
            while True:
                message = await self.receive(timeout)
                if message["type"] == is_it if isinstance(is_it, str) else is_it(message):
                    return message

    async def ask(self, kind: str, data: Message | None = None, **more: Any) -> Message:
        """Send a command with an id and return its answer."""
        number = len(self.seen) + 1000
        await self.send(kind, data, id=number, **more)
        return await self.until(lambda message: message.get("reply_to") == number)

    async def closed(self, timeout: float = 10) -> tuple[int, str]:
        """Wait for the end; return code and reason. What still comes is kept in `seen`."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    await self.receive(timeout)
        except ConnectionClosed:
            return self.connection.close_code or 0, self.connection.close_reason or ""


@asynccontextmanager
async def open_socket(url: str, token: str | None = None, **auth: Any) -> AsyncIterator[Socket]:
    """Open a socket and, with a token, authenticate it; `auth` are further fields of the first message's data."""
    async with connect(url, compression=None, max_size=None) as connection:
        socket = Socket(connection)
        if token is not None:
            await socket.send("auth", {"token": token, **auth})
            welcome = await socket.receive()
            assert welcome["type"] == "AUTH_LOGIN_SUCCESS", welcome
        yield socket
