"""Dispatch of stream events on a database: hand-overs that are lost or reversed, full memory, a plugin that is down."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from sqlalchemy import delete, select

from backend.app import metrics
from backend.app.config import Settings
from backend.app.database import Database
from backend.app.models import EventRecord, PluginCursor
from backend.app.realtime.event import Event, new_event
from backend.app.realtime.node import Node, register
from backend.app.realtime.node_hooks import NodeHooks
from backend.app.realtime.unit_of_work import publish, write_hooks
from backend.app.schemas.websocket_events import core_catalogue
from backend.app.websocket.circuit_breaker import CircuitBreaker
from backend.app.websocket.dispatcher import Dispatcher
from backend.app.websocket.plugin import PluginContext, WebSocketPlugin, WebSocketPluginManager
from tests.dispatch_world import make_dispatcher
from tests.plugin_world import make_manager, until, within

CATALOGUE = core_catalogue()


class Recorder(WebSocketPlugin):
    """Keeps the offsets it is given; waits at a gate if there is one, fails as often as told."""

    event_types = ("DEPLOYMENT_STATUS_CHANGED",)

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failures = 0

    async def handle_event(self, event_type: str, event_data: dict[str, Any], context: PluginContext) -> None:
        await self.gate.wait()
        assert context.event is not None
        assert context.event.offset is not None
        if self.failures > 0:
            self.failures -= 1
            raise ValueError("told to fail")
        self.seen.append(context.event.offset)


class World:
    """A node on a database, whose committed events the test hands over as it likes."""

    def __init__(self, database: Database, plugin: Recorder) -> None:
        self.database = database
        self.plugin = plugin
        self.manager: WebSocketPluginManager = make_manager(plugin, timeout_seconds=10)
        self.committed: list[Event] = []
        self.hooks = NodeHooks(Node(), partial(write_hooks, hand_on=self.committed.append))
        self.dispatcher: Dispatcher

    async def begin(self, **settings: Any) -> None:
        values = {"plugin_retry_seconds": 0.02, "plugin_cursor_seconds": 0.01, **settings}
        self.dispatcher = make_dispatcher(self.manager, database=self.database, hooks=self.hooks, **values)
        await self.dispatcher.learn()
        self.dispatcher.start(self.manager.plugins)

    async def commit(self, count: int, subject: str | None = None) -> list[Event]:
        before = len(self.committed)
        for number in range(count):
            payload = {"deploymentId": subject or f"d{number}", "newStatus": "running"}
            event = new_event(CATALOGUE["DEPLOYMENT_STATUS_CHANGED"], "o1", payload)
            await self.database.write(lambda tx, event=event: publish(tx, event))  # type: ignore[misc]
        return self.committed[before:]

    async def cursor(self) -> int:
        async with self.database.session() as session:
            return (await session.scalars(select(PluginCursor.offset))).one()

    async def cursor_is(self, offset: int) -> None:
        async with asyncio.timeout(10):
            while await self.cursor() != offset:  # noqa: ASYNC110 - the database tells nobody
                await asyncio.sleep(0.01)


@pytest.fixture
async def world(settings: Settings, database: Database) -> AsyncIterator[World]:
    plugin = Recorder()
    world = World(Database(), plugin)
    await world.database.connect(settings, world.hooks.hooks)
    await world.database.write(lambda tx: register(tx, world.hooks.node, 30))
    try:
        yield world
        plugin.gate.set()
        await within(world.dispatcher.stop(1))
    finally:
        await world.database.disconnect()


def count_reads(world: World, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Keep what is read from the log."""
    reads: list[Any] = []
    read = world.dispatcher._log.read

    async def counted(*arguments: Any) -> list[Event]:
        reads.append(arguments)
        return await read(*arguments)

    monkeypatch.setattr(world.dispatcher._log, "read", counted)
    return reads


