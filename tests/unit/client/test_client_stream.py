"""The event stream against a real socket that follows a script: authentication, subscriptions, reconnects."""

import asyncio
import json
from typing import Any

import pytest

from backend.app.client.errors import ApiError, NotLoggedIn, ServerUnreachable, SocketClosed
from backend.app.client.items import Event, PositionLost, Reconnected, Subscription
from backend.app.client.socket import Closed, Socket, SocketLimits
from backend.app.client.stream import EventStream
from tests.unit.client.peers import QUICK, Peer, Tokens, hold, scripted


def stream(url: str, tokens: Tokens | None = None, **options: Any) -> EventStream:
    return EventStream(url, tokens or Tokens(), [Subscription(("DEPLOYMENT_*",), "d1")], backoff=QUICK, **options)


async def test_the_first_message_authenticates_and_subscribes() -> None:
    """The first message is {"type":"auth","token":…}, with the subscriptions in its data."""

    async def script(peer: Peer) -> None:
        wanted = {"event_type": ["DEPLOYMENT_*"], "deployment_id": "d1"}
        assert await peer.welcome() == {"subscriptions": [wanted]}
        await peer.push("DEPLOYMENT_CREATED", deploymentId="d1")
        await hold(peer)

    async with scripted(script) as url, stream(url) as events:
        event = await anext(events)
    assert isinstance(event, Event)
    assert (event.type, event.data) == ("DEPLOYMENT_CREATED", {"deploymentId": "d1"})


async def test_pushes_between_request_and_reply_are_kept_in_order() -> None:
    """What is pushed while a reply is awaited is an event like any other, in the wire's order."""

    async def script(peer: Peer) -> None:
        await peer.welcome()
        wanted = await peer.receive("subscribe")
        await peer.push("A", n=1)
        await peer.reply(wanted, "subscribed")
        await peer.push("B", n=2)
        await hold(peer)

    async with scripted(script) as url, stream(url) as events:
        await events.subscribe("*")
        types = [(await anext(events)).type for _ in range(2)]  # type: ignore[union-attr]
    assert types == ["A", "B"]


@pytest.mark.parametrize("code", [1012, 4000, 4008, 4012, 4029, 4499])
async def test_these_codes_are_reconnected_and_the_gap_is_told(code: int) -> None:
    """1012 and 4000–4499: reconnect with back-off; it re-subscribes and says that events may have been missed."""

    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.push("A")
        await peer.close(code)

    async def second(peer: Peer) -> None:
        (wanted,) = (await peer.welcome())["subscriptions"]
        assert wanted["deployment_id"] == "d1"
        await peer.push("B")
        await hold(peer)

    lost: list[str] = []
    async with (
        scripted(first, second) as url,
        stream(url, on_lost=lambda reason, seconds: lost.append(reason)) as events,
    ):
        items = [await anext(events) for _ in range(4)]
    # Nobody can tell whether a log, of which no line was seen, went on meanwhile.
    assert [type(item) for item in items] == [Event, Reconnected, PositionLost, Event]
    assert lost == [str(code)]


async def test_a_lost_connection_is_made_again() -> None:
    """A connection that breaks without a close is reconnected, too."""

    async def first(peer: Peer) -> None:
        await peer.welcome()
        peer.connection.transport.abort()

    async def second(peer: Peer) -> None:
        await peer.welcome()
        await hold(peer)

    async with scripted(first, second) as url, stream(url) as events:
        assert isinstance(await anext(events), Reconnected)


@pytest.mark.parametrize("code", [4500, 4501, 4503, 4504, 4999, 1003, 1009])
async def test_these_codes_end_the_stream(code: int) -> None:
    """4500–4999: do not reconnect; 1003, 1007, 1009: the client is at fault."""

    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.close(code, "because")

    async with scripted(script) as url, stream(url) as events:
        with pytest.raises(SocketClosed, match="because") as raised:
            await anext(events)
    assert raised.value.code == code


async def test_a_token_that_ran_out_is_refreshed_first() -> None:
    """4009: refresh the token, then reconnect."""

    async def first(peer: Peer) -> None:
        await peer.welcome("t1")
        await peer.close(4009)

    async def second(peer: Peer) -> None:
        await peer.welcome("t2")
        await hold(peer)

    tokens = Tokens()
    async with scripted(first, second) as url, stream(url, tokens) as events:
        assert isinstance(await anext(events), Reconnected)
    assert tokens.rejected == ["t1"]


async def test_a_session_that_ended_is_told() -> None:
    """4009 when there is nothing to refresh with: log in."""

    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.close(4009)

    tokens = Tokens()
    tokens.has_ended = True
    async with scripted(script) as url, stream(url, tokens) as events:
        with pytest.raises(NotLoggedIn):
            await anext(events)


async def test_failed_authentication_is_not_retried() -> None:
    """1008: log in again, do not retry; only a token that may just be old is renewed once."""

    async def refuse(peer: Peer) -> None:
        await peer.receive("auth")
        await peer.close(1008, "Invalid token")

    async with scripted(refuse, refuse) as url:
        with pytest.raises(NotLoggedIn, match="Invalid token"):
            await stream(url).__aenter__()

    async def inactive(peer: Peer) -> None:
        await peer.receive("auth")
        await peer.close(1008, "User not found or inactive")

    async with scripted(inactive) as url:
        with pytest.raises(NotLoggedIn, match="inactive"):
            await stream(url).__aenter__()


