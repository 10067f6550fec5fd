"""Rules of catching up, one by one: each of these histories is wrong without the rule it names."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from backend.app.realtime.event_log import Position
from backend.app.realtime.marks import LOGS_UPDATE
from backend.app.realtime.position_notices import PositionNotices
from backend.app.realtime.topics import Topic
from backend.app.schemas.roles import Role
from tests.unit.realtime.log_world import BUDGET, CLOSED, EPOCH, OPEN, ORGANIZATION, STREAM, VALUE, LogWorld
from tests.unit.realtime.outlets import principal

WANTS_OPEN = [Topic(ORGANIZATION, OPEN)]


@pytest.fixture
async def world() -> AsyncIterator[LogWorld]:
    made = LogWorld()
    yield made
    await made.catch_up.stop()


def at(offset: int) -> dict[str, Position]:
    return {STREAM: Position(EPOCH, offset)}


async def test_turning_live_hands_out_what_was_collected_before(world: LogWorld) -> None:
    """I5: what the hub collected in this tick is not delivered again to who has read it from the log."""
    for _ in range(2):
        world.publish()
    client = world.connect(WANTS_OPEN, at(0))
    await world.run(3)
    world.hand_on()
    assert client.connection.cursors in ({}, {STREAM: 2})
    if client.connection.cursors:
        assert world.hub.try_live(client.connection, STREAM)
    await world.settle()
    assert client.events() == [1, 2]


async def test_what_is_collected_is_handed_out_before_anybody_turns_live(world: LogWorld) -> None:
    """I5: the hub's head counts what it has collected in this tick and not handed out yet."""
    world.publish()
    world.hand_on()
    connection = (client := world.connect(WANTS_OPEN, at(0))).connection
    event = world.publish()
    world.hand_on()
    for each in world.log.events:
        connection.push_page(each.frame(), each.mark, each.offset or 0)
    assert world.hub.try_live(connection, STREAM)
    await world.run()
    assert client.events() == [1, event.offset]


async def test_live_only_where_the_hub_is(world: LogWorld) -> None:
    """A cursor ahead of the hub stays catching up until equality: the hub's hints for it are no news."""
    for _ in range(3):
        world.publish()
    client = world.connect(WANTS_OPEN, at(1))
    await world.run(60)
    assert client.events() == [2, 3]
    assert client.connection.cursors == {STREAM: 3}
    world.hand_on(2)
    await world.run(60)
    assert client.connection.cursors == {STREAM: 3}
    world.hand_on()
    await world.run(60)
    assert client.connection.cursors == {}
    assert client.events() == [2, 3]


async def test_each_subscription_has_its_own_start(world: LogWorld) -> None:
    """One that is added while older events are being read starts at the head."""
    world.publish(OPEN)
    world.publish(CLOSED)
    world.hand_on()
    client = world.connect(WANTS_OPEN, at(0), role=Role.OPERATOR)
    world.hub.subscribe(client.connection, [Topic(ORGANIZATION, CLOSED)])
    world.publish(CLOSED)
    await world.settle()
    assert client.events() == [1, 3]


async def test_what_is_read_for_another_cursor_is_of_no_use(world: LogWorld) -> None:
    """A page that was awaited while the client asked for a log from another line is read again."""
    world.append_lines(6)
    world.hand_on()
    client = world.connect([Topic(ORGANIZATION, LOGS_UPDATE, "d")], from_line=5)
    await world.run(2)  # the page from line 5 on is being read
    client.connection.follow_from("log:d", 1)
    await world.settle()
    assert client.lines() == [2, 3, 4, 5, 6]


async def test_a_slow_socket_falls_back_and_keeps_its_budget(world: LogWorld) -> None:
    """Over its budget what can be read again is withdrawn, and read at the speed of the socket; it is not closed."""
    client = world.connect(WANTS_OPEN)
    await world.run(3)
    client.outlet.is_taking = False
    for _ in range(40):
        world.publish()
        world.hand_on()
        await world.run(2)
        assert client.connection.queued_bytes <= BUDGET.max_bytes + 350
        assert client.connection.queued_messages <= BUDGET.max_messages
    assert not client.connection.is_over
    await world.settle()
    assert client.events() == list(range(1, 41))
    behind = [each["behind"] for each in client.told("catching_up")]
    assert behind
    assert len(client.told("caught_up")) == len(behind)


async def test_a_page_waits_for_room(world: LogWorld) -> None:
    """Half the budget stays free for what is pushed: a reader that takes nothing holds at most that."""
    for _ in range(60):
        world.publish()
    world.hand_on()
    client = world.connect(WANTS_OPEN, at(0))
    client.outlet.is_taking = False
    await world.run(300)
    assert client.connection.queued_bytes <= BUDGET.max_bytes // 2 + 700
    await world.settle()
    assert client.events() == list(range(1, 61))


