"""Prepared WebSocket frames (RFC 6455, section 5.2). Pure: bytes in, bytes out.

A server's frames are unmasked, so one event is the same bytes for every client: it is framed once.
"""

import struct
from collections.abc import Iterator

_TEXT = 0x81
"""FIN and opcode 1."""
_SHORT = 125
_TWO_BYTES = 126
_EIGHT_BYTES = 127


def text_frame(payload: bytes) -> bytes:
    """Return one unmasked text frame; `payload` is UTF-8."""
    size = len(payload)
    if size <= _SHORT:
        head = bytes((_TEXT, size))
    elif size < 65_536:
        head = struct.pack("!BBH", _TEXT, _TWO_BYTES, size)
    else:
        head = struct.pack("!BBQ", _TEXT, _EIGHT_BYTES, size)
    return head + payload


def texts_of(frames: bytes) -> Iterator[str]:
    """Yield the text of each frame that `text_frame` made: for servers that take messages, not frames."""
    at = 0
    while at < len(frames):
        size, at = frames[at + 1], at + 2
        if size == _TWO_BYTES:
            (size,), at = struct.unpack_from("!H", frames, at), at + 2
        elif size == _EIGHT_BYTES:
            (size,), at = struct.unpack_from("!Q", frames, at), at + 8
        yield frames[at : at + size].decode()
        at += size
