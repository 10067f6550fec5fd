"""Bytes on a TCP connection, for what no HTTP or WebSocket library would send or leave undone."""

import asyncio
import json
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

UPGRADE = (
    "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{more}\r\n"
)


class Raw:
    """One connection. Reads fail when nothing comes for ten seconds."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self.reader = reader
        self.writer = writer
        self.host = host

    def send(self, data: bytes | str) -> None:
        """Send bytes."""
        self.writer.write(data.encode() if isinstance(data, str) else data)

    async def head(self) -> str:
        """Return the head of an answer."""
        return (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)).decode()

    async def status(self) -> int:
        """Return the status of an answer, whose head is taken."""
        return int((await self.head()).split(" ", 2)[1])

    async def end(self, seconds: float = 10) -> bytes:
        """Wait until the server ends the connection; return what came before."""
        try:
            return await asyncio.wait_for(self.reader.read(-1), seconds)
        except ConnectionError:
            return b""

    async def upgrade(self, path: str = "/api/v1/ws", more: str = "") -> int:
        """Ask for a WebSocket and return the status of the answer."""
        self.send(UPGRADE.format(path=path, host=self.host, more=more))
        return await self.status()

    def say(self, kind: str, **more: Any) -> None:
        """Send one text message as a masked frame."""
        payload = json.dumps({"type": kind, **more}).encode()
        mask = os.urandom(4)
        size = len(payload)
        head = struct.pack("!BB", 0x81, 0x80 | size) if size < 126 else struct.pack("!BBH", 0x81, 0x80 | 126, size)
        self.send(head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload)))

    async def frame(self) -> tuple[int, bytes]:
        """Return opcode and payload of the next frame."""
        async with asyncio.timeout(10):
            first, second = await self.reader.readexactly(2)
            size = second & 0x7F
            if size == 126:
                (size,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
            return first & 0x0F, await self.reader.readexactly(size)


@asynccontextmanager
async def raw(url: str, *, receive_buffer: int | None = None) -> AsyncIterator[Raw]:
    """Connect to a server; with a small `receive_buffer` the server soon has to keep what is not read."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    try:
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        await loop.sock_connect(sock, (parts.hostname, parts.port))
    except OSError:
        sock.close()
        raise
    # The limit of the reader is what it takes from the socket by itself.
    reader, writer = await asyncio.open_connection(sock=sock, limit=4096 if receive_buffer else 2**20)
    try:
        yield Raw(reader, writer, parts.netloc)
    finally:
        writer.transport.abort()
