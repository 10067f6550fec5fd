"""The acceptor: so many connections in one turn, none lost, also when there was no descriptor for a moment."""

import asyncio
import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from backend.app.cli.acceptor import Acceptor
from backend.app.cli.listener import bind


class Greeter(asyncio.Protocol):
    """Says something and closes."""

    made: list[int]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.made.append(len(self.made))
        transport.write(b"welcome")
        transport.close()


class Scarce(socket.socket):
    """A listening socket for which there is now and then no descriptor."""

    failures: int

    def accept(self) -> tuple[socket.socket, object]:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


@contextmanager
def crowd(listener: socket.socket, count: int) -> Iterator[list[socket.socket]]:
    """Connect so often; nobody has accepted yet."""
    with ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(listener.getsockname())) for _ in range(count)]


async def heard(client: socket.socket) -> bytes:
    client.setblocking(False)
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 100), 5)


@pytest.mark.parametrize(("room", "in_one_turn"), [(100, 3), (2, 2), (0, 1)])
async def test_a_crowd_is_taken_a_few_in_each_turn(room: int, in_one_turn: int) -> None:
    """Everybody is served; in one turn no more are taken than the setting says, nor than there is room for."""
    made: list[int] = []
    protocol = type("OneGreeter", (Greeter,), {"made": made})
    with bind("127.0.0.1", 0) as listener, crowd(listener, 10) as clients:
        acceptor = Acceptor(listener, protocol, per_turn=3, room=lambda: room)
        most, before = 0, 0
        while len(made) < 10:
            await asyncio.sleep(0)
            most, before = max(most, len(made) - before), len(made)
        assert most == in_one_turn
        assert [await heard(client) for client in clients] == [b"welcome"] * 10
        acceptor.close()
        acceptor.close()
        await acceptor.wait_closed()


async def test_want_of_a_descriptor_is_told_once_and_passes(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody is lost, the loop does not spin, and who reads the log learns of it."""
    made: list[int] = []
    with bind("127.0.0.1", 0) as bound, crowd(bound, 3) as clients:
        listener = Scarce(fileno=bound.detach())
        listener.failures = 2
        with listener:
            acceptor = Acceptor(listener, type("OneGreeter", (Greeter,), {"made": made}), per_turn=64, room=lambda: 100)
            assert [await heard(client) for client in clients] == [b"welcome"] * 3
            acceptor.close()
    assert [record.message for record in caplog.records if "accepted" in record.message] == [
        "no connection can be accepted: Too many open files"
    ]
