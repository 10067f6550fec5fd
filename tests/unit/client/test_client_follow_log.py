"""Following a log against a socket that follows a script: the exact line, overlaps, gaps, tails, refused lines."""

from typing import Any

import pytest

from backend.app.client.items import Event, PositionLost, Reconnected, Subscription
from tests.unit.client.peers import Peer, hold, scripted
from tests.unit.client.streams import LOG, make, take, told


async def test_a_log_goes_on_at_the_line_and_overlaps_are_trimmed() -> None:
    """A followed log resumes with `from_line`; lines that are there already are dropped by number."""

    async def first(peer: Peer) -> None:
        assert (await peer.welcome())["subscriptions"][0]["from_line"] == 1
        await peer.lines(1, "a", "b")
        await peer.push(
            "DEPLOYMENT_LOGS_UPDATE", deploymentId="d1", firstLine=2, logs=["b", "c"], times=["t2", "t3"], levels=[1, 2]
        )
        await peer.close(1012)

    async def second(peer: Peer) -> None:
        assert (await peer.welcome())["subscriptions"][0]["from_line"] == 4
        await peer.lines(3, "c")
        await peer.lines(3, "c", "d")
        await hold(peer)

    async with scripted(first, second) as url, make(url, LOG) as events:
        items = await take(events, 4)
        assert events.next_line("d1") == 5
    assert told([*items[:2], items[3]]) == [(1, "a"), (2, "b"), (3, "c"), (4, "d")]
    assert isinstance(items[1], Event)
    assert (items[1].data["times"], items[1].data["levels"]) == (["t3"], [2])


async def test_a_gap_in_a_log_is_closed_by_a_connection_that_begins_there() -> None:
    """A gap is never silent: it reconnects at that line; if the lines do not come then, they are told as lost."""

    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.lines(1, "a")
        await peer.lines(3, "c")
        await hold(peer)

    async def second(peer: Peer) -> None:
        assert (await peer.welcome())["subscriptions"][0]["from_line"] == 2
        await peer.lines(2, "b", "c")
        await peer.lines(6, "f")
        await hold(peer)

    async def third(peer: Peer) -> None:
        assert (await peer.welcome())["subscriptions"][0]["from_line"] == 4
        await peer.lines(6, "f")
        await hold(peer)

    async with scripted(first, second, third) as url, make(url, LOG) as events:
        items = await take(events, 6)
    assert [item for item in told(items) if not isinstance(item, Reconnected)] == [
        (1, "a"),
        (2, "b"),
        (3, "c"),
        PositionLost("log:d1", "unknown", {"line": 4}, {"line": 6}),
        (6, "f"),
    ]


async def test_removed_lines_are_told_and_it_goes_on_behind_them() -> None:
    """`position_lost`, expired: retention removed lines."""

    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.push(
            "position_lost", stream="log:d1", reason="expired", lost={"line": 1}, positions={"log:d1": {"line": 40}}
        )
        await peer.lines(40, "x")
        await hold(peer)

    async with scripted(script) as url, make(url, LOG) as events:
        assert told(await take(events, 2)) == [PositionLost("log:d1", "expired", {"line": 1}, {"line": 40}), (40, "x")]


async def test_a_tail_begins_where_the_server_says() -> None:
    """-n: the subscribe reply has the exact line; it resumes from there even if no line came."""

    async def first(peer: Peer) -> None:
        assert (await peer.welcome())["subscriptions"] == []
        assert (await peer.subscribed(from_line=96))["from_line"] == -5
        await peer.close(1012)

    async def second(peer: Peer) -> None:
        assert (await peer.welcome())["subscriptions"][0]["from_line"] == 96
        await hold(peer)

    tail = Subscription(("DEPLOYMENT_LOGS_UPDATE",), "d1", -5)
    async with scripted(first, second) as url, make(url, tail) as events:
        assert isinstance((await take(events, 1))[0], Reconnected)


@pytest.mark.parametrize(
    ("refusal", "again", "lost"),
    [
        ({"code": "unsupported", "message": "from_line: …"}, None, PositionLost("log:d1", "unsupported", {"line": 1})),
        (
            {"code": "lines_expired", "message": "…", "details": {"firstAvailable": 40}},
            40,
            PositionLost("log:d1", "expired", {"line": 1}, {"line": 40}),
        ),
    ],
    ids=lambda value: value["code"] if isinstance(value, dict) else "",
)
async def test_a_refused_line_is_not_a_refused_log(refusal: Any, again: int | None, lost: PositionLost) -> None:
    """Where only the line is refused, the log is followed all the same, and the loss is told."""

    async def script(peer: Peer) -> None:
        await peer.welcome(refused=[{**LOG.data(), **refusal}])
        assert (await peer.subscribed()).get("from_line") == again
        await peer.lines(again or 7, "x")
        await hold(peer)

    async with scripted(script) as url, make(url, LOG) as events:
        assert told(await take(events, 2)) == [lost, (again or 7, "x")]