async def test_what_is_at_hand_is_handled_without_a_read_and_its_cursor_written(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The common path reads no database; the cursor follows in groups."""
    await world.begin()
    reads = count_reads(world, monkeypatch)
    for event in await world.commit(5):
        world.dispatcher(event)
    await until(lambda: sorted(world.plugin.seen) == [1, 2, 3, 4, 5])
    assert reads == []
    await world.cursor_is(5)


async def test_two_commits_that_resume_in_reverse_order_are_handled_in_order(world: World) -> None:
    """R7: handing over is a wake-up only."""
    await world.begin()
    first, second = await world.commit(2, "d1")
    world.dispatcher(second)
    world.dispatcher(first)
    await until(lambda: len(world.plugin.seen) == 2)
    assert world.plugin.seen == [1, 2]
    world.dispatcher(second)
    (third,) = await world.commit(1, "d1")
    world.dispatcher(third)
    await until(lambda: len(world.plugin.seen) == 3)
    assert world.plugin.seen == [1, 2, 3]


async def test_a_committed_event_that_is_never_handed_over_is_handled(world: World) -> None:
    """R7: a cancelled publisher's committed event is handled, also when nothing follows."""
    await world.begin()
    await world.commit(1)
    heads = await world.dispatcher.look_for_missing({})
    assert world.plugin.seen == []
    await world.dispatcher.look_for_missing(heads)
    await until(lambda: world.plugin.seen == [1])
    await world.cursor_is(1)


async def test_events_of_another_node_are_left_to_it(world: World, database: Database) -> None:
    """An event is dispatched once, on the node where it was born."""
    await world.begin()
    event = new_event(CATALOGUE["DEPLOYMENT_STATUS_CHANGED"], "o1", {"deploymentId": "x", "newStatus": "running"})
    await database.write(lambda tx: publish(tx, event))
    event.node = "node-test"
    world.dispatcher(event)
    (own,) = await world.commit(1)
    world.dispatcher(own)
    await until(lambda: world.plugin.seen == [2])


async def test_what_does_not_fit_into_memory_is_read_from_the_log(world: World) -> None:
    """Stream events that do not fit stay in the log and are read later from the cursor, not dropped."""
    await world.begin(plugin_queue=2)
    world.plugin.gate.clear()
    before = metrics.EVENTS_DROPPED.labels("plugin")._value.get()
    for event in await world.commit(20, "d1"):
        world.dispatcher(event)
    (queue,) = world.dispatcher._queues.values()
    assert (queue.backlog.in_memory, queue.backlog.in_log) == (2, 18)
    assert metrics.PLUGIN_LAG.labels("recorder")._value.get() == 20
    world.plugin.gate.set()
    await until(lambda: len(world.plugin.seen) == 20)
    assert world.plugin.seen == list(range(1, 21))
    await world.cursor_is(20)
    assert metrics.EVENTS_DROPPED.labels("plugin")._value.get() == before


async def test_what_retention_removes_while_it_waits_is_counted(world: World) -> None:
    """Retention that passes a plugin cursor counts as skipped."""
    await world.begin(plugin_queue=1)
    world.plugin.gate.clear()
    skipped = metrics.PLUGIN_SKIPPED.labels("recorder", "retention")
    before = skipped._value.get()
    for event in await world.commit(5, "d1"):
        world.dispatcher(event)
    await world.database.write(lambda tx: tx.conn.execute(delete(EventRecord).where(EventRecord.offset.in_((2, 3)))))
    world.plugin.gate.set()
    await until(lambda: world.plugin.seen == [1, 4, 5])
    await world.cursor_is(5)
    assert skipped._value.get() == before + 2
    assert world.manager.supervisor.stats_of("recorder").skipped == 2


def held_open(world: World) -> CircuitBreaker:
    """Open the plugin's breaker for longer than a test."""
    world.manager.supervisor.breaker_open_seconds = 3600
    breaker = world.manager.supervisor.breaker_of("recorder")
    breaker.trip("the test says so")
    return breaker


async def test_while_the_breaker_is_open_stream_events_wait(world: World) -> None:
    """Breaker OPEN → stream events wait in the log; one event asks whether it is over."""
    breaker = held_open(world)
    asked: list[int] = []
    admit = breaker.admit

    def counted() -> bool:
        asked.append(1)
        return admit()

    breaker.admit = counted  # type: ignore[method-assign]
    await world.begin(plugin_queue=4)
    for event in await world.commit(10):
        world.dispatcher(event)
    await until(lambda: len(asked) >= 6)
    asked.clear()
    await until(lambda: len(asked) >= 3)
    assert len(asked) == 3  # One probe, not every lane.
    assert await world.cursor() == 0
    assert world.manager.supervisor.stats_of("recorder").waiting == 10
    breaker.reset()
    await until(lambda: sorted(world.plugin.seen) == list(range(1, 11)))
    await world.cursor_is(10)


@pytest.mark.parametrize("limits", [{"plugin_backlog_events": 3}, {"plugin_backlog_seconds": 0.05}])
async def test_what_waits_too_long_or_is_too_much_is_skipped_and_counted(world: World, limits: dict[str, Any]) -> None:
    """Up to 10,000 or one hour (settings), then they are skipped, counted and shown."""
    breaker = held_open(world)
    await world.begin(plugin_queue=2, **limits)
    skipped = metrics.PLUGIN_SKIPPED.labels("recorder", "waited")
    before = skipped._value.get()
    for event in await world.commit(10, "d1"):
        world.dispatcher(event)
    left = limits.get("plugin_backlog_events", 0)
    stats = world.manager.supervisor.stats_of("recorder")
    await until(lambda: stats.waiting == left)
    assert skipped._value.get() - before == stats.skipped == 10 - left
    breaker.reset()
    await until(lambda: world.plugin.seen == list(range(11 - left, 11)))
    await world.cursor_is(10)


async def test_a_handler_that_raised_is_done_and_retries_are_bounded(world: World) -> None:
    """No retry unless the plugin sets `retries`; then so many, and the order of its subject is kept."""
    await world.begin()
    world.plugin.failures = 1
    for event in await world.commit(2, "d1"):
        world.dispatcher(event)
    await until(lambda: world.plugin.seen == [2])
    world.plugin.retries = 2
    world.plugin.failures = 2
    for event in await world.commit(2, "d1"):
        world.dispatcher(event)
    await until(lambda: world.plugin.seen == [2, 3, 4])
    world.plugin.failures = 3
    for event in await world.commit(2, "d1"):
        world.dispatcher(event)
    await until(lambda: world.plugin.seen == [2, 3, 4, 6])
    await world.cursor_is(6)


async def test_what_is_not_handled_at_the_stop_stays_behind_the_cursor(world: World) -> None:
    """The next start handles it: cancelled is not done."""
    await world.begin()
    world.plugin.gate.clear()
    for event in await world.commit(3, "d1"):
        world.dispatcher(event)
    await within(world.dispatcher.stop(0.01))
    assert await world.cursor() == 0


async def test_an_unregistered_plugin_leaves_no_cursor_and_starts_at_the_head(world: World) -> None:
    """A plugin that is taken out starts again at the head, also after a crash."""
    await world.begin()
    undo = world.manager.on_unregistered(world.dispatcher.forget)
    world.plugin.gate.clear()
    for event in await world.commit(3, "d1"):
        world.dispatcher(event)
    world.manager.unregister("recorder")
    world.plugin.gate.set()
    await world.dispatcher._writer.write()
    async with world.database.session() as session:
        assert (await session.scalars(select(PluginCursor.offset))).all() == []
    world.plugin.seen.clear()
    world.manager.register(world.plugin)
    world.dispatcher.welcome(world.plugin)
    for event in await world.commit(1, "d1"):
        world.dispatcher(event)
    await until(lambda: 4 in world.plugin.seen)
    await world.cursor_is(4)
    assert 2 not in world.plugin.seen
    undo()
