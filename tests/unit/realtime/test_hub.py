"""Who gets an event: topic, tenant, user, session, role; and that it is framed once."""

import asyncio
import json
from typing import Any

import pytest

from backend.app.realtime.connection import Connection
from backend.app.realtime.event import Event, new_event
from backend.app.realtime.flusher import Flusher
from backend.app.realtime.hub import Hub
from backend.app.realtime.topics import Topic
from backend.app.schemas.messages import CloseCode
from backend.app.schemas.roles import Role
from backend.app.schemas.websocket_events import CORE_EVENTS
from tests.unit.realtime.outlets import BUDGET, HandOutlet, connect, principal

SPECS = {spec.name: spec for spec in CORE_EVENTS}
STATUS = "DEPLOYMENT_STATUS_CHANGED"


def event(organization_id: str | None = "org", kind: str = STATUS, subject: str = "d1", **more: Any) -> Event:
    payload = {"deploymentId": subject, "newStatus": "running"} if kind == STATUS else {"any": "thing"}
    return new_event(SPECS[kind], organization_id, payload, **more)


def numbered(offset: int, **more: Any) -> Event:
    """An event as it is after its commit."""
    made = event(**more)
    made.offset, made.epoch = offset, "e"
    return made


class World:
    """A hub and the connections on it."""

    def __init__(self) -> None:
        self.flusher = Flusher()
        self.hub = Hub(self.flusher, BUDGET.high_water_bytes)

    def add(self, *topics: Topic, **who: Any) -> tuple[Connection, HandOutlet]:
        connection, outlet = connect(self.flusher, principal(**who), settle=self.hub.settle)
        self.hub.add(connection)
        self.hub.subscribe(connection, topics)
        return connection, outlet

    async def deliver(self, *events: Event) -> None:
        for each in events:
            self.hub.deliver(each)
        await asyncio.sleep(0)


@pytest.fixture
def world() -> World:
    return World()


async def test_the_tenant_is_part_of_the_topic(world: World) -> None:
    """A connection receives an event only if the organization matches."""
    _, own = world.add(Topic("org", STATUS))
    _, foreign = world.add(Topic("other", STATUS), organization_id="other")
    await world.deliver(event())
    assert len(own.texts) == 1
    assert foreign.texts == []


async def test_a_foreign_subscription_alone_gives_no_right(world: World) -> None:
    """Authorization is checked at delivery, too: a topic that should not be there delivers nothing."""
    _, moved = world.add(Topic("org", STATUS), organization_id="other")
    _, superuser = world.add(Topic("org", STATUS), organization_id="other", is_superuser=True)
    await world.deliver(event())
    assert moved.texts == []
    assert len(superuser.texts) == 1


async def test_a_subject_narrows_a_subscription(world: World) -> None:
    """Topic lookup by (organization, type, subject); who asked for both gets an event once."""
    _, everything = world.add(Topic("org", STATUS))
    _, one = world.add(Topic("org", STATUS, "d1"))
    _, both = world.add(Topic("org", STATUS), Topic("org", STATUS, "d1"))
    await world.deliver(event(subject="d1"), event(subject="d2"))
    assert (len(everything.texts), len(one.texts), len(both.texts)) == (2, 1, 2)


async def test_every_receiver_is_given_the_same_bytes(world: World) -> None:
    """An event is encoded and framed once."""
    outlets = [world.add(Topic("org", STATUS))[1] for _ in range(3)]
    await world.deliver(event())
    assert len({id(outlet.writes[0]) for outlet in outlets}) == 1


async def test_events_addressed_to_a_user_need_no_subscription(world: World) -> None:
    """Events addressed to you need no subscription, and reach nobody else."""
    _, mine = world.add(user_id="me")
    _, other = world.add(Topic("org", "CUSTOM_EVENT"), user_id="you")
    await world.deliver(event(kind="CUSTOM_EVENT", user_id="me"))
    assert len(mine.texts) == 1
    assert other.texts == []


async def test_rights_that_were_lost_count_at_once(world: World) -> None:
    """`update_principal` changes what the next event reaches."""
    connection, outlet = world.add(Topic("org", STATUS))
    world.hub.update_principal(connection, principal(organization_id="elsewhere", role=Role.VIEWER))
    await world.deliver(event())
    assert outlet.texts == []


