"""Row F53 on SQLite: another program holds the lock for 30 s, and idle sockets hold no connection."""

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.baseline import metrics
from tests.faults.control import control
from tests.faults.database_faults import (
    LOUD,
    assert_alive_but_not_ready,
    assert_recovers,
    assert_unavailable,
)
from tests.faults.faulty_world import faulty_world, gather_bounded
from tests.faults.raw_socket import RawSocket
from tests.proving import amount, measured
from tests.waiting import eventually

IDLE = amount(40, 200)
LOCKED_SECONDS = amount(4.0, 30.0)
TIMEOUT_SECONDS = amount(1.0, 10.0)
ANSWER_SECONDS = 2 * TIMEOUT_SECONDS + 2
"""The write that holds the turn waits for the lock; the one behind it may have come just before."""
SETTINGS = {
    "DATABASE_TIMEOUT_SECONDS": str(TIMEOUT_SECONDS),
    "READINESS_SECONDS": str(TIMEOUT_SECONDS / 2),
    "HEARTBEAT_SECONDS": "600",  # nobody reads at the idle sockets meanwhile, and so nobody answers pings
}


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Hold the lock for writing, as a backup tool or a shell may."""
    other = sqlite3.connect(database, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")
    finally:
        other.close()


async def test_f53_a_locked_sqlite_refuses_writes_and_recovers(tmp_path: Path) -> None:
    """SQLite locked 30 s: reads work, writes are 503 in time, /readyz 503, sockets stay; it recovers by itself."""
    async with (
        faulty_world(tmp_path, SETTINGS) as world,
        control(*world.control, may_be_refused=True, may_take_seconds=ANSWER_SECONDS, errors=LOUD) as running,
    ):
        sockets = await gather_bounded([lambda: world.socket("polite", is_subscribed=True)] * IDLE, 10)
        try:
            async with world.publisher() as publisher, world.server.client(world.tokens["admin"]) as client:
                with locked(tmp_path / "data" / "windflow.db"):
                    since = time.monotonic()
                    writes = [client.post("/deployments", json={"name": "refused"}) for _ in range(10)]
                    answers = await asyncio.gather(*writes)
                    took = time.monotonic() - since
                    for answer in answers:
                        assert_unavailable(answer)
                    assert took <= ANSWER_SECONDS
                    await assert_alive_but_not_ready(world.server.url)
                    assert (await client.get("/deployments")).status_code == 200
                    asked = await sockets[0].ask("deployment_logs", {"deployment_id": publisher.deployment_id})
                    assert asked["type"] == "logs_subscribed"  # it only reads
                    with await RawSocket.connect(world.server.url) as newcomer:
                        await newcomer.authenticate(world.tokens["polite"])
                    told = await sockets[0].ask("NOTIFICATION_READ", {"notificationIds": ["none"]}, ANSWER_SECONDS)
                    assert (told["type"], told["data"]["code"]) == ("WEBSOCKET_ERROR", "storage_unavailable"), told
                    await asyncio.sleep(max(0.0, LOCKED_SECONDS - (time.monotonic() - since)))
                    held = time.monotonic() - since
                await assert_recovers(world.server.url)
                back = time.monotonic() - since - held
                names = [item["name"] for item in (await client.get("/deployments")).json()["items"]]
                assert "refused" not in names  # what was refused was not done later
                await publisher.publish(1)
                for socket in sockets:
                    await socket.until(
                        lambda message: (
                            message["type"] == "DEPLOYMENT_LOGS_UPDATE"
                            and message["data"]["deploymentId"] == publisher.deployment_id
                        )
                    )
        finally:
            for socket in sockets:
                socket.close()
        await running.stop()
    measured(
        f"F53: SQLite locked for {held:.0f} s: last of 10 writes 503 after", f"{took:.1f} s", f"{TIMEOUT_SECONDS:g} s"
    )
    measured("F53: SQLite unlocked: ready after", f"{back:.1f} s", f"{IDLE} sockets stayed")


async def test_f53_idle_sockets_hold_no_connection_of_sqlite(tmp_path: Path) -> None:
    """200 idle sockets: none holds a connection of the database."""
    async with faulty_world(tmp_path) as world:
        sockets = await gather_bounded([lambda: world.socket("polite", is_subscribed=True)] * IDLE, 10)
        try:

            async def holds_none() -> bool:
                return (await metrics(world.server))["windflow_database_connections"] == 0

            await eventually(holds_none)
        finally:
            for socket in sockets:
                socket.close()
