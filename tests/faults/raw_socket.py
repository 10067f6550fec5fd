"""A WebSocket client that may do everything wrong: any bytes, any frame, any pace.

Tests of faults use it where a library would refuse to send what they need. It is a plain socket:
its receive buffer can be small, it reads only when it is told to, and it ends as it likes.
"""

import asyncio
import base64
import contextlib
import json
import os
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
PATIENCE_SECONDS = 15.0
RESET = (0, "reset")
ENDED = (1006, "no close frame")
_READS_PER_SECOND = 10
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it came."""

    opcode: int
    payload: bytes
    is_final: bool = True


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    is_final: bool = True,
    reserved: int = 0,
    is_masked: bool = True,
    claimed_bytes: int | None = None,
) -> bytes:
    """Return one frame; `reserved` are the three reserved bits, `claimed_bytes` what its header says instead."""
    length = len(payload) if claimed_bytes is None else claimed_bytes
    head = bytes([(0x80 if is_final else 0) | (reserved << 4) | opcode])
    bit = 0x80 if is_masked else 0
    if length < 126:
        head += bytes([bit | length])
    elif length < 1 << 16:
        head += bytes([bit | 126]) + struct.pack(">H", length)
    else:
        head += bytes([bit | 127]) + struct.pack(">Q", length)
    if not is_masked:
        return head + payload
    mask = os.urandom(4)
    key = int.from_bytes(mask * (len(payload) // 4 + 1), "big") >> 8 * (4 - len(payload) % 4)
    masked = (int.from_bytes(payload, "big") ^ key).to_bytes(len(payload), "big") if payload else b""
    return head + mask + masked


class RawSocket:
    """A TCP connection to the server, and the frames that come over it."""

    def __init__(self, sock: socket.socket, host: str) -> None:
        self.sock = sock
        self.host = host
        self.texts: list[dict[str, Any]] = []
        """Every JSON message so far, in order."""
        self.bytes_per_second: float | None = None
        """How fast it reads; None: as fast as it can."""
        self._buffer = bytearray()

    @classmethod
    async def connect(
        cls, url: str, *, receive_buffer_bytes: int | None = None, source: str | None = None
    ) -> "RawSocket":
        """Connect to the host of a URL; nothing is sent yet. `source` is the address to come from."""
        parts = urlsplit(url)
        sock = socket.socket()
        sock.setblocking(False)
        try:
            if receive_buffer_bytes is not None:  # counts only before the connection is made
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
            if source is not None:
                sock.bind((source, 0))
            await asyncio.get_running_loop().sock_connect(sock, (parts.hostname, parts.port))
        except BaseException:
            sock.close()
            raise
        return cls(sock, parts.netloc)

    async def __aenter__(self) -> "RawSocket":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __enter__(self) -> "RawSocket":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- sending --------------------------------------------------------------------------------------

    async def send(self, data: bytes, timeout: float = PATIENCE_SECONDS) -> None:
        """Send any bytes; raise OSError when the server has ended the connection."""
        await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(self.sock, data), timeout)

    async def send_json(self, kind: str, data: Mapping[str, Any] | None = None, **more: Any) -> None:
        """Send one proper message."""
        await self.send(frame(TEXT, json.dumps({"type": kind, "data": data or {}, **more}).encode()))

    def upgrade_request(self, headers: Mapping[str, str] | None = None) -> bytes:
        """Return a handshake as it should be, with further headers."""
        lines = [
            "GET /api/v1/ws HTTP/1.1",
            f"Host: {self.host}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
            "Sec-WebSocket-Version: 13",
            *(f"{name}: {value}" for name, value in (headers or {}).items()),
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    async def upgrade(self, headers: Mapping[str, str] | None = None) -> int:
        """Do the handshake; return the HTTP status, 101 when it is a WebSocket now."""
        await self.send(self.upgrade_request(headers))
        head = await self.http_head()
        return int(head.split(b" ", 2)[1])

    async def authenticate(self, token: str, **data: Any) -> dict[str, Any]:
        """Do the handshake and the auth phase; return the welcome."""
        status = await self.upgrade()
        assert status == 101, status
        await self.send_json("auth", {"token": token, **data})
        welcome = await self.message()
        assert welcome["type"] == "AUTH_LOGIN_SUCCESS", welcome
        return welcome

    # ---- receiving ------------------------------------------------------------------------------------

    async def http_head(self) -> bytes:
        """Return status line and headers of an answer."""
        while b"\r\n\r\n" not in self._buffer:
            await self._more()
        head, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        self._buffer = bytearray(rest)
        return head

    async def frame(self, timeout: float = PATIENCE_SECONDS) -> Frame:
        """Return the next frame; raise EOFError at the end, ConnectionResetError on RST, TimeoutError."""
        async with asyncio.timeout(timeout):
            while (found := self._take()) is None:
                await self._more()
            return found

    async def message(self, timeout: float = PATIENCE_SECONDS) -> dict[str, Any]:
        """Return the next JSON message; answer pings meanwhile. A close frame is answered, too, and raises `Closed`."""
        async with asyncio.timeout(timeout):
            while True:
                found = await self.frame(timeout)
                if found.opcode == TEXT:
                    message: dict[str, Any] = json.loads(found.payload)
                    self.texts.append(message)
                    return message
                if found.opcode == PING:
                    await self.send(frame(PONG, found.payload))
                elif found.opcode == CLOSE:
                    with contextlib.suppress(OSError):  # the server may have gone right after it
                        await self.send(frame(CLOSE, found.payload[:2]))
                    raise Closed(*_closed(found))

    async def until(
        self, is_it: str | Callable[[dict[str, Any]], bool], timeout: float = PATIENCE_SECONDS
    ) -> dict[str, Any]:
        """Return the next message of a type, or the next one that is it; the others are in `texts`."""
        async with asyncio.timeout(timeout):
            while True:
                message = await self.message(timeout)
                if message["type"] == is_it if isinstance(is_it, str) else is_it(message):
                    return message

    async def ask(
        self, kind: str, data: Mapping[str, Any] | None = None, timeout: float = PATIENCE_SECONDS, **more: Any
    ) -> dict[str, Any]:
        """Send a command with an id and return its answer."""
        number = 1000 + len(self.texts)
        await self.send_json(kind, data, id=number, **more)
        return await self.until(lambda message: message.get("reply_to") == number, timeout)

    async def lives(self) -> bool:
        """Tell whether the connection still answers."""
        answer = await self.ask("ping")
        return bool(answer["type"] == "pong")

    async def closed(self, timeout: float = PATIENCE_SECONDS) -> tuple[int, str]:
        """Wait for the end; return code and reason, `RESET` after an RST, `ENDED` without a close frame.

        Raises TimeoutError when the server does not end the connection.
        """
        async with asyncio.timeout(timeout):
            try:
                while True:
                    await self.message(timeout)
            except Closed as closed:
                return closed.code, closed.reason
            except ConnectionResetError:
                return RESET
            except EOFError:
                return ENDED

    async def gone(self, timeout: float = PATIENCE_SECONDS) -> None:
        """Read until the server has ended the TCP connection."""
        async with asyncio.timeout(timeout):
            try:
                while True:
                    await self._more()
            except (EOFError, ConnectionError):
                return

    async def _more(self) -> None:
        pace = self.bytes_per_second
        size = 65_536 if pace is None else max(1, min(65_536, int(pace / _READS_PER_SECOND)))
        data = await asyncio.get_running_loop().sock_recv(self.sock, size)
        if not data:
            raise EOFError("the server ended the connection")
        self._buffer += data
        if pace is not None:
            await asyncio.sleep(len(data) / pace)

    def _take(self) -> Frame | None:
        """Cut the next whole frame off the buffer; frames of a server are not masked."""
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        length, start = buffer[1], 2
        assert length < 0x80, "a server's frames are not masked"
        if length == 126:
            start = 4
        elif length == 127:
            start = 10
        if start > 2:
            if len(buffer) < start:
                return None
            length = int.from_bytes(buffer[2:start], "big")
        if len(buffer) < start + length:
            return None
        found = Frame(buffer[0] & 0xF, bytes(buffer[start : start + length]), bool(buffer[0] & 0x80))
        del buffer[: start + length]
        return found

    # ---- ending ---------------------------------------------------------------------------------------

    async def say_goodbye(self, code: int = 1000) -> tuple[int, str]:
        """Close as the protocol wants it; return what the server answered."""
        await self.send(frame(CLOSE, struct.pack(">H", code)))
        return await self.closed()

    def close(self) -> None:
        """End with FIN, without a close frame."""
        self.sock.close()

    def reset(self) -> None:
        """End with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.sock.close()


class Closed(EOFError):
    """The server sent a close frame."""

    def __init__(self, code: int, reason: str) -> None:
        self.code = code
        self.reason = reason
        super().__init__(f"closed {code}: {reason}")


def _closed(found: Frame) -> tuple[int, str]:
    if len(found.payload) < 2:
        return 1005, ""
    return int.from_bytes(found.payload[:2], "big"), found.payload[2:].decode("utf-8", "replace")
