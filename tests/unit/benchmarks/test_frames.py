"""The parser of the load generator: frames come out as they were written, wherever the bytes are split."""

import ctypes
import itertools
import struct
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.build import build

pytestmark = [pytest.mark.compiler, pytest.mark.usefixtures("compiler")]

TEXT, CLOSE, PING = 1, 8, 9
BORDERS = (0, 1, 125, 126, 127, 65_535, 65_536, 70_000)

_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_ubyte), ctypes.c_size_t)


class _Parser(ctypes.Structure):
    _fields_ = (("kept", ctypes.c_void_p), ("length", ctypes.c_size_t), ("capacity", ctypes.c_size_t))


def frame(opcode: int, payload: bytes, mask: bytes = b"") -> bytes:
    """Write one frame as RFC 6455, 5.2 says, independently of the C code."""
    bit = 0x80 if mask else 0
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, bit | size))
    elif size < 65_536:
        head = struct.pack("!BBH", 0x80 | opcode, bit | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, bit | 127, size)
    return head + mask + (bytes(b ^ mask[i % 4] for i, b in enumerate(payload)) if mask else payload)


def parse(pieces: Iterable[bytes]) -> list[tuple[int, bytes]]:
    """Feed pieces one by one; return the frames, raise ValueError where the parser refuses."""
    library = ctypes.CDLL(str(build("frames.so")))
    found: list[tuple[int, bytes]] = []

    def take(_: object, opcode: int, payload: "ctypes._Pointer[ctypes.c_ubyte]", length: int) -> None:
        found.append((opcode, ctypes.string_at(payload, length)))

    parser, handler = _Parser(), _HANDLER(take)
    try:
        for piece in pieces:
            data = ctypes.create_string_buffer(piece, len(piece))
            if library.frames_feed(ctypes.byref(parser), data, ctypes.c_size_t(len(piece)), handler, None):
                raise ValueError("refused")
    finally:
        library.frames_reset(ctypes.byref(parser))
    return found


def split(data: bytes, places: Iterable[int]) -> list[bytes]:
    """Cut bytes at some places."""
    cuts = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(cuts)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from((TEXT, CLOSE, PING)), st.sampled_from(BORDERS)), max_size=5),
    st.lists(st.integers(0, 2**20), max_size=8),
    st.sampled_from((b"", b"\x37\xfa\x21\x3d")),
)
def test_frames_survive_any_split(frames: list[tuple[int, int]], places: list[int], mask: bytes) -> None:
    """Frames with lengths of 7, 16 and 64 bits, several in one read or one in several, come out whole and in order."""
    written = [(opcode, bytes(i % 251 for i in range(size))) for opcode, size in frames]
    stream = b"".join(frame(opcode, payload, mask) for opcode, payload in written)
    assert parse(split(stream, places)) == written


def test_byte_by_byte() -> None:
    """The head itself may come in pieces."""
    written = [(TEXT, b"x" * 300), (PING, b""), (TEXT, b"y" * 126)]
    stream = b"".join(frame(*each) for each in written)
    assert parse(stream[i : i + 1] for i in range(len(stream))) == written


@pytest.mark.parametrize(
    "refused",
    [
        pytest.param(b"\x01\x01x", id="not the last fragment"),
        pytest.param(b"\x80\x01x", id="a continuation"),
        pytest.param(b"\xc1\x01x", id="compressed"),
        pytest.param(struct.pack("!BBQ", 0x81, 127, 2**20 + 1), id="more than 1 MiB"),
    ],
)
def test_what_is_not_measured_is_refused(refused: bytes) -> None:
    """The generator takes no fragments, no extensions and no giant frames: it fails instead of counting wrongly."""
    with pytest.raises(ValueError, match="refused"):
        parse([frame(TEXT, b"before"), refused])


@pytest.mark.parametrize("size", BORDERS)
@pytest.mark.parametrize("is_masked", [False, True])
def test_written_frames_are_those_of_the_standard(size: int, is_masked: bool) -> None:
    """What the generator and the floor write is a frame of RFC 6455, masked by the client and by nobody else."""
    library = ctypes.CDLL(str(build("frames.so")))
    library.frames_write.restype = ctypes.c_size_t
    payload = bytes(i % 251 for i in range(size))
    out = ctypes.create_string_buffer(size + 14)
    written = library.frames_write(out, TEXT, payload, ctypes.c_size_t(size), int(is_masked))
    expected = frame(TEXT, payload, b"\x37\xfa\x21\x3d" if is_masked else b"")
    assert out.raw[:written] == expected
