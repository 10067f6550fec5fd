"""Row F26: one-time tickets that are replayed, late, used from another origin, or raced."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import orjson
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.faults.control import control
from tests.faults.faulty_world import World, faulty_world

pytestmark = pytest.mark.asyncio(loop_scope="module")

RACERS = 20
LIFE_SECONDS = 2.0
MOST = 5
OPEN = "open"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory, module_database: dict[str, str]) -> AsyncIterator[World]:
    settings = {
        **module_database,
        "TICKET_SECONDS": str(LIFE_SECONDS),
        "MAX_TICKETS": str(MOST),
        "MAX_UNAUTHENTICATED_PER_ADDRESS": "100",
        "ALLOWED_ORIGINS": "https://console.example",
    }
    async with faulty_world(tmp_path_factory.mktemp("tickets"), settings) as made:
        yield made


async def ask(world: World, *, token: str | None = None, origin: str | None = None) -> httpx.Response:
    """Ask for a ticket."""
    async with world.server.client(token or world.tokens["rude"]) as client:
        return await client.post("/ws/ticket", headers={"Origin": origin} if origin else {})


async def ticket_of(world: World, **asked: str | None) -> str:
    """Return a new ticket."""
    answer = await ask(world, **asked)
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    ticket: str = answer.json()["ticket"]
    return ticket


async def redeem(world: World, ticket: str, origin: str | None = None) -> str:
    """Open a socket with a ticket; return `open`, or how it was refused."""
    headers = {"Origin": origin} if origin else {}
    try:
        async with connect(f"{world.server.socket_url}?ticket={ticket}", additional_headers=headers) as socket:
            welcome = orjson.loads(await asyncio.wait_for(socket.recv(), 10))
            assert welcome["type"] == "AUTH_LOGIN_SUCCESS"
            assert welcome["data"]["userId"] == world.ids["rude"]
            return OPEN
    except ConnectionClosed as closed:
        assert closed.rcvd is not None
        return f"{closed.rcvd.code} {closed.rcvd.reason}"
    except InvalidStatus as refused:
        return str(refused.response.status_code)


INVALID = "1008 Invalid token"


async def test_f26_a_ticket_raced_by_many_opens_exactly_one_socket(world: World) -> None:
    """Raced by 20: exactly one success; replayed: none."""
    async with control(*world.control):
        for _ in range(3):
            ticket = await ticket_of(world)
            results = await asyncio.gather(*(redeem(world, ticket) for _ in range(RACERS)))
            assert sorted(results) == [INVALID] * (RACERS - 1) + [OPEN]
            assert await redeem(world, ticket) == INVALID


async def test_f26_a_late_ticket_opens_nothing(world: World) -> None:
    """Late: no success."""
    ticket = await ticket_of(world)
    await asyncio.sleep(LIFE_SECONDS + 0.1)
    assert await redeem(world, ticket) == INVALID


async def test_f26_a_ticket_belongs_to_the_origin_that_asked_for_it(world: World) -> None:
    """Other origin: no success, and the right one still has its one."""
    own, console = world.server.url, "https://console.example"
    ticket = await ticket_of(world, origin=console)
    assert await redeem(world, ticket, own) == INVALID
    assert await redeem(world, ticket) == INVALID
    assert await redeem(world, ticket, "https://foreign.example") == "403"
    assert await redeem(world, ticket, console) == OPEN
    assert await redeem(world, ticket, console) == INVALID
    assert await redeem(world, await ticket_of(world), own) == INVALID
    refused = await ask(world, origin="https://" + "x" * 300)
    assert (refused.status_code, refused.json()["details"][0]["field"]) == (422, "Origin")


async def test_f26_a_ticket_ends_with_its_session(world: World) -> None:
    """Ended sessions cannot redeem, nor ask."""
    token = await world.server.login("rude")
    ticket = await ticket_of(world, token=token)
    async with world.server.client(token) as client:
        assert (await client.post("/auth/logout")).status_code == 204
    assert await redeem(world, ticket) == INVALID
    assert (await ask(world, token=token)).status_code == 401


async def test_f26_tickets_are_bounded_for_each_session(world: World) -> None:
    """Bounded per session: 429 with Retry-After; a redeemed one makes room, and another session has its own."""
    token = await world.server.login("rude")
    answers = await asyncio.gather(*(ask(world, token=token) for _ in range(MOST * 2)))
    given = [answer.json()["ticket"] for answer in answers if answer.status_code == 201]
    refused = [answer for answer in answers if answer.status_code != 201]
    assert len(given) == MOST
    assert {(answer.status_code, answer.json()["code"]) for answer in refused} == {(429, "rate_limited")}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert await redeem(world, given[0]) == OPEN
    await ticket_of(world, token=token)
    await ticket_of(world, token=world.tokens["rude"])


async def test_f26_api_tokens_get_tickets_and_a_revoked_one_redeems_none(world: World) -> None:
    """A ticket of an API token stands for that token."""
    async with world.server.client(world.tokens["rude"]) as client:
        made = (await client.post("/auth/tokens", json={"name": "ci", "role": "viewer"})).json()
        first, second = await ticket_of(world, token=made["secret"]), await ticket_of(world, token=made["secret"])
        assert await redeem(world, first) == OPEN
        assert (await client.delete(f"/auth/tokens/{made['id']}")).status_code == 204
    assert await redeem(world, second) == INVALID


async def test_f26_no_ticket_is_stored_or_logged_as_it_is(world: World) -> None:
    """Stored hashed; redacted in every log; and what is no ticket is refused as such."""
    ticket = await ticket_of(world)
    for address in ("", "x", "wft_" + "y" * 43, "%00", "a" * 5000, "%C3%BC"):
        assert await redeem(world, address) == INVALID
    assert ticket not in world.server.log.read_text(encoding="utf-8")
    for path in Path(world.server.log).parent.rglob("*"):
        if path.is_file():
            assert ticket.encode() not in path.read_bytes(), path
