"""PostgreSQL behind a proxy, and what a server must say while it has no database.

No real database is stopped: the proxy refuses, cuts, delays and swallows what goes to a database of the test's own.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import httpx

from tests.faults.baseline import http_get
from tests.faults.proxy import Proxy
from tests.faults.raw_socket import RawSocket
from tests.waiting import eventually

POSTGRES_PORT = 5432
LOUD = ("storage unavailable", "the records of", "Exception terminating connection", "Exception closing connection")
"""What the log says at ERROR while there is no database; the last two are the pool's."""


@asynccontextmanager
async def behind_a_proxy(url: str) -> AsyncIterator[tuple[Proxy, dict[str, str]]]:
    """Give a proxy in front of a database, and the settings of a server that goes through it."""
    parts = urlsplit(url)
    async with Proxy(parts.hostname or "127.0.0.1", parts.port or POSTGRES_PORT) as proxy:
        yield proxy, {"DATABASE_URL": proxy.address(url)}


async def take_away(proxy: Proxy) -> None:
    """Have the database gone: what is connected is reset, who comes is refused."""
    proxy.is_refusing = True
    for link in proxy.links:
        await link.reset()


async def readiness(url: str) -> tuple[int, list[str]]:
    """Return status and reasons of /readyz."""
    status, body = await http_get(url, "/readyz")
    reasons: list[str] = json.loads(body)["reasons"]
    return status, reasons


async def assert_alive_but_not_ready(url: str) -> None:
    """Assert that /livez is 200 and /readyz comes to 503 with the database as its reason."""

    async def is_not_ready() -> bool:
        return (await readiness(url))[0] == 503

    await eventually(is_not_ready)
    assert await http_get(url, "/livez") == (200, "ok")
    _, reasons = await readiness(url)
    assert len(reasons) == 1, reasons
    assert reasons[0].startswith("database: "), reasons


async def assert_recovers(url: str) -> None:
    """Assert that /readyz comes back to 200 by itself."""

    async def is_ready() -> bool:
        return await readiness(url) == (200, [])

    await eventually(is_ready)


def assert_unavailable(answer: httpx.Response) -> None:
    """Assert the clear 503."""
    assert answer.status_code == 503, answer.text
    assert answer.json()["code"] == "storage_unavailable", answer.text
    assert int(answer.headers["Retry-After"]) >= 1


async def assert_told_on_the_socket(socket: RawSocket, deployment_id: str) -> None:
    """Assert that a command that needs the database is answered clearly, and that the socket stays."""
    answer = await socket.ask("deployment_logs", {"deployment_id": deployment_id})
    assert answer["type"] == "WEBSOCKET_ERROR", answer
    assert answer["data"]["code"] == "storage_unavailable", answer
    assert await socket.lives()
