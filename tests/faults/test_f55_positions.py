"""Row F55: 100,000 missed events come, all of them, in pages.

Positions that are lost: tests/integration/test_resume.py.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import orjson
import pytest
from websockets.asyncio.client import ClientConnection, connect

from backend.app.config import Settings
from backend.app.database import Database, Transaction
from backend.app.realtime.event import Event, new_event
from backend.app.realtime.unit_of_work import publish, write_hooks
from backend.app.schemas.websocket_events import CORE_EVENTS
from tests.faults.baseline import metrics, resident_bytes
from tests.faults.control import control
from tests.faults.faulty_world import SHORT, World, populate
from tests.integration.server_process import ServerProcess, server_process
from tests.proving import amount, measured
from tests.services import database_name

EVENTS = amount(5_000, 100_000)
CLIENTS = amount(5, 8)
MEMORY_BYTES = 32 << 20
PATIENCE_SECONDS = 300
Returning = tuple[World, dict[str, dict[str, object]], str]
CREATED = next(spec for spec in CORE_EVENTS if spec.name == "DEPLOYMENT_CREATED")


async def publish_many(folder: Path, settings: dict[str, str], organization_id: str, count: int) -> None:
    """Publish events as a server would, while none runs."""
    given = Settings(data_dir=folder / "data", database_url=settings.get("DATABASE_URL"))

    def unit(events: list[Event]) -> Callable[[Transaction], None]:
        def write(tx: Transaction) -> None:
            for event in events:
                publish(tx, event)

        return write

        return write

    database = Database()
    await database.connect(given, write_hooks("another", lambda _: None))
    try:
        for first in range(0, count, 1000):
            events = [
                new_event(
                    CREATED, organization_id, {"deploymentId": f"d{number}", "deploymentName": f"deployment {number}"}
                )
                for number in range(first, min(count, first + 1000))
            ]
            await database.write(unit(events))
    finally:
        await database.disconnect()


def cpu_seconds(server: ServerProcess) -> float:
    """Return the CPU time of the server so far."""
    with open(f"/proc/{server.process.pid}/stat", encoding="ascii") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Returned:
    """A client that came back: the offsets of the stream that it got."""

    def __init__(self, connection: ClientConnection, stream: str, position: int) -> None:
        self._connection = connection
        self._stream = stream
        self.last = position
        self.missed = range(position + 1, position + 1 + EVENTS)
        self.count = 0

    async def catch_up(self) -> None:
        """Read until it is told that it has caught up; fail at what does not ascend, and at what is lost."""
        while True:
            message = orjson.loads(await self._connection.recv())
            if message.get("stream") == self._stream:
                assert message["offset"] > self.last
                self.last = message["offset"]
                self.count += self.last in self.missed
            elif message["type"] == "caught_up" and message["data"]["stream"] == self._stream:
                assert message["data"]["positions"][self._stream]["offset"] == self.last
                return
            assert message["type"] != "position_lost", message


async def come_back(world: World, positions: dict[str, dict[str, object]], stream: str) -> Returned:
    """Connect with positions, as somebody who wants every new deployment."""
    connection = await connect(world.server.socket_url, compression=None, max_size=None, ping_interval=None)
    data = {
        "token": world.tokens["polite"],
        "positions": positions,
        "subscriptions": [{"event_type": "DEPLOYMENT_CREATED"}],
    }
    await connection.send(orjson.dumps({"type": "auth", "data": data}).decode())
    welcome = orjson.loads(await connection.recv())
    assert welcome["type"] == "AUTH_LOGIN_SUCCESS", welcome
    offset = positions[stream]["offset"]
    assert isinstance(offset, int)
    return Returned(connection, stream, offset)


@pytest.fixture
async def returning(tmp_path: Path, own_database: dict[str, str]) -> AsyncIterator[Returning]:
    """A server with many events, where somebody stood before them, and the name of the stream."""
    settings = {**SHORT, **own_database}
    async with server_process(tmp_path, settings) as server:
        world = await populate(server)
        async with server.client(world.tokens["admin"]) as client:
            organization_id = (await client.get("/auth/me")).json()["organizationId"]
            positions = (await client.get("/deployments")).json()["positions"]
    await publish_many(tmp_path, own_database, organization_id, EVENTS)
    async with server_process(tmp_path, settings) as server:
        yield World(server, world.tokens, world.ids), positions, f"org:{organization_id}"


async def test_f55_many_missed_events_come_in_pages(returning: Returning, own_database: dict[str, str]) -> None:
    """Resume after 100,000 missed events: all of them, in pages, memory bounded."""
    world, positions, stream = returning
    name = database_name(own_database)
    async with control(*world.control):
        memory, spent, since = resident_bytes(world.server), cpu_seconds(world.server), time.monotonic()
        one = await come_back(world, positions, stream)
        await asyncio.wait_for(one.catch_up(), PATIENCE_SECONDS)
        took, spent = time.monotonic() - since, cpu_seconds(world.server) - spent
        assert one.count == EVENTS
        await one._connection.close()
        clients = [await come_back(world, positions, stream) for _ in range(CLIENTS)]
        together = cpu_seconds(world.server)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.gather(*(client.catch_up() for client in clients))
        together = cpu_seconds(world.server) - together
        grown = resident_bytes(world.server) - memory
        assert [client.count for client in clients] == [EVENTS] * CLIENTS
        assert (await metrics(world.server)).get("windflow_positions_lost_total", 0) == 0
        for client in clients:
            await client._connection.close()
    assert grown < MEMORY_BYTES, f"{grown} bytes more"
    measured(
        f"F55: {EVENTS} missed events, {name}: per second of server CPU",
        f"{EVENTS / spent:,.0f}",
        f"aim 100,000; {took:.1f} s in all",
    )
    measured(
        f"F55: the same by {CLIENTS} clients at once, {name}: per second of server CPU",
        f"{EVENTS * CLIENTS / together:,.0f}",
        f"memory {grown / (1 << 20):.1f} MiB more, at most {MEMORY_BYTES >> 20}",
    )