async def test_an_answer_over_the_budget_makes_the_log_wait_first(world: LogWorld) -> None:
    """Replies are never rolled back: events make room for them, and are read again."""
    client = world.connect(WANTS_OPEN)
    await world.run(3)
    client.outlet.is_taking = False
    for _ in range(BUDGET.max_messages):
        world.publish()
    world.hand_on()
    await world.run(3)
    assert client.connection.push('{"type": "reply", "data": {}}')
    await world.settle()
    assert client.events() == list(range(1, BUDGET.max_messages + 1))
    assert client.told("reply") == [{}]


async def test_only_answers_that_are_not_taken_end_a_connection(world: LogWorld) -> None:
    """What can be read again never does; what cannot is bounded."""
    client = world.connect(WANTS_OPEN)
    await world.run(3)
    client.outlet.is_taking = False
    taken = 0
    while client.connection.push('{"type": "reply", "data": {"filler": "' + "x" * 60 + '"}}'):
        taken += 1
        assert taken < 100
    assert client.connection.close_code == 4008


async def test_a_floor_above_the_cursor_is_told(world: LogWorld) -> None:
    """R4, I3: never a partial answer."""
    for _ in range(6):
        world.publish()
    world.hand_on()
    client = world.connect(WANTS_OPEN, at(1))
    world.retain(4)
    await world.settle()
    (lost,) = client.told("position_lost")
    assert (lost["reason"], lost["lost"]["offset"], lost["positions"][STREAM]["offset"]) == ("expired", 1, 6)
    assert client.events() == []
    world.publish()
    await world.settle()
    assert client.events() == [7]


async def test_another_epoch_in_a_page_is_told(world: LogWorld) -> None:
    """R18: events after a restore do not look as if they had been delivered."""
    for _ in range(4):
        world.publish()
    world.hand_on()
    client = world.connect(WANTS_OPEN, at(1))
    world.log.epoch = "e2"
    await world.settle()
    assert [each["reason"] for each in client.told("position_lost")] == ["epoch"]


async def test_a_database_that_is_away_delays_and_loses_nothing(world: LogWorld) -> None:
    """What cannot be read now is read later; the connection stays."""
    for _ in range(5):
        world.publish()
    world.hand_on()
    world.log.is_down = True
    client = world.connect(WANTS_OPEN, at(0))
    await world.run(50)
    assert client.events() == []
    assert not client.connection.is_over
    await world.settle()
    assert client.events() == [1, 2, 3, 4, 5]


async def test_lost_rights_take_what_waits_with_them(world: LogWorld) -> None:
    """R6: queued events do not leave after revocation; those that may still be had do, in order."""
    client = world.connect([*WANTS_OPEN, Topic(ORGANIZATION, CLOSED)], role=Role.OPERATOR)
    await world.run(3)
    client.outlet.is_taking, client.outlet.is_paused = False, True
    for kind in (OPEN, CLOSED, OPEN):
        world.publish(kind)
    world.hand_on()
    await world.run(3)
    assert client.events() == []
    world.hub.update_principal(client.connection, principal(ORGANIZATION, role=Role.VIEWER))
    await world.settle()
    assert client.events() == [1, 3]


async def test_a_move_discards_the_old_stream(world: LogWorld) -> None:
    """R16: nothing of the old organization is read any more."""
    for _ in range(5):
        world.publish()
    world.hand_on()
    client = world.connect(WANTS_OPEN, at(0))
    world.hub.update_principal(client.connection, principal("other"))
    await world.run(60)
    assert client.events() == []
    assert STREAM not in client.connection.cursors
    assert STREAM not in world.hub.positions(client.connection) or client.connection.topics


# ---- lines -----------------------------------------------------------------------------------------------


async def test_reversed_and_repeated_lines_come_once(world: LogWorld) -> None:
    """Two commits that are told in reverse order: who follows reads the log, and the late hint is no news."""
    client = world.connect([Topic(ORGANIZATION, LOGS_UPDATE)])
    first, second = world.append_lines(4), world.append_lines(3)
    world.hub.deliver(second)
    await world.run(60)
    world.hub.deliver(first)
    world.hub.deliver(second)
    await world.settle()
    assert client.lines() == [1, 2, 3, 4, 5, 6, 7]


async def test_a_tail_skips_nothing_that_is_appended_meanwhile(world: LogWorld) -> None:
    """R14: `from_line` sets a cursor once; it turns live only on equality."""
    world.append_lines(10)
    world.hand_on()
    client = world.connect([Topic(ORGANIZATION, LOGS_UPDATE, "d")], from_line=8)
    await world.run(2)
    world.append_lines(2)
    world.hand_on()
    await world.run(2)
    world.append_lines(1)
    await world.settle()
    assert client.lines() == [8, 9, 10, 11, 12, 13]


async def test_lines_that_retention_removed_are_told(world: LogWorld) -> None:
    """I3 for logs: it goes on with the first line that is there."""
    world.append_lines(10)
    world.hand_on()
    world.log.first_line = 6
    client = world.connect([Topic(ORGANIZATION, LOGS_UPDATE, "d")], from_line=3)
    await world.settle()
    (lost,) = client.told("position_lost")
    assert lost == {"stream": "log:d", "reason": "expired", "lost": {"line": 3}, "positions": {"log:d": {"line": 6}}}
    assert client.lines() == [6, 7, 8, 9, 10]


