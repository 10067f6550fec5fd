"""What waits for one connection: one write per tick, a bounded budget, an orderly end."""

import asyncio

import pytest

from backend.app import metrics
from backend.app.realtime.connection import Connection
from backend.app.realtime.flusher import Flusher
from backend.app.schemas.messages import CloseCode
from tests.unit.realtime.outlets import BUDGET, connect


async def tick() -> None:
    """Let what is due at the end of this tick be written."""
    await asyncio.sleep(0)


def dropped() -> float:
    return float(metrics.EVENTS_DROPPED.labels("connection")._value.get())


async def test_what_is_due_in_one_tick_is_one_write() -> None:
    """Connections with something due are flushed once at the end of the tick, in one write."""
    connection, outlet = connect(Flusher())
    for number in range(5):
        assert connection.push(str(number))
    assert outlet.writes == []
    assert connection.queued_messages == 5
    await tick()
    assert len(outlet.writes) == 1
    assert outlet.texts == ["0", "1", "2", "3", "4"]
    assert connection.queued_bytes == 0
    connection.push("5")
    await tick()
    assert outlet.texts[-1] == "5"


async def test_connections_owed_the_same_frames_share_one_bytes_object() -> None:
    """Those owed the same frames share one bytes object; who is owed something else gets that."""
    flusher = Flusher()
    (one, first), (two, second), (three, third) = connect(flusher), connect(flusher), connect(flusher)
    frames = [b"\x81\x01a", b"\x81\x01b"]
    for frame in frames:
        one.push_frame(frame)
        two.push_frame(frame)
    three.push_frame(frames[0])
    await tick()
    assert first.writes[0] is second.writes[0]
    assert third.writes[0] is frames[0]


async def test_nothing_leaves_before_the_greeting_which_is_first() -> None:
    """AUTH_LOGIN_SUCCESS is the first message, before what plugins sent in initialize."""
    connection, outlet = connect(Flusher(), is_greeted=False)
    connection.push("from a plugin")
    await tick()
    assert outlet.writes == []
    connection.greet("welcome")
    await tick()
    assert outlet.texts == ["welcome", "from a plugin"]


async def test_a_paused_outlet_keeps_what_is_due_waiting_in_order() -> None:
    """While the transport takes nothing, messages wait in the connection; when it resumes they are one write."""
    connection, outlet = connect(Flusher())
    outlet.is_taking = False
    connection.push("x" * 150)
    await tick()
    assert outlet.is_paused
    for number in range(3):
        connection.push(str(number))
    await tick()
    assert len(outlet.writes) == 1
    outlet.drain()
    await tick()
    assert len(outlet.writes) == 2
    assert outlet.texts[1:] == ["0", "1", "2"]


@pytest.mark.parametrize("size", [10, 90, 300])
async def test_queued_bytes_stay_within_the_budget_plus_one_message(size: int) -> None:
    """A reader that takes nothing is closed 4008 once over its budget, and never holds more than that."""
    connection, outlet = connect(Flusher())
    outlet.is_taking = False
    most = 0
    for _ in range(200):
        connection.push("x" * size)
        most = max(most, connection.queued_bytes)
        await tick()
        most = max(most, connection.queued_bytes)
    assert most <= BUDGET.max_bytes + size + 4
    assert connection.close_code is CloseCode.WRITE_STALLED
    assert outlet.closed is not None
    assert outlet.closed[0] == 4008
    assert outlet.closed[2] == BUDGET.stalled_close_seconds
    assert connection.queued_messages == 0


async def test_the_budget_counts_messages_too() -> None:
    """Outbound budget: bytes and messages."""
    connection, outlet = connect(Flusher())
    outlet.is_taking = False
    connection.push("x" * 150)
    await tick()
    taken = [connection.push("y") for _ in range(BUDGET.max_messages + 1)]
    assert taken == [True] * BUDGET.max_messages + [False]
    assert connection.close_code is CloseCode.WRITE_STALLED


async def test_many_messages_of_one_tick_do_not_close_a_reader_that_takes_them() -> None:
    """The budget is about what the socket does not take: a burst within one tick is handed over on the way."""
    connection, outlet = connect(Flusher())
    texts = [str(number) for number in range(100)]
    assert all(connection.push(text) for text in texts)
    await tick()
    assert connection.close_code is None
    assert outlet.texts == texts


async def test_transient_events_are_dropped_and_counted_instead() -> None:
    """Transient: waits in the budget; dropped with a counter when it is full."""
    connection, outlet = connect(Flusher())
    outlet.is_taking = False
    connection.push("x" * 900)
    await tick()
    before = dropped()
    assert not connection.push("y" * 200, is_droppable=True)
    assert connection.push("z" * 50, is_droppable=True)
    assert dropped() == before + 1
    assert connection.close_code is None


async def test_a_message_larger_than_the_budget_goes_alone() -> None:
    """A single message larger than the budget is sent alone."""
    connection, outlet = connect(Flusher())
    assert connection.push("x" * (BUDGET.max_bytes * 3))
    await tick()
    assert len(outlet.texts) == 1
    outlet.is_taking = False
    assert connection.push("y" * (BUDGET.max_bytes * 3))
    await tick()
    assert not connection.push("z")


async def test_an_orderly_close_writes_what_is_due_first() -> None:
    """What was due before a close is written before the close frame; nothing is taken after it."""
    connection, outlet = connect(Flusher())
    connection.push("last")
    connection.close(CloseCode.ACCESS_REVOKED, "logged out")
    assert outlet.texts == ["last"]
    assert outlet.closed == (4503, "logged out", BUDGET.close_seconds)
    assert not connection.push("late")
    connection.close(CloseCode.NO_PONG, "again")
    assert (connection.close_code, connection.close_reason) == (CloseCode.ACCESS_REVOKED, "logged out")
    await tick()
    assert outlet.texts == ["last"]


async def test_a_connection_that_is_closed_before_its_greeting_tells_nothing() -> None:
    """What plugins sent to a connection that never began is not written."""
    connection, outlet = connect(Flusher(), is_greeted=False)
    connection.push("from a plugin")
    connection.close(CloseCode.ACCESS_REVOKED, "gone")
    assert outlet.writes == []
    assert outlet.closed is not None


async def test_a_long_reason_is_cut_to_what_a_close_frame_holds() -> None:
    """A close frame has room for 123 bytes of reason; a character is never cut in two."""
    connection, outlet = connect(Flusher())
    connection.close(CloseCode.ACCESS_REVOKED, "ü" * 100)
    assert outlet.closed is not None
    assert outlet.closed[1] == "ü" * 60


async def test_a_connection_whose_socket_is_gone_takes_nothing() -> None:
    """After `end` nothing waits and nothing is written."""
    connection, outlet = connect(Flusher())
    connection.push("due")
    connection.end()
    await tick()
    assert outlet.writes == []
    assert not connection.push("late")
    assert isinstance(connection, Connection)