async def test_the_furthest_behind_is_what_the_metric_tells(world: World) -> None:
    """`windflow_connection_queued_bytes`: most bytes that wait for one socket."""
    world.add()
    _, slow = world.add()
    slow.buffered = 77
    assert world.hub.most_queued_bytes() == 77


async def test_a_removed_connection_leaves_nothing_behind(world: World) -> None:
    """After the end of a connection no index knows it."""
    connection, outlet = world.add(Topic("org", STATUS), Topic("org", STATUS, "d1"), session_id="s1")
    world.hub.remove(connection)
    world.hub.remove(connection)
    await world.deliver(event(), event(user_id="user"))
    assert outlet.texts == []
    assert len(world.hub) == 0
    assert not connection.topics
    assert world.hub.of_user("user") == ()
    assert world.hub.of_session("s1") == ()


async def test_events_of_one_topic_in_one_tick_are_joined_once_for_all(world: World) -> None:
    """Everything due in one write; those owed the same frames share one bytes object."""
    outlets = [world.add(Topic("org", STATUS))[1] for _ in range(3)]
    await world.deliver(*(event(subject="d1") for _ in range(3)))
    assert [len(outlet.writes) for outlet in outlets] == [1, 1, 1]
    assert len({id(outlet.writes[0]) for outlet in outlets}) == 1
    assert len(outlets[0].texts) == 3


async def test_events_of_several_topics_in_one_tick_are_still_one_write(world: World) -> None:
    """Who is owed more than one topic's events gets them in the order in which they were committed."""
    _, everything = world.add(Topic("org", STATUS), Topic("org", "CUSTOM_EVENT"))
    _, one = world.add(Topic("org", "CUSTOM_EVENT"))
    await world.deliver(event(), event(kind="CUSTOM_EVENT"), event())
    types = [json.loads(text)["type"] for text in everything.texts]
    assert types == [STATUS, "CUSTOM_EVENT", STATUS]
    assert (len(everything.writes), len(one.writes)) == (1, 1)


async def test_a_reply_comes_after_the_events_that_were_delivered_before_it(world: World) -> None:
    """What is handed out at the end of the tick keeps its place before what is pushed later in the tick."""
    connection, outlet = world.add(Topic("org", STATUS))
    world.hub.deliver(event())
    connection.push('{"type": "subscribed"}')
    world.hub.deliver(event())
    await asyncio.sleep(0)
    assert [json.loads(text)["type"] for text in outlet.texts] == [STATUS, "subscribed", STATUS]
    assert len(outlet.writes) == 1


async def test_a_subscription_gets_nothing_from_before_it(world: World) -> None:
    """A later `subscribe` starts at the head; `unsubscribe` still gets what was delivered before it."""
    early, first = world.add(Topic("org", STATUS))
    late, second = world.add()
    world.hub.deliver(event())
    world.hub.subscribe(late, [Topic("org", STATUS)])
    world.hub.unsubscribe(early, [Topic("org", STATUS)])
    world.hub.deliver(event())
    await asyncio.sleep(0)
    assert (len(first.texts), len(second.texts)) == (1, 1)


async def test_a_close_comes_after_what_was_delivered_before_it(world: World) -> None:
    """A socket still gets the event that ends it, and nothing after it."""
    connection, outlet = world.add(Topic("org", STATUS))
    world.hub.deliver(event())
    connection.close(CloseCode.ACCESS_REVOKED, "logged out")
    world.hub.deliver(event())
    await asyncio.sleep(0)
    assert len(outlet.texts) == 1
    assert outlet.closed is not None


async def test_a_slow_reader_among_fast_ones_keeps_its_own_budget(world: World) -> None:
    """No client can hurt another: who takes nothing queues up alone, the others are written at once."""
    slow, held = world.add(Topic("org", STATUS))
    _, fast = world.add(Topic("org", STATUS))
    held.is_taking = False
    for number in range(1, 31):
        await world.deliver(numbered(number))
    assert len(fast.texts) == 30
    assert not slow.is_over
    assert len(held.texts) < 30
    assert slow.cursors == {"org:org": len(held.texts)}


async def test_new_rights_do_not_bring_back_a_connection_that_ended(world: World) -> None:
    """Rights that were read while a connection ended leave nothing of it in the hub."""
    connection, _ = world.add(session_id="s1")
    world.hub.remove(connection)
    world.hub.update_principal(connection, principal(session_id="s1"))
    assert world.hub.of_session("s1") == ()
