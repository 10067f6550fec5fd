"""Row F12: SIGTERM with many clients, one of them stuck, and a second SIGTERM."""

import asyncio
import json
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from tests.faults.baseline import http_get
from tests.faults.control import assert_quiet_log, control
from tests.faults.faulty_world import World, faulty_world, gather_bounded
from tests.faults.raw_socket import Closed, RawSocket
from tests.proving import amount, measured

CLIENTS = amount(100, 500)
DRAIN_SECONDS = amount(6.0, 30.0)
EXIT_SECONDS = 30.0
BATCHES = 3
"""At least so many moments at which sockets are closed, and delays that clients are told."""
SETTINGS = {
    "DRAIN_SECONDS": str(DRAIN_SECONDS),
    "CLOSE_TIMEOUT_SECONDS": "1",
    "DRAIN_BATCH": str(CLIENTS // 10),
    "DRAIN_PAUSE_SECONDS": "0.25",
    "WRITE_STALL_SECONDS": "60",
    "WRITE_STALL_MAX_SECONDS": "120",
    "MAX_UNAUTHENTICATED_PER_ADDRESS": "600",
    "MAX_UNAUTHENTICATED": "600",
}


@dataclass(frozen=True, slots=True)
class Farewell:
    """How a client was seen off."""

    retry_after_ms: float
    code: int
    closed_after_seconds: float


async def farewell(socket: RawSocket, since: float) -> Farewell:
    """Read to the end; fail where the error with the delay or the close frame is missing."""
    retry = -1.0
    try:
        while True:
            message = await socket.message(EXIT_SECONDS)
            if message["type"] == "WEBSOCKET_ERROR" and message["data"]["code"] == "server_restarting":
                retry = message["data"]["details"]["retryAfterMs"]
    except Closed as closed:
        return Farewell(retry, closed.code, time.monotonic() - since)


async def until_not_ready(world: World) -> list[str]:
    """Ask /readyz over new connections until it says 503; return its reasons."""
    async with asyncio.timeout(EXIT_SECONDS):
        while True:
            status, body = await http_get(world.server.url, "/readyz")
            if status == 503:
                reasons: list[str] = json.loads(body)["reasons"]
                return reasons
            await asyncio.sleep(0.01)


async def stuck_socket(world: World) -> RawSocket:
    """Return a socket that has stopped reading, with more due to it than its buffers hold."""
    stuck = await world.socket(receive_buffer_bytes=4096, is_subscribed=True)
    async with world.publisher() as publisher:
        for _ in range(12):
            await publisher.publish(40)
    return stuck


async def test_f12_sigterm_sees_every_client_off(tmp_path: Path) -> None:
    """SIGTERM with 500 clients, one stuck: /readyz 503 while the listener is open, every client gets
    `retryAfterMs` spread over a window and 1012 in jittered batches, exit 0 within 30 s.
    """
    async with faulty_world(tmp_path, SETTINGS) as world:
        async with control(*world.control) as running:
            stuck = await stuck_socket(world)
            sockets = await gather_bounded([lambda: world.socket("polite")] * (CLIENTS - 1), 100)
            await running.stop()
            process = world.server.process
            since = time.monotonic()
            process.send_signal(signal.SIGTERM)
            try:
                farewells = [asyncio.create_task(farewell(socket, since)) for socket in sockets]
                assert await until_not_ready(world)  # over a new connection: the listener is open
                ends = await asyncio.gather(*farewells)
                assert await asyncio.wait_for(process.wait(), EXIT_SECONDS) == 0
                took = time.monotonic() - since
            finally:
                for socket in (*sockets, stuck):
                    socket.close()
        assert took <= EXIT_SECONDS
        assert {end.code for end in ends} == {1012}
        assert min(end.retry_after_ms for end in ends) >= 0
        assert len({end.retry_after_ms for end in ends}) >= BATCHES
        assert len({round(end.closed_after_seconds, 1) for end in ends}) >= BATCHES
        assert_quiet_log(world.server)
    told = sorted(end.retry_after_ms / 1000 for end in ends)
    closed = sorted(end.closed_after_seconds for end in ends)
    measured(f"F12: SIGTERM to exit, {CLIENTS} clients, one stuck", f"{took:.1f} s", f"{EXIT_SECONDS:.0f} s")
    measured("F12: `retryAfterMs` told", f"{told[0]:.1f}–{told[-1]:.1f} s", f"{CLIENTS} clients")
    measured("F12: 1012 sent after", f"{closed[0]:.1f}–{closed[-1]:.1f} s", f"drain {DRAIN_SECONDS:.0f} s")


async def test_f12_a_request_that_runs_is_finished(tmp_path: Path) -> None:
    """While the server drains, what was published before is not lost and REST says that it restarts or serves."""
    async with faulty_world(tmp_path, SETTINGS) as world, world.publisher() as publisher:
        async with await world.socket("polite", is_subscribed=True) as socket:
            await publisher.publish(10)
            world.server.process.send_signal(signal.SIGTERM)
            event = await socket.until("DEPLOYMENT_LOGS_UPDATE")
            assert event["data"]["firstLine"] == 1
            assert (await socket.closed(EXIT_SECONDS))[0] == 1012
        assert await asyncio.wait_for(world.server.process.wait(), EXIT_SECONDS) == 0


async def test_f12_a_second_sigterm_exits_at_once(tmp_path: Path) -> None:
    """A second SIGTERM does not wait for the drain."""
    async with faulty_world(tmp_path, {**SETTINGS, "DRAIN_SECONDS": "25"}) as world:
        stuck = await stuck_socket(world)
        with stuck:
            process = world.server.process
            process.send_signal(signal.SIGTERM)
            await until_not_ready(world)
            since = time.monotonic()
            process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.wait(), EXIT_SECONDS)
            took = time.monotonic() - since
            assert took < 5
        measured("F12: second SIGTERM to exit", f"{took:.2f} s", "5 s")
