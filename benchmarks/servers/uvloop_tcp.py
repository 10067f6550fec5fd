"""uvloop with a protocol class and no web server: prepared frames straight to the transport, nothing checked.

The floor of what a Python process can do here. It does the handshake so that the same generator serves,
and reads frames of the generator only: short, masked, whole.
"""

import asyncio
import json
import struct

import uvloop

from benchmarks.servers.listening import listener
from benchmarks.servers.messages import WELCOME, event

# The generator sends RFC 6455's own example key, so its answer is known.
_ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
_UPGRADED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: " + _ACCEPT + b"\r\n\r\n"
)
_TEXT, _CLOSE = 0x81, 0x88

subscribers: set[asyncio.Transport] = set()


def frame(text: str) -> bytes:
    """Return a text as an unmasked frame."""
    payload = text.encode()
    size = len(payload)
    head = bytes((_TEXT, size)) if size < 126 else struct.pack("!BBH", _TEXT, 126, size)
    return head + payload


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._is_open = False
        self._kept = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        subscribers.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._kept += data
        if not self._is_open:
            _, end, rest = self._kept.partition(b"\r\n\r\n")
            if not end:
                return
            self._is_open, self._kept = True, rest
            self._transport.write(_UPGRADED)
        while (taken := self._next_frame()) is not None:
            self._take(*taken)

    def _next_frame(self) -> tuple[int, bytes] | None:
        kept = self._kept
        size, head = (kept[1] & 0x7F, 2) if len(kept) >= 2 else (0, 2)
        if size == 126 and len(kept) >= 4:
            size, head = struct.unpack_from("!H", kept, 2)[0], 4
        end = head + 4 + size
        if len(kept) < end:
            return None
        mask = kept[head : head + 4]
        payload = bytes(byte ^ mask[place % 4] for place, byte in enumerate(kept[head + 4 : end]))
        self._kept = kept[end:]
        return kept[0], payload

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == _CLOSE:
            self._transport.write(bytes((_CLOSE, len(payload))) + payload)
            self._transport.close()
            return
        message = json.loads(payload)
        if message["type"] == "auth":
            subscribers.add(self._transport)
            self._transport.write(frame(WELCOME))
        elif message["type"] == "bench_publish":
            for _ in range(message["data"]["n"]):
                prepared = frame(event())
                for transport in subscribers:
                    transport.write(prepared)


async def main() -> None:
    """Serve until the process is told to end."""
    server = await asyncio.get_running_loop().create_server(Client, sock=listener())
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
