"""A server process with the users that every row needs, and short settings.

Each test file makes one for its rows, or one of its own for a row that ends the server.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx

from tests.faults.baseline import Standing, until
from tests.faults.raw_socket import RawSocket
from tests.integration.server_process import PASSWORD, ServerProcess, server_process

T = TypeVar("T")

SHORT = {
    "ACCESS_TOKEN_SECONDS": "86400",
    "INBOUND_PER_MINUTE": "60000",
    "INBOUND_BURST": "1000",
    "MAX_CONNECTIONS_PER_USER": "3000",
}
"""What no row is about; a row about one of these sets it itself."""
LOGS = {"event_type": "DEPLOYMENT_LOGS_UPDATE"}
USERS = {"control": "operator", "rude": "operator", "polite": "viewer"}
LINE_BYTES = 1000


@dataclass(frozen=True, slots=True)
class World:
    """The server, and an access token for each of `USERS` and for `admin`."""

    server: ServerProcess
    tokens: Mapping[str, str]
    ids: Mapping[str, str]

    @property
    def control(self) -> tuple[ServerProcess, str]:
        """What `control` takes."""
        return self.server, self.tokens["control"]

    async def socket(
        self, user: str = "rude", *, receive_buffer_bytes: int | None = None, is_subscribed: bool = False
    ) -> RawSocket:
        """Return an authenticated socket of a user, with a subscription to all log lines if wanted."""
        socket = await RawSocket.connect(self.server.url, receive_buffer_bytes=receive_buffer_bytes)
        try:
            await socket.authenticate(self.tokens[user], subscriptions=[LOGS] if is_subscribed else [])
        except BaseException:
            socket.close()
            raise
        return socket

    async def until(self, is_it: Callable[[Standing], bool], seconds: float, what: str) -> Standing:
        """Look at the server until a condition holds."""
        return await until(self.server, is_it, seconds, what)

    @asynccontextmanager
    async def publisher(self, user: str = "control") -> AsyncIterator["Publisher"]:
        """Make a deployment to publish lines of."""
        async with self.server.client(self.tokens[user]) as client:
            made = await client.post("/deployments", json={"name": "talkative"})
            assert made.status_code == 201, made.text
            yield Publisher(client, made.json()["id"])


class Publisher:
    """Publishes log lines of about `LINE_BYTES` each."""

    def __init__(self, client: httpx.AsyncClient, deployment_id: str) -> None:
        self._client = client
        self.deployment_id = deployment_id
        self.next_line = 1

    async def publish(self, lines: int) -> int:
        """Publish so many lines in one report, which is one event; return the bytes of their text."""
        texts = [f"{number:010}".ljust(LINE_BYTES, "x") for number in range(self.next_line, self.next_line + lines)]
        body = {"firstLine": self.next_line, "lines": [{"text": text} for text in texts]}
        answer = await self._client.post(f"/deployments/{self.deployment_id}/logs", json=body)
        assert answer.status_code == 200, answer.text
        self.next_line += lines
        return lines * LINE_BYTES


@asynccontextmanager
async def faulty_world(
    folder: Path,
    settings: Mapping[str, str] | None = None,
    *,
    descriptors: int | None = None,
    variables: Mapping[str, str] | None = None,
) -> AsyncIterator[World]:
    """Run a server with short settings and the users."""
    given = {**SHORT, **(settings or {})}
    async with server_process(folder, given, descriptors=descriptors, variables=variables) as server:
        yield await populate(server)


async def populate(server: ServerProcess) -> World:
    """Make the users and log each in."""
    tokens = {"admin": await server.login()}
    ids: dict[str, str] = {}
    async with server.client(tokens["admin"]) as client:
        for name, role in USERS.items():
            made = await client.post("/users", json={"username": name, "role": role, "password": PASSWORD})
            assert made.status_code == 201, made.text
            ids[name] = made.json()["id"]
            tokens[name] = await server.login(name)
    return World(server, tokens, ids)


async def gather_bounded(makers: Iterable[Callable[[], Awaitable[T]]], at_once: int) -> list[T]:
    """Await what every maker makes, at most so many at the same time; raise the first failure after all ended."""
    gate = asyncio.Semaphore(at_once)

    async def run(make: Callable[[], Awaitable[T]]) -> T:
        async with gate:
            return await make()

    results = await asyncio.gather(*(run(make) for make in makers), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]
