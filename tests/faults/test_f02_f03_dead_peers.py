"""Rows F02 and F03: peers that read no more, that are gone without a word, and that leave in the middle."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from tests.faults.baseline import descriptors, freed, metrics
from tests.faults.control import control
from tests.faults.faulty_world import LOGS, World, faulty_world
from tests.faults.proxy import Proxy
from tests.faults.raw_socket import CLOSE, TEXT, RawSocket, frame
from tests.integration.server_process import ServerProcess
from tests.proving import measured

pytestmark = pytest.mark.asyncio(loop_scope="module")

WRITE_STALL_SECONDS = 2.0
WRITE_STALL_MAX_SECONDS = 6.0
HEARTBEAT_SECONDS = 1.0
PONG_TIMEOUT_SECONDS = 2.0
SPARE_SECONDS = 5.0
SETTINGS = {
    "WRITE_STALL_SECONDS": str(WRITE_STALL_SECONDS),
    "WRITE_STALL_MAX_SECONDS": str(WRITE_STALL_MAX_SECONDS),
    "HEARTBEAT_SECONDS": str(HEARTBEAT_SECONDS),
    "PONG_TIMEOUT_SECONDS": str(PONG_TIMEOUT_SECONDS),
    "OUTBOUND_BYTES": "262144",
    "CLOSE_TIMEOUT_SECONDS": "1",
}
PLUGIN = '''
import itertools
import logging

from backend.app.websocket.plugin import PluginContext, WebSocketPlugin

logger = logging.getLogger("plugin.turnstile")


class TurnstilePlugin(WebSocketPlugin):
    """Counts who comes and who goes."""

    event_types = []
    numbers = itertools.count(1)

    async def initialize(self, context: PluginContext) -> None:
        self.number = next(self.numbers)
        logger.info("came", extra={"connection": self.number})

    async def cleanup(self, context: PluginContext) -> None:
        logger.info("went", extra={"connection": self.number})
'''


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder: Path = tmp_path_factory.mktemp("dead_peers")
    (folder / "plugins").mkdir()
    (folder / "plugins" / "turnstile.py").write_text(PLUGIN, encoding="utf-8")
    async with faulty_world(folder, {**SETTINGS, "PLUGINS_DIR": str(folder / "plugins")}) as made:
        yield made


def passages(server: ServerProcess, since: int) -> dict[int, list[str]]:
    """Return what the plugin logged from record `since` on, by connection."""
    found: dict[int, list[str]] = {}
    for record in server.logged()[since:]:
        if record["message"] in ("came", "went"):
            found.setdefault(record["connection"], []).append(record["message"])
    return found


# ---- F02: reads no more --------------------------------------------------------------------------------


@pytest.mark.parametrize("lines", [240, 4_000], ids=["within its budget", "over its budget"])
async def test_f02_a_subscriber_that_stops_reading_with_traffic_is_freed(world: World, lines: int) -> None:
    """A subscriber that stops reading for good is freed within write stall + 5 s, whether or not its budget is full."""
    async with control(*world.control), world.publisher() as publisher:
        before = descriptors(world.server)
        closed = (await metrics(world.server)).get('windflow_connections_closed_total{code="4008"}', 0)
        async with await world.socket(receive_buffer_bytes=4096, is_subscribed=True):
            await world.until(lambda now: now.connections == 2, 10, "2 connections")
            stalled_at = time.monotonic()
            for _ in range(lines // 40):
                await publisher.publish(40)
            limit = WRITE_STALL_SECONDS + SPARE_SECONDS + (time.monotonic() - stalled_at)
            await world.until(lambda now: now.connections == 1 and now.subscriptions == 1, limit, "1 connection")
            await freed(world.server, before, limit - (time.monotonic() - stalled_at))
            measured(
                f"F02: freed after {lines} lines that it did not read",
                f"{time.monotonic() - stalled_at:.1f} s",
                f"write stall {WRITE_STALL_SECONDS:.0f} s + 5 s",
            )
        found = await metrics(world.server)
        assert found.get('windflow_connections_closed_total{code="4008"}') == closed + 1


async def test_f02_an_idle_subscriber_that_answers_no_ping_is_freed(world: World) -> None:
    """An idle subscriber that answers no ping is freed within heartbeat + pong time-out + 5 s: 4012."""
    limit = HEARTBEAT_SECONDS + PONG_TIMEOUT_SECONDS + SPARE_SECONDS
    async with control(*world.control):
        before = descriptors(world.server)
        async with await world.socket() as silent:
            since = time.monotonic()
            await world.until(lambda now: now.connections == 1, limit, "1 connection")
            await freed(world.server, before, limit - (time.monotonic() - since))
            measured("F02: freed without a pong", f"{time.monotonic() - since:.1f} s", f"{limit:.0f} s")
            assert (await silent.closed())[0] == 4012


async def test_f02_a_subscriber_that_answers_pings_stays(world: World) -> None:
    """A slow but living subscriber is not taken for dead: it answers pings and stays."""
    async with control(*world.control), await world.socket() as slow:
        pings = 0
        async with asyncio.timeout(10 * (HEARTBEAT_SECONDS + PONG_TIMEOUT_SECONDS)):
            while pings < 4:
                found = await slow.frame()
                if found.opcode == 0x9:
                    pings += 1
                    await slow.send(frame(0xA, found.payload))
        assert await slow.lives()


async def test_f02_a_slow_reader_within_the_write_stall_gets_everything(world: World) -> None:
    """A reader that pauses for less than the write stall loses nothing, in order."""
    async with control(*world.control), world.publisher() as publisher:
        with await world.socket(receive_buffer_bytes=4096, is_subscribed=True) as slow:
            for _ in range(5):
                await publisher.publish(30)
            await asyncio.sleep(WRITE_STALL_SECONDS / 2)  # the pause itself
            expected = 1
            while expected < publisher.next_line:
                event = await slow.until("DEPLOYMENT_LOGS_UPDATE")
                if event["data"]["deploymentId"] == publisher.deployment_id:
                    assert event["data"]["firstLine"] == expected
                    expected += len(event["data"]["logs"])


# ---- F03: gone without a word --------------------------------------------------------------------------


async def half_open(world: World, proxy: Proxy) -> RawSocket:
    """Be unplugged: the proxy swallows everything and closes nothing."""
    socket = await through(world, proxy)
    proxy.links[-1].half_open()
    return socket


async def reset_mid_frame(world: World, proxy: Proxy) -> RawSocket:
    """Send half a frame, then RST."""
    socket = await through(world, proxy)
    await socket.send(frame(TEXT, b'{"type":"ping"}')[:7])
    await upward(proxy)
    await proxy.links[-1].reset()
    return socket


async def end_mid_frame(world: World, proxy: Proxy) -> RawSocket:
    """Send half a frame, then FIN."""
    socket = await through(world, proxy)
    await socket.send(frame(TEXT, b'{"type":"ping"}')[:7])
    await upward(proxy)
    await proxy.links[-1].cut()
    return socket


async def no_close_frame(world: World, proxy: Proxy) -> RawSocket:
    """FIN, without a close frame."""
    socket = await through(world, proxy)
    await proxy.links[-1].cut()
    return socket


async def reset_in_closing(world: World, proxy: Proxy) -> RawSocket:
    """A close frame, then RST in place of waiting for its answer."""
    socket = await through(world, proxy)
    await socket.send(frame(CLOSE, b"\x03\xe8"))
    await upward(proxy)
    await proxy.links[-1].reset()
    return socket


async def through(world: World, proxy: Proxy) -> RawSocket:
    """Return an authenticated socket that goes through the proxy."""
    socket = await RawSocket.connect(proxy.address(world.server.url))
    await socket.authenticate(world.tokens["rude"], subscriptions=[LOGS])
    return socket


async def upward(proxy: Proxy) -> None:
    """Wait until the proxy has passed everything on to the server."""
    link, last = proxy.links[-1], -1
    while link.upward_bytes != last:
        last = link.upward_bytes
        await asyncio.sleep(0.05)


ENDS: list[Callable[[World, Proxy], Awaitable[RawSocket]]] = [
    half_open,
    reset_mid_frame,
    end_mid_frame,
    no_close_frame,
    reset_in_closing,
]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
async def test_f03_a_peer_that_goes_without_a_word_is_cleaned_up_once(
    world: World, end: Callable[[World, Proxy], Awaitable[RawSocket]]
) -> None:
    """Half-open peer, reset mid-frame, close without close frame: one clean-up, `cleanup` called once, no ERROR log."""
    port = int(world.server.url.rpartition(":")[2])
    async with control(*world.control), Proxy("127.0.0.1", port) as proxy:
        before = descriptors(world.server)
        since = len(world.server.logged())
        with await end(world, proxy) as socket:
            assert socket.sock.fileno() >= 0
            limit = HEARTBEAT_SECONDS + PONG_TIMEOUT_SECONDS + SPARE_SECONDS
            await world.until(lambda now: now.connections == 1 and now.subscriptions == 1, limit, "1 connection")
            await freed(world.server, before, limit)
        assert list(passages(world.server, since).values()) == [["came", "went"]]
