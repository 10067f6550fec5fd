"""The drain, with a real hub and real connections: who is told what, and that it ends."""

import asyncio
import json
from typing import Any

import pytest

from backend.app.config import Settings
from backend.app.realtime.connection import Connection
from backend.app.realtime.flusher import Flusher
from backend.app.realtime.hub import Hub
from backend.app.schemas.messages import CloseCode
from backend.app.websocket.drain import Drain
from tests.unit.realtime.outlets import BUDGET, HandOutlet, principal

SHORT = {"close_timeout_seconds": 0.2, "drain_pause_seconds": 0.001}


class _Outlet(HandOutlet):
    """An outlet that tells of its end."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = asyncio.Event()

    def close(self, code: int, reason: str, within_seconds: float) -> None:
        super().close(code, reason, within_seconds)
        self.ended.set()


class World:
    """A hub whose connections end as soon as they are told to, unless they are stuck."""

    def __init__(self, **settings: Any) -> None:
        self._flusher = Flusher()
        self.hub = Hub(self._flusher, 100)
        self.served = 0
        self.settings = Settings(**{**SHORT, **settings})
        self.drain = Drain(self.settings, self.hub, lambda: self.served)
        self.closed: list[Connection] = []
        self.outlets: dict[str, _Outlet] = {}
        self.tasks: list[asyncio.Task[None]] = []

    async def join(self, *, is_stuck: bool = False) -> Connection:
        """Serve one more connection."""
        outlet = _Outlet()
        connection = Connection(principal(), outlet, BUDGET, self._flusher.add)
        connection.greet("hello")
        connection.flush({})
        outlet.writes.clear()
        self.outlets[connection.id] = outlet

        async def endpoint() -> None:
            await outlet.ended.wait()
            self.hub.remove(connection)
            if is_stuck:
                await asyncio.Event().wait()
            self.closed.append(connection)
            self.served -= 1

        self.served += 1
        self.hub.add(connection)
        self.tasks.append(asyncio.create_task(endpoint()))
        return connection

    def delays(self, connections: list[Connection]) -> list[int]:
        """The `retryAfterMs` that each connection was told; each was told once, before its end."""
        found = []
        for connection in connections:
            (text,) = self.outlets[connection.id].texts
            message = json.loads(text)
            assert message["data"]["code"] == "server_restarting"
            found.append(message["data"]["details"]["retryAfterMs"])
        return found


async def test_everybody_is_told_and_closed() -> None:
    """Each client gets the notice once, then 1012; also one that authenticated when the drain had begun."""
    world = World(drain_batch=2, drain_notice_seconds=0.05)
    connections = [await world.join() for _ in range(7)]
    running = asyncio.create_task(world.drain.run(10))
    await asyncio.sleep(0)
    assert world.drain.is_draining
    # It was in its auth phase: the endpoint serves it already.
    connections.append(late := await world.join())
    assert await asyncio.wait_for(running, 10)
    assert {connection.close_code for connection in connections} == {CloseCode.SERVER_RESTARTING}
    assert late in world.closed
    assert all(delay >= 1000 for delay in world.delays(connections))


@pytest.mark.parametrize(("sockets", "window_ms"), [(10, 1_000), (100, 10_000), (1_000, 20_000)])
async def test_the_delays_are_spread_over_a_window_that_grows(sockets: int, window_ms: int) -> None:
    """`retryAfterMs` is spread over a window that grows with the number of sockets, up to its cap."""
    world = World(reconnect_spacing_seconds=0.1, reconnect_after_seconds=2)
    connections = [await world.join() for _ in range(sockets)]
    assert await world.drain.run(10)
    told = sorted(world.delays(connections))
    assert told[0] >= 2_000
    assert told[-1] <= 2_000 + window_ms
    # With ten draws the chance that this fails is below one in a million of millions.
    assert told[-1] - told[0] > window_ms / 20


async def test_they_are_closed_in_batches_of_random_order() -> None:
    """Sockets close in jittered batches: at most the set number at once, not in the order of their arrival."""
    world = World(drain_batch=10, drain_pause_seconds=0.01)
    connections = [await world.join() for _ in range(100)]
    running = asyncio.create_task(world.drain.run(30))
    sizes = []
    before = 0
    while not running.done():
        await asyncio.sleep(0)
        closing = sum(connection.close_code is not None for connection in connections)
        if closing != before:
            sizes.append(closing - before)
            before = closing
    assert await running
    assert sizes == [10] * 10
    assert world.closed != connections


async def test_a_client_whose_queue_is_full_is_closed_like_the_others() -> None:
    """The notice is no reason to end a slow connection with 4008: it is closed with 1012, what is due is kept."""
    world = World()
    slow = await world.join()
    outlet = world.outlets[slow.id]
    outlet.is_taking = False
    due = ["x" * 200]
    slow.push(due[0])
    slow.flush({})
    while slow.push("due", is_droppable=True):
        due.append("due")
    assert await world.drain.run(10)
    assert slow.close_code is CloseCode.SERVER_RESTARTING
    assert outlet.texts == due


async def test_it_ends_although_a_socket_does_not() -> None:
    """The drain ends in its time and says that somebody is left."""
    world = World()
    await world.join()
    await world.join(is_stuck=True)
    assert not await asyncio.wait_for(world.drain.run(60), 10)
    for task in world.tasks:
        task.cancel()


async def test_it_keeps_within_the_time_it_is_given() -> None:
    """Pauses, notice and waiting share the time that is given: settings cannot stretch it."""
    world = World(drain_notice_seconds=3600, drain_pause_seconds=3600, close_timeout_seconds=3600, drain_batch=1)
    connections = [await world.join(is_stuck=True) for _ in range(20)]
    assert not await asyncio.wait_for(world.drain.run(0.5), 10)
    assert {connection.close_code for connection in connections} == {CloseCode.SERVER_RESTARTING}
    for task in world.tasks:
        task.cancel()


async def test_a_second_run_does_nothing() -> None:
    """The lifespan runs it again after `windflow serve` did: no second notice."""
    world = World(drain_notice_seconds=0.01)
    connection = await world.join()
    assert await world.drain.run(10)
    assert await world.drain.run(10)
    assert len(world.delays([connection])) == 1
