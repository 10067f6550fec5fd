"""Row F57: the server restarts, in order and by `kill -9`, while many clients follow it."""

import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.crash.crash_world import CrashWorld, crash_world
from tests.crash.follower import Follower
from tests.proving import amount, measured
from tests.services import database_name
from tests.waiting import eventually

CLIENTS = amount(60, 2000)
BACK_SECONDS = 30.0
WAIT_SECONDS = 120.0
BEFORE = 10
PING_SECONDS = 10.0
SPREAD_SECONDS = amount(1.0, 5.0)
"""Clients that were told nothing come back within this, each at another moment."""
AT_ONCE = 100


async def crowd(world: CrashWorld, stack: AsyncExitStack) -> list[Follower]:
    """Connect the clients: one user's, some at a time."""
    token = await world.server.login("follower0")
    clients = [
        Follower(world.server.socket_url, token, None, ping_seconds=PING_SECONDS, spread_seconds=SPREAD_SECONDS)
        for _ in range(CLIENTS)
    ]
    for first in range(0, CLIENTS, AT_ONCE):
        for client in clients[first : first + AT_ONCE]:
            client.begin()
            stack.push_async_callback(client.end)
        for client in clients[first : first + AT_ONCE]:
            await client.is_connected.wait()
    return clients


@pytest.mark.parametrize("how", ["in order", "kill -9"])
async def test_f57_every_client_is_back_after_a_restart(own_database: dict[str, str], tmp_path: Path, how: str) -> None:
    """Restart with 2,000 clients: all are back within 30 s of its start, and none has missed or doubled an event."""
    async with crash_world(tmp_path, own_database) as world, AsyncExitStack() as stack:
        clients = await crowd(world, stack)
        async with world.publishing(rest=1, sockets=0, pause_seconds=0.1):
            await world.until_acknowledged(BEFORE)
            if how == "in order":
                await world.close()
            else:
                await world.killed()
            connects = [client.connects for client in clients]
            await world.start()
            since = time.monotonic()

            async def are_back() -> bool:
                return all(
                    client.connects > before and client.is_connected.is_set()
                    for client, before in zip(clients, connects, strict=True)
                )

            await eventually(are_back, WAIT_SECONDS)
            took = time.monotonic() - since
            await world.until_acknowledged(BEFORE)
        entries = world.ledger.acknowledged.keys()

        async def have_all() -> bool:
            return all(entries <= {event.entry for event in client.received.events} for client in clients)

        await eventually(have_all, WAIT_SECONDS)
        for client in clients:
            assert world.ledger.verdict(client.received, with_lines=False) == {}
        await world.assert_balanced()
        assert took <= BACK_SECONDS
    kind = database_name(own_database)
    measured(f"F57: {CLIENTS} clients back after a restart ({how}), {kind}", f"{took:.1f} s", f"{BACK_SECONDS:.0f} s")
