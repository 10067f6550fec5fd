"""Resuming against a socket that follows a script: what is sent, what is dropped, what is told as lost."""

import json
from typing import Any

import pytest

from backend.app.client.errors import ApiError
from backend.app.client.items import CatchingUp, CaughtUp, Event, PositionLost, Reconnected, Subscription
from backend.app.client.socket import Socket, SocketLimits
from tests.unit.client.peers import Peer, hold, scripted
from tests.unit.client.streams import AT, LOG, at, make, take, told


async def test_it_goes_on_after_the_last_event_and_drops_what_it_has() -> None:
    """Replayed from the client's position, once: all subscriptions go into the auth message, with the positions."""

    async def first(peer: Peer) -> None:
        assert "positions" not in await peer.welcome(positions=AT)
        await peer.event(11)
        await peer.event(14)
        await peer.close(1012)

    async def second(peer: Peer) -> None:
        auth = await peer.welcome(positions=at(14))
        assert auth == {"positions": at(14), "subscriptions": [{"event_type": ["A"]}]}
        await peer.push("catching_up", stream="org:1", behind=2)
        for number in (11, 14, 15, 15, 17):
            await peer.event(number)
        await peer.push("caught_up", stream="org:1", positions=at(19))
        await hold(peer)

    async with scripted(first, second) as url, make(url) as events:
        items = await take(events, 7)
        assert events.positions == at(19)
    assert isinstance(items[2], Reconnected)
    assert items[2].is_resumed
    assert told([*items[:2], *items[3:]]) == [11, 14, CatchingUp("org:1", 2), 15, 17, CaughtUp("org:1")]


async def test_positions_are_raised_by_what_comes_behind_the_events() -> None:
    """Positions on pongs and pushes raise, within an epoch; those of `subscribed` do not (R2)."""

    async def script(peer: Peer) -> None:
        await peer.welcome(positions=AT)
        await peer.event(12)
        await peer.push("pong", positions=at(11))
        await peer.event(13)
        await peer.push("positions", positions=at(20))
        await peer.event(20)
        await peer.push("pong", positions=at(99, "other"))
        await peer.event(21)
        await peer.subscribed(positions={**at(50), "org:2": {"epoch": "f", "offset": 5}})
        await hold(peer)

    async with scripted(script) as url, make(url) as events:
        seen = []
        for _ in range(3):
            (item,) = await take(events, 1)
            assert isinstance(item, Event)
            seen.append((item.offset, events.positions["org:1"]["offset"]))
        await events.subscribe("B", organization_id="2")
        assert events.positions == {**at(21), "org:2": {"epoch": "f", "offset": 5}}
    assert seen == [(12, 12), (13, 13), (21, 21)]


async def test_the_stream_of_an_earlier_program_is_continued() -> None:
    """Positions can be saved and given: streams go on after them, followed logs at their line."""

    async def script(peer: Peer) -> None:
        auth = await peer.welcome(positions=AT)
        assert auth["positions"] == AT
        assert auth["subscriptions"][1]["from_line"] == 73_512
        await peer.lines(73_512, "x")
        await hold(peer)

    saved = json.loads(json.dumps({**AT, "log:d1": {"line": 73_512}, "log:d9": {"line": 3}}))
    async with scripted(script) as url, make(url, Subscription(("A",)), LOG, positions=saved) as events:
        assert told(await take(events, 1)) == [(73_512, "x")]
        assert events.positions == {**AT, "log:d1": {"line": 73_513}}


@pytest.mark.parametrize("bad", [{"org:1": 5}, {"org:1": {"epoch": "e", "offset": -1}}, {"log:d1": {"line": "1"}}])
def test_positions_that_are_none_are_refused_by_name(bad: dict[str, Any]) -> None:
    """Bad input gets a message naming field and rule."""
    with pytest.raises(ValueError, match=f"positions: {next(iter(bad))}: "):
        make("http://127.0.0.1:1", positions=bad)


async def test_a_lost_position_is_told_and_replaced() -> None:
    """`position_lost`: the client tells its user and goes on from what the server says, even where that is lower."""

    async def first(peer: Peer) -> None:
        await peer.welcome(positions=AT)
        await peer.close(1012)

    async def second(peer: Peer) -> None:
        await peer.welcome(positions=at(3, "new"))
        await peer.push("position_lost", stream="org:1", reason="epoch", lost=AT["org:1"], positions=at(3, "new"))
        await peer.event(4)
        await hold(peer)

    async with scripted(first, second) as url, make(url) as events:
        items = await take(events, 3)
        assert events.positions == at(4, "new")
    assert isinstance(items[0], Reconnected)
    assert not items[0].is_resumed
    assert told(items[1:]) == [PositionLost("org:1", "epoch", AT["org:1"], at(3, "new")["org:1"]), 4]