async def test_lines_that_are_not_there_yet_are_told(world: LogWorld) -> None:
    """A client that has more lines than there are has those of another log."""
    world.append_lines(2)
    world.hand_on()
    client = world.connect([Topic(ORGANIZATION, LOGS_UPDATE, "d")], from_line=50)
    await world.settle()
    assert [each["reason"] for each in client.told("position_lost")] == ["future"]
    world.append_lines(2)
    await world.settle()
    assert client.lines() == [3, 4]


async def test_a_log_of_which_nothing_was_told_here_turns_live(world: LogWorld) -> None:
    """A node that just started knows nothing of a log that has ended: what the page shows is all there is."""
    world.log.lines = 4
    world.hub.heads.forget_lines("d")
    client = world.connect([Topic(ORGANIZATION, LOGS_UPDATE, "d")], from_line=1)
    for _ in range(60):
        await world.run(5)
    assert client.lines() == [1, 2, 3, 4]
    assert not client.connection.is_behind


async def test_the_log_of_a_deployment_with_an_old_id_begins_anew(world: LogWorld) -> None:
    """An id may be used again once its deployment was deleted: line 1 of the new one is no repetition."""
    client = world.connect([Topic(ORGANIZATION, LOGS_UPDATE)])
    world.append_lines(5)
    world.hand_on()
    await world.run()
    world.publish(kind="DEPLOYMENT_CREATED", payload={"deploymentId": "d", "deploymentName": "again"})
    world.log.lines = 0
    world.append_lines(2)
    world.hand_on()
    await world.settle()
    assert client.lines() == [1, 2, 3, 4, 5, 1, 2]


# ---- latest values ---------------------------------------------------------------------------------------


def progress(client: object) -> list[float]:
    return [each["progress"] for each in client.told(VALUE)]  # type: ignore[attr-defined]


async def test_a_version_that_is_not_newer_is_dropped(world: LogWorld) -> None:
    """R15: 50 %, then 40 %, and it stays at 40."""
    client = world.connect([Topic(ORGANIZATION, VALUE)])
    older, newer = world.set_value("d", 50), world.set_value("d", 40)
    world.hub.deliver(newer)
    world.hub.deliver(older)
    await world.run()
    assert progress(client) == [40]


async def test_a_newer_value_replaces_an_older_one_that_waits(world: LogWorld) -> None:
    """Latest: newer replaces older when the reader is slow."""
    client = world.connect([Topic(ORGANIZATION, VALUE)])
    await world.run(3)
    client.outlet.is_taking, client.outlet.is_paused = False, True
    for percent in range(20):
        world.set_value("d", percent)
        world.hand_on()
        await world.run(1)
    client.outlet.drain()
    await world.settle()
    assert progress(client) == [19]


async def test_a_value_that_did_not_fit_is_told_later(world: LogWorld) -> None:
    """Over the budget the last value of each subject is owed, and read when there is room."""
    client = world.connect([Topic(ORGANIZATION, VALUE)])
    await world.run(3)
    client.outlet.is_taking, client.outlet.is_paused = False, True
    for number in range(30):
        world.set_value(f"d{number}", number)
        world.hand_on()
        await world.run(1)
    assert client.connection.queued_messages <= BUDGET.max_messages
    await world.settle()
    assert sorted(progress(client)) == list(range(30))


async def test_what_is_read_never_comes_after_what_is_newer(world: LogWorld) -> None:
    """Resume sends the current values; one that is pushed meanwhile wins."""
    for number in range(5):
        world.set_value(f"d{number}", 1)
    client = world.connect([Topic(ORGANIZATION, VALUE)], at(0))
    await world.run(2)  # the values are being read
    world.set_value("d3", 2)
    world.hand_on()
    await world.settle()
    last = {each["deploymentId"]: each["progress"] for each in client.told(VALUE)}
    assert last == {"d0": 1, "d1": 1, "d2": 1, "d3": 2, "d4": 1}


# ---- positions -------------------------------------------------------------------------------------------


async def test_a_position_is_only_of_what_was_written(world: LogWorld) -> None:
    """R1: never the hub's head while something is queued."""
    client = world.connect(WANTS_OPEN)
    await world.run(3)
    client.outlet.is_taking, client.outlet.is_paused = False, True
    for _ in range(3):
        world.publish()
    world.hand_on()
    assert client.ping()[STREAM]["offset"] == 0
    await world.settle()
    assert client.ping()[STREAM]["offset"] == 3


async def test_quiet_clients_are_told_once_where_they_are(world: LogWorld) -> None:
    """The position of a client that wants nothing of a stream does not age, and is not told twice."""
    client = world.connect()
    notices = PositionNotices(world.hub, 30)
    for _ in range(2):
        world.publish()
        world.hand_on()
        for slice_number in range(60):
            notices.tell(slice_number % 30)
            await asyncio.sleep(0)
    assert [each["positions"][STREAM]["offset"] for each in client.told("positions")] == [1, 2]
