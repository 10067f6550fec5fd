"""The watch over all sockets: pings, ends the dead, outlives one socket's trouble."""

import pytest

from backend.app.realtime.flusher import Flusher
from backend.app.schemas.messages import CloseCode
from backend.app.websocket.heartbeat import Heartbeat
from backend.app.websocket.liveness import LivenessRules
from tests.unit.realtime.outlets import connect

RULES = LivenessRules(heartbeat=20, pong_timeout=10, write_stall=30, write_stall_max=120)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Socket:
    """A socket of which a test decides what was taken and received."""

    def __init__(self) -> None:
        self.read_paused = False
        self.received_at = 0.0
        self.waiting = 0
        self.pings = 0
        self.is_aborted = False

    def taken_bytes(self) -> int:
        return 0

    def buffered_bytes(self) -> int:
        return self.waiting

    def ping(self) -> None:
        self.pings += 1

    def abort(self) -> None:
        self.is_aborted = True


def run(heartbeat: Heartbeat, clock: Clock, until: int) -> None:
    """Look once a second up to a moment."""
    while clock.now < until:
        clock.now += 1
        heartbeat.look()


async def test_a_silent_client_is_pinged_then_closed_4012() -> None:
    """4012: no pong."""
    clock, socket = Clock(), Socket()
    heartbeat = Heartbeat(RULES, clock)
    connection, _ = connect(Flusher())
    heartbeat.watch(connection, socket)
    run(heartbeat, clock, 29)
    assert (socket.pings, connection.close_code) == (1, None)
    run(heartbeat, clock, 30)
    assert connection.close_code is CloseCode.NO_PONG
    assert not socket.is_aborted


async def test_a_stalled_client_is_closed_4008_and_aborted() -> None:
    """4008: no progress on writes; the transport is aborted, since it would wait for its buffer."""
    clock, socket = Clock(), Socket()
    heartbeat = Heartbeat(RULES, clock)
    connection, _ = connect(Flusher())
    heartbeat.watch(connection, socket)
    socket.waiting = 1000
    run(heartbeat, clock, 31)
    assert connection.close_code is CloseCode.WRITE_STALLED
    assert socket.is_aborted


async def test_a_server_that_does_not_read_blames_no_client() -> None:
    """While a command of the client runs, its pong waits in the kernel."""
    clock, socket = Clock(), Socket()
    heartbeat = Heartbeat(RULES, clock)
    connection, _ = connect(Flusher())
    heartbeat.watch(connection, socket)
    socket.read_paused = True
    run(heartbeat, clock, 100)
    assert connection.close_code is None


async def test_a_process_that_stood_still_cuts_nobody() -> None:
    """A process stopped for 60 s: no client could be heard meanwhile."""
    clock, socket = Clock(), Socket()
    heartbeat = Heartbeat(RULES, clock)
    connection, _ = connect(Flusher())
    heartbeat.watch(connection, socket)
    run(heartbeat, clock, 21)
    clock.now += 60
    heartbeat.look()
    assert connection.close_code is None
    run(heartbeat, clock, 100)
    assert connection.close_code is CloseCode.NO_PONG


async def test_one_sockets_trouble_does_not_keep_the_others_from_being_watched(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One task watches all sockets: it must outlive each of them."""

    class Broken(Socket):
        def taken_bytes(self) -> int:
            raise RuntimeError("broken")

    clock, socket = Clock(), Socket()
    heartbeat = Heartbeat(RULES, clock)
    first, _ = connect(Flusher())
    second, _ = connect(Flusher())
    undo = heartbeat.watch(first, Broken())
    heartbeat.watch(second, socket)
    run(heartbeat, clock, 20)
    assert socket.pings == 1
    assert "could not be watched" in caplog.text
    undo()
    undo()
    assert len(heartbeat) == 1
