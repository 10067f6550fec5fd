"""What a server process holds: tasks, descriptors, subscriptions, database connections.

Used by `control` around every row and by rows that count what was freed. Descriptors come from
/proc, the rest from `/metrics`, which is fetched over a connection of its own each time.
"""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.integration.server_process import ServerProcess

BACK_SECONDS = 20.0
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Standing:
    """What one look at the server found."""

    tasks: int
    descriptors: int
    connections: int
    unauthenticated: int
    subscriptions: int
    database_connections: int

    def is_within(self, other: "Standing") -> bool:
        """Tell whether nothing is more than in the other one."""
        return all(getattr(self, name) <= getattr(other, name) for name in self.__slots__)


async def http_get(url: str, path: str, timeout: float = 10.0) -> tuple[int, str]:
    """Return status and body of a GET over a connection of its own, which the server closes."""
    parts = urlsplit(url)
    async with asyncio.timeout(timeout):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode())
            answer = await reader.read()
        finally:
            writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head, f"{path} was not answered"
    return int(head.split(b" ", 2)[1]), body.decode()


async def metrics(server: ServerProcess) -> dict[str, float]:
    """Return every sample of `/metrics` by name and labels as it is printed."""
    status, body = await http_get(server.url, "/metrics")
    assert status == 200
    rows = [line.rsplit(" ", 1) for line in body.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, value in rows}


def descriptors(server: ServerProcess) -> int:
    """Return how many descriptors the process has open."""
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def resident_bytes(server: ServerProcess) -> int:
    """Return the memory of the process that is in RAM."""
    with open(f"/proc/{server.process.pid}/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def standing(server: ServerProcess) -> Standing:
    """Look at the server."""
    found = await metrics(server)
    return Standing(
        tasks=int(found["windflow_asyncio_tasks"]),
        descriptors=descriptors(server),
        connections=int(found["windflow_connections"]),
        unauthenticated=int(found["windflow_connections_unauthenticated"]),
        subscriptions=int(found["windflow_subscriptions"]),
        database_connections=int(found["windflow_database_connections"]),
    )


async def settled(server: ServerProcess, token: str) -> Standing:
    """Return the baseline: every pooled database connection is open, and nothing changes any more."""
    async with server.client(token) as client:
        # As many reads at once as fill the pools, so that their descriptors belong to the baseline.
        await asyncio.gather(*(client.get("/deployments") for _ in range(16)))
    last = await standing(server)
    async with asyncio.timeout(BACK_SECONDS):
        while True:
            await asyncio.sleep(2 * POLL_SECONDS)
            now = await standing(server)
            if now == last:
                return now
            last = now


async def assert_back_at(server: ServerProcess, before: Standing, seconds: float = BACK_SECONDS) -> None:
    """Wait until the server holds no more than before; fail with both when that does not come."""
    await until(server, lambda now: now.is_within(before), seconds, f"nothing more than {before}")


async def freed(server: ServerProcess, most: int, seconds: float) -> None:
    """Wait until the server has no more descriptors than `most`; fail with how many there are."""
    end = time.monotonic() + seconds
    while (found := descriptors(server)) > most:
        assert time.monotonic() < end, f"{found} descriptors, not {most}"
        await asyncio.sleep(POLL_SECONDS)  # another process: there is nothing to be woken by


async def until(server: ServerProcess, is_it: Callable[[Standing], bool], seconds: float, what: str) -> Standing:
    """Look until a condition holds; return what was found then, fail with what was found last."""
    now = await standing(server)
    try:
        async with asyncio.timeout(seconds):
            while not is_it(now):
                await asyncio.sleep(POLL_SECONDS)
                now = await standing(server)
    except TimeoutError:
        raise AssertionError(f"after {seconds} s: {now}; expected: {what}") from None
    return now