async def test_a_refused_subscription_is_an_error_of_the_table() -> None:
    """A missing right or a foreign deployment is listed in the reply to `auth`, and becomes an ApiError."""

    async def script(peer: Peer) -> None:
        refused = {"event_type": ["DEPLOYMENT_*"], "deployment_id": "d1"}
        await peer.welcome(refused=[{**refused, "code": "not_found", "message": "deployment not found"}])
        await hold(peer)

    async with scripted(script) as url:
        with pytest.raises(ApiError, match="deployment not found") as raised:
            await stream(url).__aenter__()
    assert raised.value.code == "not_found"


async def test_no_server_is_told_at_once() -> None:
    """The first connection is not waited for: no server there is an error now."""
    async with scripted() as url:
        pass
    with pytest.raises(ServerUnreachable):
        await stream(url).__aenter__()


async def test_reconnecting_is_bounded() -> None:
    """With a limit, a server that stays away ends the stream."""

    async def script(peer: Peer) -> None:
        await peer.welcome()
        peer.connection.transport.abort()

    async with scripted(script) as url:
        events = stream(url, give_up_seconds=0.05)
        await events.__aenter__()
    with pytest.raises(ServerUnreachable, match="away for"):
        await anext(events)
    await events.__aexit__(None, None, None)


async def test_a_fresh_token_is_sent_when_the_server_asks() -> None:
    """60 s before the token ends: SESSION_AUTH_REQUIRED; a fresh `auth` in the same socket keeps it."""
    renewed = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.welcome("t1")
        await peer.push("SESSION_AUTH_REQUIRED", reason="token ends")
        auth = await peer.receive("auth")
        assert auth["token"] == "t2"
        await peer.reply(auth, "AUTH_TOKEN_REFRESH", userId="u1")
        renewed.set()
        await hold(peer)

    async with scripted(script) as url, stream(url):
        async with asyncio.timeout(5):
            await renewed.wait()


async def test_a_restarting_server_says_when_to_come_back() -> None:
    """1012 after `server_restarting`: reconnect after retryAfterMs."""
    waits: list[float] = []

    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.push("WEBSOCKET_ERROR", code="server_restarting", message="m", details={"retryAfterMs": 7000})
        await peer.close(1012)

    async def second(peer: Peer) -> None:
        await peer.welcome()
        await hold(peer)

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async with scripted(first, second) as url, stream(url, sleep=sleep) as events:
        assert isinstance(await anext(events), Event)
        assert isinstance(await anext(events), Reconnected)
    assert waits == [7.0]


async def test_a_subscription_made_later_survives_a_reconnect() -> None:
    """All subscriptions are made again after a reconnect, the removed ones are not."""

    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.subscribed()
        await peer.reply(await peer.receive("unsubscribe"), "unsubscribed")
        await peer.close(1012)

    async def second(peer: Peer) -> None:
        assert (await peer.welcome())["subscriptions"] == [{"event_type": ["NOTIFICATION_SENT"]}]
        await hold(peer)

    async with scripted(first, second) as url, stream(url) as events:
        await events.subscribe("NOTIFICATION_SENT")
        await events.unsubscribe("DEPLOYMENT_*", deployment_id="d1")
        assert isinstance(await anext(events), Reconnected)


async def test_a_cancelled_wait_takes_no_event_with_it() -> None:
    """Cancelling the iteration loses nothing."""
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.welcome()
        await go.wait()
        await peer.push("A")
        await hold(peer)

    async with scripted(script) as url, stream(url) as events:
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        go.set()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        async with asyncio.timeout(5):
            event = await anext(events)
    assert isinstance(event, Event)
    assert event.type == "A"


async def test_the_client_pings_and_notices_silence() -> None:
    """The client sends its own `ping`; a server from which nothing comes any more counts as lost."""
    pinged = asyncio.Event()

    async def script(peer: Peer) -> None:
        auth = await peer.receive("auth")
        await peer.reply(auth, "AUTH_LOGIN_SUCCESS")
        while json.loads(await peer.connection.recv())["type"] == "ping":
            pinged.set()

    limits = SocketLimits(ping_seconds=0.02, silence_seconds=0.1)

    async with scripted(script) as url:
        socket = await Socket.open(url, "t1", limits)
        async with asyncio.timeout(5):
            await pinged.wait()
            with pytest.raises(Closed, match="nothing came"):
                await socket.next()
        await socket.close()


async def test_memory_is_bounded_when_nobody_reads() -> None:
    """The queue is bounded: when nobody takes events, the socket is not read any further, and nothing is lost."""
    count = 2000

    async def script(peer: Peer) -> None:
        await peer.welcome()
        for number in range(count):
            await peer.push("A", n=number, filler="x" * 1000)
        await hold(peer)

    async with scripted(script) as url:
        socket = await Socket.open(url, "t1", SocketLimits(queue_messages=10))
        first = await socket.next()
        assert len(socket._pushes) <= 10
        numbers = [first["data"]["n"]] + [(await socket.next())["data"]["n"] for _ in range(count - 1)]
        await socket.close()
    assert numbers == list(range(count))
