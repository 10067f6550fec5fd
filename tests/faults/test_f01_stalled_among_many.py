"""Row F01, and the memory of a server through which much flows: one of many subscribers stops reading for good.

What a slow reader gets back from the log: `test_f01_slow_readers.py`.
"""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.faults.baseline import descriptors, metrics, resident_bytes
from tests.faults.control import control
from tests.faults.faulty_world import LINE_BYTES, Publisher, World, faulty_world, gather_bounded
from tests.faults.raw_socket import Closed, RawSocket
from tests.proving import amount, measured

pytestmark = pytest.mark.asyncio(loop_scope="module")

SUBSCRIBERS = amount(50, 200)
MEGABYTES = amount(4, 50)
MEGABYTE = 1_000_000
LINES = 60
"""Lines of one event: about 60 KB."""
IN_FLIGHT = 4
"""Events that the slowest reader may be behind: its budget is never what is tested for the others."""
OUTBOUND_BYTES = 262_144
MESSAGE_BYTES = 2 * LINES * LINE_BYTES
WRITE_STALL_SECONDS = 3.0
SPARE_SECONDS = 5.0
MEMORY_BYTES = 4 << 20
SETTINGS = {
    "OUTBOUND_BYTES": str(OUTBOUND_BYTES),
    "WRITE_STALL_SECONDS": str(WRITE_STALL_SECONDS),
    "MAX_UNAUTHENTICATED_PER_ADDRESS": "300",
    "MAX_UNAUTHENTICATED": "300",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with faulty_world(tmp_path_factory.mktemp("stalled"), SETTINGS) as made:
        yield made


class Reader:
    """A subscriber that reads everything and checks its order."""

    def __init__(self, socket: RawSocket, publisher: Publisher) -> None:
        self._socket = socket
        self._deployment_id = publisher.deployment_id
        self.next_line = 1
        self.progress = asyncio.Event()

    async def run(self) -> None:
        """Read until the socket is closed from outside; fail at the first gap."""
        while True:
            event = await self._socket.until("DEPLOYMENT_LOGS_UPDATE", 60)
            self._socket.texts.clear()
            data = event["data"]
            if data["deploymentId"] == self._deployment_id:
                assert data["firstLine"] == self.next_line, (data["firstLine"], self.next_line)
                self.next_line += len(data["logs"])
                self.progress.set()

    async def reaches(self, line: int) -> None:
        """Wait until everything before a line was read."""
        async with asyncio.timeout(60):
            while self.next_line < line:
                self.progress.clear()
                await self.progress.wait()


async def flow(publisher: Publisher, readers: list[Reader], megabytes: int) -> None:
    """Publish so much, never further ahead of the slowest reader than `IN_FLIGHT` events."""
    sent = 0
    while sent < megabytes * MEGABYTE:
        sent += await publisher.publish(LINES)
        for reader in readers:
            await reader.reaches(publisher.next_line - IN_FLIGHT * LINES)
    for reader in readers:
        await reader.reaches(publisher.next_line)


async def most_queued(world: World) -> float:
    """Watch the longest queue until cancelled; return its most bytes."""
    most = 0.0
    try:
        while True:
            most = max(most, (await metrics(world.server))["windflow_connection_queued_bytes"])
            await asyncio.sleep(0.02)
    except asyncio.CancelledError:
        return most


async def test_f01_one_of_many_subscribers_stops_reading(world: World) -> None:
    """200 subscribers, one of which stops reading while 50 MB of log lines flow: all others get every event in
    order; what is queued for it never exceeds its budget and one message; it is freed within write stall + 5 s.
    """
    async with control(*world.control), world.publisher() as publisher:
        before = descriptors(world.server)
        sockets = await gather_bounded([lambda: world.socket(is_subscribed=True)] * (SUBSCRIBERS - 1), 50)
        readers = [Reader(socket, publisher) for socket in sockets]
        tasks = [asyncio.create_task(reader.run()) for reader in readers]
        watch = asyncio.create_task(most_queued(world))
        try:
            stalled = await world.socket(receive_buffer_bytes=4096, is_subscribed=True)
            with stalled:
                since = time.monotonic()
                freeing = asyncio.create_task(freed_after(world, before + SUBSCRIBERS, since))
                await flow(publisher, readers, MEGABYTES)
                took = await freeing
                code = (await metrics(world.server)).get('windflow_connections_closed_total{code="4008"}', 0)
            assert code == 1
            assert [task for task in tasks if task.done()] == []
            watch.cancel()
            assert await watch <= OUTBOUND_BYTES + MESSAGE_BYTES
        finally:
            await end(tasks, sockets)
        assert took <= WRITE_STALL_SECONDS + SPARE_SECONDS + MEGABYTES  # the budget has to fill first
    events = MEGABYTES * MEGABYTE // (LINES * LINE_BYTES)
    measured(
        f"F01: {SUBSCRIBERS} subscribers, one stalled, {MEGABYTES} MB: lost or out of order", "0", f"{events} events"
    )
    measured("F01: stalled one freed after", f"{took:.1f} s", f"write stall {WRITE_STALL_SECONDS:.0f} s + 5 s")


async def freed_after(world: World, most: int, since: float) -> float:
    """Wait until the server has fewer descriptors than with the stalled one; return the seconds."""
    async with asyncio.timeout(60 + MEGABYTES * 2):
        while True:
            now = (await metrics(world.server))["windflow_connections"]
            if now == SUBSCRIBERS:  # all but the stalled one, and the control connection
                return time.monotonic() - since
            await asyncio.sleep(0.05)


async def end(tasks: "list[asyncio.Task[None]]", sockets: list[RawSocket]) -> None:
    """End readers and sockets; raise what a reader failed with."""
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for socket in sockets:
        socket.close()
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError | Closed):
            raise result


async def test_f01_memory_does_not_grow_with_what_flows(world: World) -> None:
    """Server memory with 100 MB of lines minus with 50 MB is below 4 MiB."""
    async with control(*world.control), world.publisher() as publisher:
        sockets = await gather_bounded([lambda: world.socket(is_subscribed=True)] * 10, 10)
        readers = [Reader(socket, publisher) for socket in sockets]
        tasks = [asyncio.create_task(reader.run()) for reader in readers]
        try:
            await flow(publisher, readers, MEGABYTES)
            half = resident_bytes(world.server)
            await flow(publisher, readers, MEGABYTES)
            grown = resident_bytes(world.server) - half
        finally:
            await end(tasks, sockets)
        assert grown < MEMORY_BYTES, f"{grown} bytes more"
    measured(
        f"F01: memory after {2 * MEGABYTES} MB minus after {MEGABYTES} MB", f"{grown / (1 << 20):.1f} MiB", "4 MiB"
    )
