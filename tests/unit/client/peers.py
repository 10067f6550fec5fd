"""A WebSocket server that follows a script, one for each connection, for tests of the client."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.server import ServerConnection, serve

from backend.app.client.backoff import Backoff
from backend.app.client.errors import NotLoggedIn

QUICK = Backoff(first_seconds=0.001, longest_seconds=0.002)
Script = Callable[["Peer"], Awaitable[None]]


class Peer:
    """One accepted connection, from the server's side."""

    def __init__(self, connection: ServerConnection) -> None:
        self.connection = connection

    async def receive(self, kind: str) -> dict[str, Any]:
        while True:
            message: dict[str, Any] = json.loads(await self.connection.recv())
            if message["type"] == kind:
                return message
            assert message["type"] == "ping", message

    async def receive_ping(self) -> None:
        """Take a `ping`."""
        assert json.loads(await self.connection.recv())["type"] == "ping"

    async def reply(self, message: dict[str, Any], kind: str, /, **data: Any) -> None:
        await self.push(kind, reply_to=message["id"], **data)

    async def push(self, kind: str, /, reply_to: Any = None, **data: Any) -> None:
        message: dict[str, Any] = {"type": kind, "data": data, "timestamp": "2026-01-01T00:00:00.000Z"}
        if reply_to is not None:
            message["reply_to"] = reply_to
        await self.connection.send(json.dumps(message))

    async def welcome(self, token: str = "t1", **answer: Any) -> dict[str, Any]:
        """Take the first message, which has to be `auth` with this token, and return its data."""
        auth = await self.receive("auth")
        assert auth["token"] == token
        await self.reply(auth, "AUTH_LOGIN_SUCCESS", **{"userId": "u1", "positions": {}, "refused": [], **answer})
        data: dict[str, Any] = auth["data"]
        return data

    async def subscribed(self, **answer: Any) -> dict[str, Any]:
        """Take a `subscribe` command, and return its data."""
        wanted = await self.receive("subscribe")
        await self.reply(wanted, "subscribed", event_types=wanted["data"]["event_type"], **answer)
        data: dict[str, Any] = wanted["data"]
        return data

    async def event(self, number: int, *, stream: str = "org:1", kind: str = "A") -> None:
        """Push a stream event."""
        message = {"type": kind, "data": {"n": number}, "stream": stream, "offset": number, "id": f"e{number}"}
        await self.connection.send(json.dumps(message))

    async def lines(self, first: int, *texts: str, log: str = "d1") -> None:
        """Push lines of a log."""
        await self.push("DEPLOYMENT_LOGS_UPDATE", deploymentId=log, firstLine=first, logs=list(texts))

    async def close(self, code: int, reason: str = "") -> None:
        await self.connection.close(code, reason)


class Tokens:
    """A token source whose tokens are t1, t2, …: each rejection brings the next."""

    def __init__(self) -> None:
        self.number = 1
        self.rejected: list[str] = []
        self.has_ended = False

    async def token(self, rejected: str | None = None) -> str:
        if rejected == f"t{self.number}":
            self.rejected.append(rejected)
            if self.has_ended:
                raise NotLoggedIn("http://server", "your session ended")
            self.number += 1
        return f"t{self.number}"

    def expires_at(self) -> float | None:
        return None


@asynccontextmanager
async def scripted(*scripts: Script) -> AsyncIterator[str]:
    """Serve one script per connection, in order; a script that fails, fails the test."""
    left = list(scripts)
    failures: list[BaseException] = []

    async def handle(connection: ServerConnection) -> None:
        assert connection.request is not None
        assert connection.request.path == "/api/v1/ws"
        try:
            await left.pop(0)(Peer(connection))
        except AssertionError as error:
            failures.append(error)

    async with serve(handle, "127.0.0.1", 0, close_timeout=1) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    assert not failures, failures
    assert not left, "a connection was expected and never came"


async def hold(peer: Peer) -> None:
    await peer.connection.wait_closed()
