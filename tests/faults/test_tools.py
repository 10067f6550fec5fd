"""The fault tools themselves: the proxy does to bytes what it says, and the raw socket builds what it says."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

import pytest
from websockets.frames import Frame as LibraryFrame
from websockets.frames import Opcode
from websockets.streams import StreamReader as LibraryReader

from tests.faults.proxy import Proxy
from tests.faults.raw_socket import PING, TEXT, RawSocket, frame


class Echo(asyncio.Protocol):
    """Sends everything back."""

    peers: ClassVar[set[asyncio.Transport]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.peers.add(transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.peers.discard(self._transport)


@asynccontextmanager
async def proxied() -> AsyncIterator[tuple[Proxy, asyncio.StreamReader, asyncio.StreamWriter]]:
    """An echo server, a proxy in front of it, and a client of the proxy."""
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    async with server, Proxy("127.0.0.1", server.sockets[0].getsockname()[1]) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.own_port)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        try:
            yield proxy, reader, writer
        finally:
            writer.close()
            for peer in tuple(Echo.peers):
                peer.abort()


async def test_the_proxy_forwards_both_ways_and_passes_an_end_on() -> None:
    """Bytes arrive complete and in order; the end of one direction leaves the other one open."""
    async with proxied() as (proxy, reader, writer):
        sent = bytes(range(256)) * 4096
        writer.write(sent)
        writer.write_eof()
        assert await reader.read(-1) == sent
        assert proxy.links[0].upward_bytes == proxy.links[0].downward_bytes == len(sent) + 5


async def test_the_proxy_delays_and_throttles() -> None:
    """A delayed or throttled chunk takes at least the time that was asked for."""
    async with proxied() as (proxy, reader, writer):
        weather = proxy.links[0].weather
        weather.delay_seconds = 0.1
        before = time.monotonic()
        writer.write(b"slow")
        assert await reader.readexactly(4) == b"slow"
        assert time.monotonic() - before >= 0.2  # there and back
        weather.delay_seconds, weather.bytes_per_second = 0.0, 10_000
        before = time.monotonic()
        writer.write(b"x" * 2_000)
        await reader.readexactly(2_000)
        assert time.monotonic() - before >= 0.4


async def test_a_stalled_link_loses_nothing_when_it_goes_on() -> None:
    """`stall` stops both directions; after `resume` everything arrives."""
    async with proxied() as (proxy, reader, writer):
        proxy.links[0].stall()
        writer.write(b"later")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.3)
        proxy.links[0].resume()
        assert await reader.readexactly(5) == b"later"


async def test_a_half_open_link_swallows_and_never_closes() -> None:
    """`half_open`: nothing is forwarded, and the end of one side is not told to the other."""
    async with proxied() as (proxy, reader, writer):
        proxy.links[0].half_open()
        writer.write(b"lost")
        writer.write_eof()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.3)
        assert proxy.links[0].is_open


async def test_a_cut_link_ends_in_order_and_a_reset_one_with_rst() -> None:
    """`cut` sends FIN, `reset` sends RST."""
    async with proxied() as (proxy, reader, writer):
        await proxy.links[0].cut()
        assert await reader.read(1) == b""
        assert not proxy.links[0].is_open
    async with proxied() as (proxy, reader, writer):
        await proxy.links[0].reset()
        with pytest.raises(ConnectionResetError):
            await reader.read(1)


async def test_a_refusing_proxy_is_like_a_server_that_is_away() -> None:
    """A new connection is reset at once; links that exist stay."""
    async with proxied() as (proxy, reader, writer):
        proxy.is_refusing = True
        second, other = await asyncio.open_connection("127.0.0.1", proxy.own_port)
        with pytest.raises(ConnectionError):
            # An RST that comes before the first read is an error there.
            if await second.read(1) == b"":
                raise ConnectionResetError
        other.close()
        writer.write(b"still")
        assert await reader.readexactly(5) == b"still"


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 70_001])
def test_a_proper_frame_of_the_raw_socket_is_what_a_library_reads(size: int) -> None:
    """The masked frames are right where they are meant to be, at every length of the header."""
    payload = bytes(index % 251 for index in range(size))
    reader = LibraryReader()
    reader.feed_data(frame(TEXT, payload))
    parser = LibraryFrame.parse(reader.read_exact, mask=True)
    with pytest.raises(StopIteration) as parsed:
        next(parser)
    assert (parsed.value.value.opcode, parsed.value.value.data, parsed.value.value.fin) == (Opcode.TEXT, payload, True)


def test_a_wrong_frame_is_wrong_as_it_was_asked_for() -> None:
    """Reserved bits, missing mask and a length that is not there stand in the header."""
    assert frame(TEXT, b"a", is_masked=False) == b"\x81\x01a"
    assert frame(PING, b"", reserved=0b100)[0] == 0xC9
    assert frame(TEXT, claimed_bytes=1 << 40)[1:10] == b"\xff" + (1 << 40).to_bytes(8, "big")
    assert frame(TEXT, b"", is_final=False)[0] == 0x01


async def test_a_small_receive_buffer_is_full_soon() -> None:
    """SO_RCVBUF is set before the connection, so a peer that writes is stopped after little."""
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        async with await RawSocket.connect(
            f"http://127.0.0.1:{listener.getsockname()[1]}", receive_buffer_bytes=4096
        ) as raw:
            peer, _ = listener.accept()
            with peer:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
                peer.setblocking(False)
                sent = 0
                with pytest.raises(BlockingIOError):
                    while sent < 10_000_000:
                        sent += peer.send(b"x" * 4096)
                assert sent < 1_000_000
                assert raw.texts == []
