"""Row F06: requests that are never finished, and a shutdown that does not wait for them."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from tests.faults.baseline import descriptors, freed
from tests.faults.control import control
from tests.faults.faulty_world import World, faulty_world, gather_bounded
from tests.faults.raw_socket import RawSocket
from tests.proving import amount, measured

HEADER_SECONDS = amount(2.0, 10.0)
SPARE_SECONDS = 5.0
STOP_SECONDS = 30.0
SETTINGS = {"HTTP_HEADER_TIMEOUT_SECONDS": str(HEADER_SECONDS), "DRAIN_SECONDS": "5"}


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with faulty_world(tmp_path_factory.mktemp("half_requests"), SETTINGS) as made:
        yield made


async def upgrade_with_130_headers(world: World) -> RawSocket:
    """Send a whole upgrade with 130 headers; read nothing."""
    socket = await RawSocket.connect(world.server.url)
    await socket.send(socket.upgrade_request({f"X-Filler-{number}": "x" for number in range(130)}))
    return socket


async def half_a_request_line(world: World) -> RawSocket:
    """Send half a request line; read nothing."""
    socket = await RawSocket.connect(world.server.url)
    await socket.send(b"GET /livez HT")
    return socket


async def half_the_headers(world: World) -> RawSocket:
    """Send a request whose headers never end; read nothing."""
    socket = await RawSocket.connect(world.server.url)
    await socket.send(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Filler: ")
    return socket


async def nothing(world: World) -> RawSocket:
    """Connect and send nothing."""
    return await RawSocket.connect(world.server.url)


UNFINISHED = (upgrade_with_130_headers, half_a_request_line, half_the_headers, nothing)


@pytest.mark.parametrize("start", UNFINISHED, ids=lambda start: start.__name__)
async def test_f06_half_requests_are_closed(world: World, start: Callable[[World], Awaitable[RawSocket]]) -> None:
    """An upgrade with 130 headers held open, half a request line × 500: closed within the header time-out + 5 s."""
    count = amount(50, 500)
    sockets: list[RawSocket] = []
    async with control(*world.control):
        before = descriptors(world.server)
        since = time.monotonic()
        try:
            sockets += await gather_bounded([lambda: start(world)] * count, 100)
            for socket in sockets:
                await socket.gone(HEADER_SECONDS + SPARE_SECONDS)
            took = time.monotonic() - since
        finally:
            for socket in sockets:
                socket.close()
        assert took <= HEADER_SECONDS + SPARE_SECONDS
        await freed(world.server, before, SPARE_SECONDS)
    what = start.__name__.replace("_", " ")
    measured(f"F06: {what} × {count}: all closed after", f"{took:.1f} s", f"{HEADER_SECONDS:.0f} s")


async def test_f06_a_slow_but_whole_request_is_answered(world: World) -> None:
    """A request that comes in pieces within the time-out is answered as any other."""
    async with control(*world.control), await RawSocket.connect(world.server.url) as socket:
        for piece in (b"GET /li", b"vez HTTP/1.1\r\nHo", b"st: x\r\nConnection: close\r\n", b"\r\n"):
            await socket.send(piece)
        assert (await socket.http_head()).startswith(b"HTTP/1.1 200")


async def test_f06_a_shutdown_does_not_wait_for_half_requests(tmp_path: Path) -> None:
    """With half requests held open, SIGTERM completes: exit 0."""
    async with faulty_world(tmp_path, {**SETTINGS, "HTTP_HEADER_TIMEOUT_SECONDS": "600"}) as world:
        sockets = []
        try:
            for start in UNFINISHED:
                sockets += [await start(world) for _ in range(5)]
            since = time.monotonic()
            assert await world.server.stop() == 0
            took = time.monotonic() - since
            assert took <= STOP_SECONDS
            measured("F06: SIGTERM to exit with half requests held open", f"{took:.1f} s", f"{STOP_SECONDS:.0f} s")
        finally:
            for socket in sockets:
                socket.close()
