"""Rows F07 to F10: text that is no message, values that break codecs, commands out of place, and too many of them."""

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.faults.control import control
from tests.faults.faulty_world import World, faulty_world
from tests.faults.raw_socket import TEXT, RawSocket, frame
from tests.proving import amount, measured

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """A server whose message limit lets nesting of 100,000 through."""
    async with faulty_world(tmp_path_factory.mktemp("messages"), {"MAX_MESSAGE_BYTES": "400000"}) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def limited(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """A server with the inbound limits as they are by default."""
    settings = {"INBOUND_PER_MINUTE": "100", "INBOUND_BURST": "50"}
    async with faulty_world(tmp_path_factory.mktemp("limited"), settings) as made:
        yield made


async def error_of(socket: RawSocket, text: bytes) -> dict[str, Any]:
    """Send a text; return the data of the WEBSOCKET_ERROR that answers it."""
    await socket.send(frame(TEXT, text))
    answer = await socket.message()
    assert answer["type"] == "WEBSOCKET_ERROR", answer
    data: dict[str, Any] = answer["data"]
    return data


NO_MESSAGE = {
    "garbage": (b"\x00\x01 no json {{{", "invalid_json"),
    "an array": (b'["ping"]', "invalid_message"),
    "a number": (b"42", "invalid_message"),
    "null": (b"null", "invalid_message"),
    "a string": (b'"ping"', "invalid_message"),
    "empty": (b"", "invalid_json"),
    "blanks": (b"  \n ", "invalid_json"),
    "truncated": (b'{"type":"ping","data":{', "invalid_json"),
    "two values": (b'{"type":"ping"}{"type":"ping"}', "invalid_json"),
    "a byte order mark": (b'\xef\xbb\xbf{"type":"ping"}', "invalid_json"),
    "no type": (b'{"data":{}}', "invalid_message"),
    "an empty type": (b'{"type":""}', "invalid_message"),
    "data that is no object": (b'{"type":"ping","data":[]}', "invalid_message"),
}


async def test_f07_what_is_no_message_is_answered_and_the_connection_lives(world: World) -> None:
    """Garbage, array, number, empty, truncated, two values, BOM: `invalid_json` or `invalid_message`; it lives."""
    async with control(*world.control), await world.socket() as socket:
        for what, (text, code) in NO_MESSAGE.items():
            assert (await error_of(socket, text))["code"] == code, what
            assert await socket.lives(), what


HARMLESS_OR_DOCUMENTED = {
    "nested 100,000 deep": b'{"type":"WEBSOCKET_PING","data":{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    "objects nested 30,000 deep": b'{"type":"WEBSOCKET_PING","data":' + b'{"x":' * 30_000 + b"1" + b"}" * 30_001,
    "NaN": b'{"type":"WEBSOCKET_PING","data":{"x":NaN}}',
    "Infinity": b'{"type":"WEBSOCKET_PING","data":{"x":-Infinity}}',
    "1e999": b'{"type":"WEBSOCKET_PING","data":{"x":1e999}}',
    "a lone surrogate": b'{"type":"WEBSOCKET_PING","data":{"x":"\\ud800"}}',
    "a lone surrogate as key": b'{"type":"WEBSOCKET_PING","data":{"\\udfff":1}}',
    "NUL": b'{"type":"WEBSOCKET_PING","data":{"x":"\\u0000"}}',
    "__proto__": b'{"type":"WEBSOCKET_PING","data":{"__proto__":{"isAdmin":true},"constructor":1}}',
    "a number of 5,000 digits": b'{"type":"WEBSOCKET_PING","data":{"x":' + b"9" * 5_000 + b"}}",
    "2**64": b'{"type":"WEBSOCKET_PING","data":{"x":18446744073709551616}}',
    "the same key twice": b'{"type":"WEBSOCKET_PING","type":"WEBSOCKET_PING","data":{"x":1},"data":{"x":2}}',
    "an id of 5,000 digits": b'{"type":"ping","id":' + b"1" * 5_000 + b"}",
    "an id that is an object": b'{"type":"ping","id":{}}',
    "an id that is true": b'{"type":"ping","id":true}',
    "NUL as event type": b'{"type":"subscribe","data":{"event_type":"\\u0000"}}',
    "a lone surrogate as event type": b'{"type":"subscribe","data":{"event_type":"\\ud800"}}',
    "a lone surrogate as type": b'{"type":"\\ud800"}',
    "NUL as deployment": b'{"type":"deployment_logs","data":{"deployment_id":"\\u0000"}}',
    "a lone surrogate as token": b'{"type":"auth","data":{"token":"\\ud800"}}',
    "NUL as token": b'{"type":"auth","data":{"token":"a\\u0000b"}}',
    "NUL as notification": b'{"type":"NOTIFICATION_READ","data":{"notificationIds":["\\u0000"]}}',
    "a huge number as notification": b'{"type":"NOTIFICATION_READ","data":{"notificationIds":[' + b"9" * 5000 + b"]}}",
}
DOCUMENTED = {
    "invalid_json", "invalid_message", "invalid_payload", "unknown_type", "not_found", "not_authenticated",
    "invalid_credentials", "forbidden",
}  # fmt: skip


@pytest.mark.parametrize("what", HARMLESS_OR_DOCUMENTED)
async def test_f08_odd_values_are_answered(world: World, what: str) -> None:
    """Depth 100,000, NaN, lone surrogates, NUL, `__proto__`, huge integers, double keys: never a 1011, no silence."""
    async with await world.socket() as socket:
        await socket.send(frame(TEXT, HARMLESS_OR_DOCUMENTED[what]))
        answer = await socket.message()
        if answer["type"] == "WEBSOCKET_ERROR":
            assert answer["data"]["code"] in DOCUMENTED, answer
        else:
            assert answer["type"] in ("WEBSOCKET_PONG", "pong", "published"), answer
        assert await socket.lives()


async def test_f08_odd_values_reach_no_receiver(world: World) -> None:
    """What one user publishes with odd values ends no other user's connection, and nothing of it stays in the log."""
    odd = [b'"\\ud800"', b'"a\\u0000b"', b"NaN", b"9" * 5_000, b"[" * 5_000 + b"]" * 5_000, b'{"__proto__":1}']
    async with control(*world.control), await world.socket("polite") as receiver:
        await receiver.ask("subscribe", {"event_type": "*"})
        async with world.server.client(world.tokens["rude"]) as client:
            headers = {"Content-Type": "application/json"}
            for value in odd:
                for body in (
                    b'{"title":%b,"message":"m"}' % value,
                    b'{"title":"t","message":%b}' % value,
                ):
                    answer = await client.post("/notifications", content=body, headers=headers)
                    assert answer.status_code in (201, 400, 422), (body[:60], answer.text)
            made = await client.post("/deployments", content=b'{"name":"\\u202e\\ufffe"}', headers=headers)
            assert made.status_code in (201, 400, 422), made.text
        assert await receiver.lives()


async def test_f09_a_command_before_auth_is_closed(world: World) -> None:
    """Whatever comes before `auth` closes 1008 `Authentication required`; so does an `auth` that is none."""
    first = [
        b'{"type":"subscribe","data":{"event_type":"*"}}',
        b'{"type":"ping"}',
        b"ping",
        b"[]",
        b'{"type":"auth","data":[]}',
        b'{"type":"auth","data":{"token":5}}',
        b'{"type":"auth","data":{"token":"x","subscriptions":'
        + json.dumps([{"event_type": "*"}] * 10_000).encode()
        + b"}}",
    ]
    async with control(*world.control):
        for text in first:
            async with await RawSocket.connect(world.server.url) as socket:
                assert await socket.upgrade() == 101
                await socket.send(frame(TEXT, text))
                assert await socket.closed() == (1008, "Authentication required"), text[:80]


MISUSED: list[tuple[str, dict[str, Any], str]] = [
    ("no_such_command", {}, "unknown_type"),
    ("NO_SUCH_EVENT", {}, "unknown_type"),
    ("Subscribe", {}, "unknown_type"),
    ("subscribe", {}, "invalid_message"),
    ("subscribe", {"event_type": 5}, "invalid_message"),
    ("subscribe", {"event_type": None}, "invalid_message"),
    ("subscribe", {"event_type": []}, "invalid_message"),
    ("subscribe", {"event_type": ["DEPLOYMENT_CREATED"] * 10_000}, "invalid_message"),
    ("subscribe", {"event_type": "NO_SUCH_EVENT"}, "unknown_type"),
    ("subscribe", {"event_type": "NO_SUCH_*"}, "unknown_type"),
    ("subscribe", {"event_type": "*", "more": 1}, "invalid_message"),
    ("subscribe", {"event_type": "*", "deployment_id": 5}, "invalid_message"),
    ("subscribe", {"event_type": "*", "deployment_id": "x" * 10_000}, "invalid_message"),
    ("unsubscribe", {"event_type": {"a": 1}}, "invalid_message"),
    ("deployment_logs", {"deployment_id": ["a"]}, "invalid_message"),
    ("deployment_logs", {"deployment_id": "nobody's"}, "not_found"),
    ("auth", {"token": 5}, "invalid_message"),
    ("auth", {}, "invalid_message"),
    ("NOTIFICATION_READ", {"notificationIds": "all"}, "invalid_payload"),
    ("NOTIFICATION_READ", {"notificationIds": ["x"] * 10_000}, "invalid_payload"),
    ("DEPLOYMENT_STATUS_CHANGED", {}, "not_sendable"),
    ("SESSION_EXPIRED", {}, "not_sendable"),
]


async def test_f09_misused_commands_are_answered(world: World) -> None:
    """Unknown type, wrong field types, lists of 10,000: a documented error, never silence; the connection lives."""
    async with control(*world.control), await world.socket() as socket:
        for kind, data, code in MISUSED:
            answer = await socket.ask(kind, data)
            shown = f"{kind} {str(data)[:60]}"
            assert answer["type"] == "WEBSOCKET_ERROR", (shown, answer)
            assert answer["data"]["code"] == code, (shown, str(answer)[:300])
            assert len(json.dumps(answer)) < 65_536, shown
            assert await socket.lives(), shown


async def test_f10_too_many_messages_are_refused_then_closed(limited: World) -> None:
    """100 messages a second: `rate_limited` first, then 4029 after 100 refused ones; others do not feel it."""
    async with control(*limited.control), await limited.socket() as socket:
        sent = 0
        async for code in flood(socket, b'{"type":"ping"}', amount(400, 6_000)):
            sent += 1
            if code:
                break
        refused = [message for message in socket.texts if message["type"] == "WEBSOCKET_ERROR"]
        assert {message["data"]["code"] for message in refused} == {"rate_limited"}
        assert sum(message["type"] == "pong" for message in socket.texts) >= 50  # the burst was served
        assert code == 4029
        assert len(refused) >= 100
    measured("F10: messages until 4029 at 100 a minute, burst 50", str(sent), "50 served, 100 refused")


async def test_f10_21_malformed_messages_are_closed(limited: World) -> None:
    """20 malformed messages in a minute are answered, the 21st closes 4501."""
    async with control(*limited.control), await limited.socket() as socket:
        answers = 0
        async for code in flood(socket, b"{", 30):
            if code:
                break
            answers += 1
        assert code == 4501
        refused = [message for message in socket.texts if message["type"] == "WEBSOCKET_ERROR"]
        assert len(refused) in (20, 21)  # whether the last one is answered before the close is open
        assert {message["data"]["code"] for message in refused} == {"invalid_json"}


async def flood(socket: RawSocket, text: bytes, count: int) -> AsyncIterator[int]:
    """Send a message up to `count` times, waiting for each answer; yield 0, or the code of the close that came."""
    for _ in range(count):
        with contextlib.suppress(OSError):  # closed already: the code is still to be read
            await socket.send(frame(TEXT, text))
        try:
            await socket.message()
        except EOFError as ended:
            yield getattr(ended, "code", 0) or 1006
            return
        yield 0
