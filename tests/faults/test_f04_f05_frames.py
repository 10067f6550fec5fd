"""Rows F04 and F05: frames that are too large, too many, or against RFC 6455."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.faults.control import control
from tests.faults.faulty_world import World, faulty_world
from tests.faults.raw_socket import BINARY, CLOSE, CONTINUATION, PING, PONG, RESET, TEXT, RawSocket, frame
from tests.proving import amount, measured

pytestmark = pytest.mark.asyncio(loop_scope="module")

KIBIBYTE = 1024


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with faulty_world(tmp_path_factory.mktemp("frames")) as made:
        yield made


async def closed_while_sending(socket: RawSocket, *pieces: bytes) -> tuple[int, str]:
    """Send pieces until the server ends the connection, reading meanwhile; return code and reason."""

    async def send() -> None:
        try:
            for piece in pieces:
                await socket.send(piece)
        except OSError:
            return  # the server has gone: what it said is read beside this

    sending = asyncio.create_task(send())
    try:
        return await socket.closed()
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def test_f04_an_oversize_frame_is_refused_from_its_header(world: World) -> None:
    """A header that claims too much is answered with 1009 before any of its payload is sent; no traceback."""
    async with control(*world.control):
        for claimed in (65_537, 1 << 31, 1 << 40, (1 << 63) - 1):
            async with await world.socket() as socket:
                await socket.send(frame(TEXT, claimed_bytes=claimed))
                assert (await socket.closed())[0] == 1009, claimed


async def test_f04_65_kib_in_fragments_are_refused(world: World) -> None:
    """65 KiB in five fragments are closed 1009; 64 KiB in five fragments are a message like any other."""
    async with control(*world.control):
        async with await world.socket() as socket:
            head = b'{"type":"WEBSOCKET_PING","data":{"filler":"'
            tail = b'"}}'
            whole = head + b"x" * (64 * KIBIBYTE - len(head) - len(tail)) + tail
            for piece in fragments(whole, 5):
                await socket.send(piece)
            assert (await socket.until("WEBSOCKET_PONG"))["data"]["filler"].startswith("xxx")
        async with await world.socket() as socket:
            assert (await closed_while_sending(socket, *fragments(b"x" * 65 * KIBIBYTE, 5)))[0] == 1009


def fragments(payload: bytes, count: int) -> list[bytes]:
    """Cut one text message into fragments."""
    size = -(-len(payload) // count)
    parts = [payload[start : start + size] for start in range(0, len(payload), size)]
    return [
        frame(TEXT if index == 0 else CONTINUATION, part, is_final=index == len(parts) - 1)
        for index, part in enumerate(parts)
    ]


async def test_f04_empty_fragments_are_refused(world: World) -> None:
    """200,000 empty continuation frames are closed 1009, and nobody else waits for them."""
    count = amount(20_000, 200_000)
    async with control(*world.control) as running, await world.socket() as socket:
        chunk = frame(CONTINUATION, is_final=False) * 1000
        pieces = [frame(TEXT, is_final=False), *[chunk] * (count // 1000)]
        assert (await closed_while_sending(socket, *pieces))[0] == 1009
    measured(f"F04: slowest control message, {count} empty fragments", f"{running.report['slowest']:.3f} s", "1 s")


@pytest.mark.parametrize("opcode", [PING, PONG])
async def test_f04_a_flood_of_control_frames_is_refused(world: World, opcode: int) -> None:
    """200,000 pings or pongs are closed 4029, before as after authentication; so many as are allowed are answered."""
    count, burst = amount(20_000, 200_000), 60
    chunk = frame(opcode, b"x") * 1000
    async with control(*world.control) as running:
        async with await world.socket() as socket:
            assert await closed_while_sending(socket, *[chunk] * (count // 1000)) == (4029, "too many pings and pongs")
        async with await RawSocket.connect(world.server.url) as socket:
            assert await socket.upgrade() == 101
            await socket.send(frame(opcode, b"x") * 2 * burst)
            frames = [await socket.frame()]
            while frames[-1].opcode != CLOSE:
                frames.append(await socket.frame())
            assert int.from_bytes(frames[-1].payload[:2], "big") == 4029
            assert [one.opcode for one in frames[:-1]] == ([PONG] * burst if opcode == PING else [])
    kind = {PING: "pings", PONG: "pongs"}[opcode]
    measured(f"F04: slowest control message, {count} {kind}", f"{running.report['slowest']:.3f} s", "1 s")


async def test_f04_a_message_in_64_fragments_is_taken(world: World) -> None:
    """64 fragments are one message; the 65th is closed 1009."""
    message = json.dumps({"type": "ping", "data": {"filler": "x" * 64}}).encode().ljust(128)
    async with control(*world.control):
        async with await world.socket() as socket:
            for piece in fragments(message, 64):
                await socket.send(piece)
            assert (await socket.until("pong"))["type"] == "pong"
        async with await world.socket() as socket:
            assert (await closed_while_sending(socket, *fragments(message.ljust(130), 65)))[0] == 1009


WRONG = {
    "invalid UTF-8": (frame(TEXT, b'{"type":"ping","data":{"x":"\xc3\x28"}}'), 1007),
    "a surrogate in UTF-8": (frame(TEXT, b'{"type":"ping","data":{"x":"\xed\xa0\x80"}}'), 1007),
    "cut inside a code point": (frame(TEXT, b'{"type":"ping","data":{}}\xe2\x82'), 1007),
    "unmasked": (frame(TEXT, b'{"type":"ping"}', is_masked=False), 1002),
    "reserved bits": (frame(TEXT, b'{"type":"ping"}', reserved=0b100), 1002),
    "a reserved opcode": (frame(0x3, b"?"), 1002),
    "a continuation of nothing": (frame(CONTINUATION, b"x"), 1002),
    "a fragmented ping": (frame(PING, b"x", is_final=False), 1002),
    "a ping of 126 bytes": (frame(PING, b"x" * 126), 1002),
    "binary": (frame(BINARY, b'{"type":"ping"}'), 1003),
}


async def test_f05_wrong_frames_have_their_codes(world: World) -> None:
    """Invalid UTF-8 1007; unmasked 1002; reserved bits 1002; binary 1003: before authentication as after it."""
    async with control(*world.control):
        for what, (wrong, code) in WRONG.items():
            async with await world.socket() as socket:
                await socket.send(wrong)
                assert (await socket.closed())[0] == code, what
            async with await RawSocket.connect(world.server.url) as socket:
                assert await socket.upgrade() == 101
                await socket.send(wrong)
                assert (await socket.closed())[0] == code, f"{what}, before authentication"


async def test_f05_text_split_inside_a_code_point_is_fine(world: World) -> None:
    """Text whose fragments end inside a code point is one message like any other."""
    async with control(*world.control), await world.socket() as socket:
        text = json.dumps({"type": "WEBSOCKET_PING", "data": {"x": "é€𝄞"}}, ensure_ascii=False).encode()
        for piece in fragments(text, len(text)):
            await socket.send(piece)
        assert (await socket.until("WEBSOCKET_PONG"))["data"] == {"x": "é€𝄞"}


async def test_f05_control_frames_between_fragments_are_answered(world: World) -> None:
    """A ping between two fragments is answered, and the message is whole."""
    async with control(*world.control), await world.socket() as socket:
        first, second = fragments(b'{"type":"ping","data":{}}', 2)
        await socket.send(first + frame(PING, b"between") + second)
        assert (await socket.frame()).payload == b"between"
        assert (await socket.until("pong"))["type"] == "pong"


async def test_f05_bytes_after_the_close_frame_are_ignored(world: World) -> None:
    """What comes after a close frame changes nothing: the connection ends with the client's code."""
    async with control(*world.control), await world.socket() as socket:
        await socket.send(frame(0x8, b"\x03\xe8") + frame(TEXT, b'{"type":"ping"}') * 10)
        assert (await socket.closed()) in ((1000, ""), RESET)
        assert [message["type"] for message in socket.texts] == ["AUTH_LOGIN_SUCCESS"]
