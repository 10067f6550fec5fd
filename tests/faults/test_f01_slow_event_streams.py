"""Row F01 over HTTP: event streams whose readers read slowly, stand still, or have nothing to read."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from tests.faults.baseline import metrics, resident_bytes
from tests.faults.control import assert_quiet_log, control
from tests.faults.faulty_world import World, faulty_world
from tests.integration.event_stream import EventClient, Item
from tests.integration.raw_http import Raw, raw
from tests.proving import amount, measured
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

MEGABYTES = amount(8, 50)
LINES = 60
"""Lines of one report: about 60 KB."""
IDLE = amount(60, 1_000)
STALL_SECONDS = 2
BUDGET_BYTES = 262_144
MEMORY_BYTES = 16 << 20
MEMORY_OF_ONE = 128 << 10
PATIENCE_SECONDS = 120
SETTINGS = {
    "OUTBOUND_BYTES": str(BUDGET_BYTES),
    "HEARTBEAT_SECONDS": "0.5",
    "MAX_UNAUTHENTICATED_PER_ADDRESS": "2000",
    "MAX_UNAUTHENTICATED": "2000",
}
STOP = {"DRAIN_SECONDS": "6", "CLOSE_TIMEOUT_SECONDS": "1"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory, module_database: dict[str, str]) -> AsyncIterator[World]:
    async with faulty_world(tmp_path_factory.mktemp("streams"), {**SETTINGS, **module_database}) as made:
        yield made


async def follow(connection: Raw, world: World, query: str) -> EventClient:
    """Ask for a stream over a connection of its own, and read up to its first event."""
    connection.send(
        f"GET /api/v1/events?{query} HTTP/1.1\r\nHost: {connection.host}\r\n"
        f"Authorization: Bearer {world.tokens['polite']}\r\n\r\n"
    )
    assert await connection.status() == 200
    client = EventClient(text_lines(connection.reader))
    await client.until("AUTH_LOGIN_SUCCESS")
    return client


async def text_lines(reader: asyncio.StreamReader) -> AsyncIterator[str]:
    """Yield the lines of a chunked answer."""
    rest = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        rest += await reader.readexactly(size)
        await reader.readexactly(2)
        *lines, rest = rest.split(b"\n")
        for line in lines:
            yield line.decode()


async def read_lines(client: EventClient, last: int) -> None:
    """Read up to a line; fail at the first gap, double or disorder."""
    next_line = 1

    def is_last(item: Item) -> bool:
        nonlocal next_line
        if item.event == "DEPLOYMENT_LOGS_UPDATE":
            assert item.payload["firstLine"] == next_line
            next_line += len(item.payload["logs"])
        return next_line > last

    async with asyncio.timeout(PATIENCE_SECONDS):
        while (item := await client.next()) is not None:
            client.seen.clear()
            if is_last(item):
                return
    raise AssertionError(f"the stream ended before line {last}, at {next_line}")


async def test_f01_a_slow_event_stream_reads_the_log_and_loses_nothing(world: World) -> None:
    """A stream that is not read while megabytes flow, then is, has every line once; what waits stays in the budget."""
    async with control(*world.control):
        before = await metrics(world.server)
        memory, most = resident_bytes(world.server), 0.0
        async with world.publisher() as publisher, raw(world.server.url, receive_buffer=4096) as connection:
            client = await follow(connection, world, f"deploymentId={publisher.deployment_id}&fromLine=1")
            for _ in range(MEGABYTES * 1000 // LINES):
                await publisher.publish(LINES)
                most = max(most, (await metrics(world.server))["windflow_connection_queued_bytes"])
            grown = resident_bytes(world.server) - memory
            fell = "windflow_connections_fell_behind_total"
            assert (await metrics(world.server))[fell] > before.get(fell, 0)
            await read_lines(client, publisher.next_line - 1)
        # One report more than the budget: it is framed twice, as a frame and as an event.
        assert most <= BUDGET_BYTES + 3 * LINES * 1100
        assert grown < MEMORY_BYTES
        measured("F01: an event stream that is not read, most bytes that wait", f"{most:,.0f}", f"{MEGABYTES} MB flow")


async def test_f01_idle_event_streams_cost_little_and_live(world: World) -> None:
    """Many idle readers: each has its heartbeats, and one event reaches all."""
    async with AsyncExitStack() as stack:
        memory = resident_bytes(world.server)
        clients = []
        for _ in range(IDLE):
            clients.append(
                await follow(await stack.enter_async_context(raw(world.server.url)), world, "types=CUSTOM_*")
            )
        grown = (resident_bytes(world.server) - memory) / IDLE
        await asyncio.sleep(1.5)
        async with world.server.client(world.tokens["admin"]) as rest:
            sent = time.monotonic()
            assert (await rest.post("/events", json={"type": "CUSTOM_EVENT", "data": {"n": 1}})).status_code == 202
        await asyncio.gather(*(client.until("CUSTOM_EVENT") for client in clients))
        took = time.monotonic() - sent
        assert all(client.comments for client in clients)
    assert grown < MEMORY_OF_ONE

    async def are_gone() -> bool:
        return not (await metrics(world.server))["windflow_connections"]

    await eventually(are_gone)
    measured(f"F01: {IDLE} idle event streams, memory of each", f"{grown / 1024:.0f} KiB", f"one event in {took:.2f} s")


@pytest.mark.parametrize("end", ["stall", "drain"])
async def test_f01_a_stalled_event_stream_is_cut(tmp_path: Path, own_database: dict[str, str], end: str) -> None:
    """Who takes no byte is cut in time, also by a server that stops; nobody else notices, and the log is quiet."""
    stall = {"HTTP_RESPONSE_STALL_SECONDS": str(STALL_SECONDS)} if end == "stall" else STOP
    async with faulty_world(tmp_path, {**SETTINGS, **own_database, **stall}) as world:
        async with (
            world.publisher() as publisher,
            raw(world.server.url, receive_buffer=4096) as stalled,
            raw(world.server.url) as connection,
        ):
            query = f"deploymentId={publisher.deployment_id}&fromLine=1"
            await follow(stalled, world, query)
            reader = await follow(connection, world, query)
            reading = asyncio.create_task(read_lines(reader, MEGABYTES * 1000 // LINES * LINES))
            for _ in range(MEGABYTES * 1000 // LINES):
                await publisher.publish(LINES)
            await reading
            if end == "stall":

                async def is_cut() -> bool:
                    found = await metrics(world.server)
                    cut = found.get('windflow_http_connections_cut_total{reason="answer not taken"}', 0)
                    return cut == 1 and found["windflow_connections"] == 1

                await eventually(is_cut)
            else:
                since = time.monotonic()
                assert await world.server.stop() == 0
                assert time.monotonic() - since < 15
                assert (await reader.end())[-1].payload["code"] == 1012
        assert_quiet_log(world.server)
