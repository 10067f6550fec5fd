"""R5, R18 on both databases: what nobody told this node is found by asking, and a new epoch is told to all."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest
from sqlalchemy import delete, update

from backend.app.config import Settings
from backend.app.database import Database, Transaction
from backend.app.models.event_record import EventRecord, EventStream
from backend.app.realtime.bus import Bus
from backend.app.realtime.catch_up import CatchUp
from backend.app.realtime.connection import Connection
from backend.app.realtime.event import Event
from backend.app.realtime.flusher import Flusher
from backend.app.realtime.head_poll import HeadPoll
from backend.app.realtime.heads import Heads
from backend.app.realtime.hub import Hub
from backend.app.realtime.log_reader import LogReader
from backend.app.realtime.lost_streams import tell_followers
from backend.app.realtime.resume import LostReason
from backend.app.realtime.topics import Topic
from tests.deployment_world import World, caller, lines
from tests.unit.realtime.outlets import BUDGET, HandOutlet, principal

STREAM = "org:o1"


class Node:
    """A node that nobody tells anything, on the database that the world writes to."""

    def __init__(self, world: World, settings: Settings) -> None:
        self.world = world
        self.flusher, heads = Flusher(), Heads()
        self.hub = Hub(self.flusher, BUDGET.high_water_bytes, heads)
        self.bus = Bus(world.db, world.catalogue, 0.05, 600, heads)
        self.reader = LogReader(world.db, settings, world.catalogue)
        self.catch_up = CatchUp(
            self.hub, self.reader, world.catalogue, chunk_bytes=1000, gap_seconds=0.05, retry_seconds=0.1
        )
        self.hub.on_behind = self.catch_up.start
        self.bus.listen(self.hub.deliver)
        self.bus.on_hole = partial(tell_followers, self.hub, LostReason.EXPIRED)
        self.poll = HeadPoll(world.db, world.catalogue, self.bus, self.hub, poll_seconds=60, late_lines_seconds=600)

    def connect(self, *types: str) -> tuple[Connection, HandOutlet]:
        outlet = HandOutlet()
        connection = Connection(principal("o1", "vic"), outlet, BUDGET, self.flusher.add, self.hub.settle)
        self.hub.add(connection)
        self.hub.subscribe(connection, [Topic("o1", kind) for kind in types])
        connection.greet('{"type": "welcome", "data": {}}')
        return connection, outlet

    async def until(self, is_it: Callable[[], Any]) -> None:
        """Poll as a node does until something holds."""
        async with asyncio.timeout(10):
            while not is_it():
                await self.poll.look()
                await asyncio.sleep(0.02)


@pytest.fixture
async def node(database: Database, settings: Settings, committed: list[Event]) -> AsyncIterator[Node]:
    world = await World.make(database, settings, committed)
    made = Node(world, settings)
    await made.bus.start()
    yield made
    await made.catch_up.stop()
    await made.reader.stop()
    await made.bus.stop()


def told(outlet: HandOutlet, kind: str) -> list[dict[str, Any]]:
    """The data of each message of a type."""
    return [message["data"] for message in map(json.loads, outlet.texts) if message["type"] == kind]


async def test_events_that_nobody_told_of_come(node: Node) -> None:
    """R5: the last hint lost is seen without waiting for the next event; each once, in order."""
    _, outlet = node.connect("DEPLOYMENT_CREATED")
    for number in range(3):
        await node.world.create(f"d{number}")
    await node.until(lambda: len(told(outlet, "DEPLOYMENT_CREATED")) == 3)
    for event in node.world.committed:
        node.bus.hand_on(event)  # Told at last.
    await node.until(lambda: True)
    assert [data["deploymentId"] for data in told(outlet, "DEPLOYMENT_CREATED")] == ["d0", "d1", "d2"]


async def test_a_commit_that_is_about_to_be_told_is_left_alone(node: Node) -> None:
    """One look that sees the database ahead is no reason: the answer of a commit is on its way."""
    node.connect("DEPLOYMENT_CREATED")
    await node.world.create("d1")
    assert await node.poll.look() == 0
    for event in node.world.committed:
        node.bus.hand_on(event)
    assert await node.poll.look() == 0


async def test_lines_that_nobody_told_of_are_read(node: Node) -> None:
    """R5 for logs: followers fall back to the log, each line comes once."""
    runner = await node.world.running("d1")
    await node.bus.start()
    await node.poll.look()
    _, outlet = node.connect("DEPLOYMENT_LOGS_UPDATE")
    for first in (1, 3):
        await node.world.deployments.append_logs(runner, "d1", first, lines("a", "b"))
    await node.until(lambda: told(outlet, "DEPLOYMENT_LOGS_UPDATE"))
    await node.until(lambda: not node.catch_up)
    got = [
        (number, text)
        for data in told(outlet, "DEPLOYMENT_LOGS_UPDATE")
        for number, text in enumerate(data["logs"], data["firstLine"])
    ]
    assert got == [(1, "a"), (2, "b"), (3, "a"), (4, "b")]


async def test_a_value_that_nobody_told_of_comes_once(node: Node) -> None:
    """R5, R15: the newest value, and the same version is no news."""
    runner = await node.world.running("d1")
    _, outlet = node.connect("DEPLOYMENT_PROGRESS")
    await node.world.deployments.report_progress(runner, "d1", {"progress": 40})
    await node.until(lambda: told(outlet, "DEPLOYMENT_PROGRESS"))
    for _ in range(2):
        await node.poll.look()
        await asyncio.sleep(0)
    assert [data["progress"] for data in told(outlet, "DEPLOYMENT_PROGRESS")] == [40]


async def test_a_new_epoch_is_told_to_everybody(node: Node) -> None:
    """R18: restored from a backup, the stream begins anew; what comes then is new."""
    _, outlet = node.connect("DEPLOYMENT_CREATED")
    for number in range(3):
        await node.world.create(f"d{number}")
    await node.until(lambda: len(told(outlet, "DEPLOYMENT_CREATED")) == 3)
    head = node.hub.heads.position(STREAM)

    def restore(tx: Transaction) -> None:
        tx.conn.execute(delete(EventRecord).where(EventRecord.offset > 1))
        tx.conn.execute(update(EventStream).where(EventStream.stream == STREAM).values(epoch="restored", head=1))

    await node.world.db.write(restore)
    await node.until(lambda: told(outlet, "position_lost"))
    (lost,) = told(outlet, "position_lost")
    assert (lost["stream"], lost["reason"]) == (STREAM, "epoch")
    assert head is not None
    assert lost["lost"] == head.wire()
    assert lost["positions"][STREAM] == {"epoch": "restored", "offset": 1}
    await node.world.create("d9")
    await node.until(lambda: len(told(outlet, "DEPLOYMENT_CREATED")) == 4)
    assert told(outlet, "DEPLOYMENT_CREATED")[-1]["deploymentId"] == "d9"


async def test_what_was_removed_before_it_was_handed_on_is_told_as_lost(node: Node) -> None:
    """R4, I3: retention that passes the hub itself leaves no silent hole."""
    _, outlet = node.connect("DEPLOYMENT_CREATED")
    for number in range(4):
        await node.world.create(f"d{number}")

    def retain(tx: Transaction) -> None:
        last = node.world.committed[-1].offset or 0
        tx.conn.execute(delete(EventRecord).where(EventRecord.offset < last))
        tx.conn.execute(update(EventStream).where(EventStream.stream == STREAM).values(floor=last - 1))

    await node.world.db.write(retain)
    await node.until(lambda: told(outlet, "DEPLOYMENT_CREATED"))
    assert [data["reason"] for data in told(outlet, "position_lost")] == ["expired"]
    assert [data["deploymentId"] for data in told(outlet, "DEPLOYMENT_CREATED")] == ["d3"]


async def test_a_page_of_the_log_is_the_message_that_was_pushed(node: Node) -> None:
    """Read later, an event and lines are what everybody else got: same id, time and payload."""
    await node.world.create("d1")
    event = node.world.committed[-1]
    page = await node.reader.events(STREAM, 0)
    assert page is not None
    assert page.events[-1].frame == event.frame()
    assert caller("vic").can_reach(page.organization_id or "")
