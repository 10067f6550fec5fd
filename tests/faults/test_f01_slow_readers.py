"""Row F01, the slow readers: over its budget a connection reads the log as fast as its socket, and loses nothing."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.faults.baseline import metrics
from tests.faults.control import control
from tests.faults.faulty_world import LINE_BYTES, LOGS, Publisher, World, faulty_world
from tests.faults.raw_socket import RawSocket
from tests.proving import amount, measured

pytestmark = pytest.mark.asyncio(loop_scope="module")

MEGABYTE = 1_000_000
MEGABYTES = amount(3, 50)
SLOW_SECONDS = amount(3.0, 30.0)
CRAWL_SECONDS = amount(12.0, 150.0)
CRAWL_BYTES_PER_SECOND = amount(4000, 1000)
STALL_SECONDS = amount(6, 120)
"""A server that asked only when the kernel can be written again would find no progress for longer than this."""
LINES = 60
"""Lines of one report: about 60 KB."""
OUTBOUND_BYTES = 262_144
MESSAGE_BYTES = 2 * LINES * LINE_BYTES


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory, module_database: dict[str, str]) -> AsyncIterator[World]:
    limits = {"OUTBOUND_BYTES": str(OUTBOUND_BYTES), "WRITE_STALL_MAX_SECONDS": str(STALL_SECONDS)}
    settings = {**limits, **module_database}
    async with faulty_world(tmp_path_factory.mktemp("slow"), settings) as made:
        yield made


class Lines:
    """The lines of one deployment that a reader got: the next one is the only one that may come."""

    def __init__(self, deployment_id: str) -> None:
        self.deployment_id = deployment_id
        self.next_line = 1
        self.last: int | None = None
        """The line to read up to; None: for now without an end."""
        self.notices: list[str] = []
        """What was pushed besides lines."""

    def take(self, message: dict[str, Any]) -> None:
        """Take a message; fail at the first gap, double or disorder."""
        if message["type"] != "DEPLOYMENT_LOGS_UPDATE":
            self.notices.append(message["type"])
            return
        data = message["data"]
        if data["deploymentId"] != self.deployment_id:
            return
        assert data["firstLine"] == self.next_line, (data["firstLine"], self.next_line)
        for number, text in enumerate(data["logs"], data["firstLine"]):
            assert text.startswith(f"{number:010}x")
        self.next_line += len(data["logs"])


async def read(socket: RawSocket, lines: Lines) -> None:
    """Read until the last line came."""
    while lines.last is None or lines.next_line <= lines.last:
        lines.take(await socket.message(120))
        socket.texts.clear()


async def queued_bytes(world: World, most: list[float]) -> None:
    """Watch the longest queue until cancelled."""
    while True:
        most.append((await metrics(world.server))["windflow_connection_queued_bytes"])
        await asyncio.sleep(0.05)


async def publish(publisher: Publisher, size: int) -> None:
    """Publish so many bytes."""
    sent = 0
    while sent < size:
        sent += await publisher.publish(LINES)


async def ping(socket: RawSocket) -> None:
    """Send what a client library sends by itself, until cancelled: slow is not dead."""
    while True:
        await socket.send_json("ping")
        await asyncio.sleep(1)


async def cancelled(*tasks: "asyncio.Task[None]") -> None:
    """End tasks that run for ever; raise what one failed with before."""
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
            raise result


@pytest.mark.parametrize("is_of_one", [True, False], ids=["one deployment", "all deployments"])
async def test_f01_a_slow_reader_ends_with_every_line_once(world: World, is_of_one: bool) -> None:
    """A reader that takes 64 KB/s while 50 MB of lines flow, then reads freely, ends with every line once; its
    queued bytes stay within the budget.
    """
    async with control(*world.control), world.publisher() as publisher:
        wanted = {**LOGS, **({"deployment_id": publisher.deployment_id, "from_line": 1} if is_of_one else {})}
        lines = Lines(publisher.deployment_id)
        with await RawSocket.connect(world.server.url, receive_buffer_bytes=16_384) as socket:
            await socket.authenticate(world.tokens["rude"], subscriptions=[wanted])
            most: list[float] = []
            watch = asyncio.create_task(queued_bytes(world, most))
            pinging = asyncio.create_task(ping(socket))
            socket.bytes_per_second = 64_000
            reading = asyncio.create_task(read(socket, lines))
            since = time.monotonic()
            await publish(publisher, MEGABYTES * MEGABYTE)
            await asyncio.sleep(max(0.0, SLOW_SECONDS - (time.monotonic() - since)))
            assert not reading.done()
            behind = publisher.next_line - lines.next_line
            assert behind > OUTBOUND_BYTES / LINE_BYTES, "it was not slow enough for its budget"
            socket.bytes_per_second = None
            since = time.monotonic()
            lines.last = publisher.next_line - 1
            await reading
            took = time.monotonic() - since
            await publisher.publish(LINES)
            lines.last = publisher.next_line - 1
            await read(socket, lines)
            await cancelled(watch, pinging)
        assert "position_lost" not in lines.notices
        assert max(most) <= OUTBOUND_BYTES + MESSAGE_BYTES
    kind = "one deployment" if is_of_one else "all deployments"
    measured(
        f"F01: 64 KB/s for {SLOW_SECONDS:.0f} s while {MEGABYTES} MB flow, {kind}: lines lost, doubled, out of order",
        "0",
        f"{publisher.next_line - 1} lines; {behind} behind were read in {took:.1f} s",
    )
    measured(
        f"F01: most bytes queued for it, {kind}",
        f"{max(most) / 1024:.0f} KiB",
        f"budget {OUTBOUND_BYTES // 1024} KiB and one message",
    )


async def test_f01_who_reads_a_thousand_bytes_a_second_is_not_closed(world: World) -> None:
    """One that reads 1 KB/s and answers pings is not closed, and loses nothing."""
    async with control(*world.control), world.publisher() as publisher:
        lines = Lines(publisher.deployment_id)
        with await RawSocket.connect(world.server.url, receive_buffer_bytes=4096) as socket:
            await socket.authenticate(world.tokens["rude"], subscriptions=[LOGS])
            pinging = asyncio.create_task(ping(socket))
            socket.bytes_per_second = CRAWL_BYTES_PER_SECOND
            reading = asyncio.create_task(read(socket, lines))
            await publish(publisher, 10 * OUTBOUND_BYTES)
            await asyncio.sleep(CRAWL_SECONDS)
            assert not reading.done()
            taken = lines.next_line - 1
            socket.bytes_per_second = None
            lines.last = publisher.next_line - 1
            await reading
            await cancelled(pinging)
        assert "position_lost" not in lines.notices
    measured(
        f"F01: {CRAWL_BYTES_PER_SECOND // 1000} KB/s for {CRAWL_SECONDS:.0f} s: closed",
        "no",
        f"{taken} lines taken meanwhile, all {publisher.next_line - 1} in the end",
    )