async def test_a_connection_that_ends_before_the_loss_was_told_loses_nothing() -> None:
    """The reply to `auth` does not raise a position: what was not replayed is asked for again."""

    async def first(peer: Peer) -> None:
        await peer.welcome(positions=AT)
        await peer.close(1012)

    async def second(peer: Peer) -> None:
        await peer.welcome(positions=at(30))
        await peer.close(1012)

    async def third(peer: Peer) -> None:
        assert (await peer.welcome(positions=AT))["positions"] == AT
        await hold(peer)

    async with scripted(first, second, third) as url, make(url) as events:
        await take(events, 2)


async def test_a_server_that_does_not_resume_is_told() -> None:
    """WEBSOCKET_ERROR unsupported for positions: it goes on from the server's, and its user reads the state again."""

    async def first(peer: Peer) -> None:
        await peer.welcome(positions=AT)
        await peer.close(1012)

    async def second(peer: Peer) -> None:
        await peer.welcome(positions=at(30))
        await peer.push("WEBSOCKET_ERROR", code="unsupported", message="positions: not offered yet", details=None)
        await peer.event(31)
        await hold(peer)

    async with scripted(first, second) as url, make(url) as events:
        items = await take(events, 3)
    assert told(items[1:]) == [PositionLost("org:1", "unsupported", AT["org:1"], at(30)["org:1"]), 31]


async def test_a_stream_without_a_position_from_before_is_told() -> None:
    """A stream that began while the connection was away: nobody can tell what of it was missed."""

    async def first(peer: Peer) -> None:
        await peer.welcome(positions={})
        await peer.event(1)
        await peer.receive_ping()
        await peer.close(1012)

    async def second(peer: Peer) -> None:
        await peer.welcome(positions={**at(2), "system": {"epoch": "s", "offset": 0}})
        await hold(peer)

    async with scripted(first, second) as url, make(url) as events:
        items = await take(events, 3)
    assert told(items) == [1, items[1], PositionLost("org:1", "unknown", None, at(2)["org:1"])]


async def test_the_epoch_of_a_new_stream_is_asked_for() -> None:
    """The first event of a stream has no epoch: a `pong` brings it, and the stream can be resumed."""

    async def first(peer: Peer) -> None:
        await peer.welcome(positions={})
        for number in (1, 2, 3):
            await peer.event(number)
        await peer.receive_ping()
        await peer.push("pong", positions=at(2))
        await peer.close(1012)

    async def second(peer: Peer) -> None:
        assert (await peer.welcome(positions=at(3)))["positions"] == at(3)
        await hold(peer)

    async with scripted(first, second) as url, make(url) as events:
        assert told(await take(events, 4))[:3] == [1, 2, 3]


async def test_a_refusal_that_passes_is_tried_again() -> None:
    """A database that is away for a moment ends nothing."""
    refusal = {"event_type": ["A"], "code": "storage_unavailable", "message": "later"}

    async def first(peer: Peer) -> None:
        await peer.welcome(positions=AT)
        await peer.close(1012)

    async def second(peer: Peer) -> None:
        await peer.welcome(positions=AT, refused=[refusal])
        await hold(peer)

    async def third(peer: Peer) -> None:
        await peer.welcome(positions=AT, refused=[{**refusal, "code": "not_found"}])
        await hold(peer)

    async with scripted(first, second, third) as url, make(url) as events:
        with pytest.raises(ApiError, match="not_found"):
            await take(events, 1)


async def test_a_reply_behind_more_than_the_queue_holds_comes() -> None:
    """A command in the middle of a replay does not wait for a consumer that waits for it."""

    async def script(peer: Peer) -> None:
        await peer.welcome(positions=AT)
        wanted = await peer.receive("subscribe")
        for number in range(11, 111):
            await peer.event(number)
        await peer.reply(wanted, "subscribed")
        await hold(peer)

    async with scripted(script) as url, make(url, limits=SocketLimits(queue_messages=5)) as events:
        await events.subscribe("B")
        assert told(await take(events, 100)) == list(range(11, 111))


async def test_memory_is_bounded_in_bytes_too() -> None:
    """Pages of lines are large: what waits for the consumer is bounded by size."""

    async def script(peer: Peer) -> None:
        await peer.welcome()
        for number in range(200):
            await peer.push("A", n=number, filler="x" * 100_000)
        await hold(peer)

    async with scripted(script) as url:
        socket = await Socket.open(url, "t1", SocketLimits(queue_bytes=1_000_000))
        numbers = []
        for _ in range(200):
            numbers.append((await socket.next())["data"]["n"])
            assert socket._queued_bytes <= 1_200_000
        await socket.close()
    assert numbers == list(range(200))
