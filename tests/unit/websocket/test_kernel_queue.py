"""What the kernel holds of a socket falls as its client reads, long before it can be written again."""

import asyncio
import socket

from backend.app.websocket.kernel_queue import unconfirmed_bytes


async def test_reading_shows_before_the_socket_can_be_written() -> None:
    """With the transport's buffer full and unmoved, what a client read shows in the kernel's queue."""
    accepted: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(lambda _, writer: accepted.set_result(writer), "127.0.0.1", 0)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, server.sockets[0].getsockname())
        writer = await accepted
        transport = writer.transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        assert unconfirmed_bytes(transport) == 0
        writer.write(b"x" * 1_000_000)
        await asyncio.sleep(0.05)
        waiting, held = transport.get_write_buffer_size(), unconfirmed_bytes(transport)
        assert waiting > 0
        assert held > 0
        read = 0
        while unconfirmed_bytes(transport) == held:
            read += len(await asyncio.get_running_loop().sock_recv(client, 1024))
            await asyncio.sleep(0.01)
        assert transport.get_write_buffer_size() == waiting
        assert 0 < read < 65_536
        transport.abort()
        await asyncio.sleep(0)
        assert unconfirmed_bytes(transport) == 0
    server.close()
    await server.wait_closed()
