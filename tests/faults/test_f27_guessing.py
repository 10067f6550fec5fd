"""Row F27: passwords are guessed, for one account from many addresses and for many accounts from one."""

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from tests.faults.faulty_world import World, faulty_world
from tests.integration.server_process import PASSWORD

pytestmark = pytest.mark.asyncio(loop_scope="module")

GUESSES = 50
ALLOWED = 5
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Made once: to load the machine's certificates for every address would take longer than to guess."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory, module_database: dict[str, str]) -> AsyncIterator[World]:
    settings = {**module_database, "LOGIN_FAILURES": str(ALLOWED), "LOGIN_FAILURE_WINDOW_SECONDS": "600"}
    async with faulty_world(tmp_path_factory.mktemp("guesses"), settings) as made:
        yield made


async def login(world: World, address: str, username: str, password: str = "wrong") -> int:
    """Try to log in from an address; return the status."""
    transport = httpx.AsyncHTTPTransport(local_address=address, verify=NO_TLS)
    async with httpx.AsyncClient(base_url=world.server.url, transport=transport, timeout=60) as client:
        answer = await client.post("/api/v1/auth/login", data={"username": username, "password": password})
    if answer.status_code == 429:
        assert 1 <= int(answer.headers["retry-after"]) <= 600
    return answer.status_code


OWN = "127.0.0.1"
"""Where everybody of the world has logged in from."""


async def test_f27_one_account_from_many_addresses_is_slowed_down_and_its_owner_gets_in(world: World) -> None:
    """For one account from many addresses: back-off; the owner can still get in, from where the owner was before."""
    guesses = await asyncio.gather(*(login(world, f"127.0.1.{n}", "rude") for n in range(1, GUESSES + 1)))
    assert Counter(guesses) == {401: ALLOWED, 429: GUESSES - ALLOWED}
    assert await login(world, OWN, "rude", PASSWORD) == 200
    assert await login(world, "127.0.1.200", "rude", PASSWORD) == 429, "a stranger is refused, also with the password"
    assert await login(world, "127.0.1.1", "polite", PASSWORD) == 200, "other accounts go on from there"
    async with world.server.client(world.tokens["rude"]) as client:
        body = {"currentPassword": PASSWORD, "newPassword": PASSWORD + "!"}
        assert (await client.put("/auth/password", json=body)).status_code == 204
    assert await login(world, OWN, "rude", PASSWORD + "!") == 200


async def test_f27_an_account_that_nobody_has_is_answered_the_same(world: World) -> None:
    """The answers do not tell which accounts there are."""
    guesses = [await login(world, f"127.0.2.{n}", "nobody") for n in range(1, 2 * ALLOWED + 1)]
    assert guesses == [401] * ALLOWED + [429] * ALLOWED
    assert await login(world, OWN, "nobody") == 429


async def test_f27_many_accounts_from_one_address_are_slowed_down(world: World) -> None:
    """For many accounts from one: back-off of the address; each of the accounts goes on elsewhere."""
    guesses = await asyncio.gather(*(login(world, "127.0.3.1", f"user{n}") for n in range(GUESSES)))
    assert Counter(guesses) == {401: ALLOWED, 429: GUESSES - ALLOWED}
    assert await login(world, "127.0.3.1", "polite", PASSWORD) == 429
    assert await login(world, "127.0.3.2", "polite", PASSWORD) == 200


async def test_f27_guesses_from_the_owners_place_are_slowed_down_too(world: World) -> None:
    """Who guesses beside the owner gets no more guesses than a stranger; the owner gets in elsewhere."""
    strangers = [await login(world, f"127.0.4.{n}", "control") for n in range(1, ALLOWED + 2)]
    assert strangers == [401] * ALLOWED + [429]
    assert await login(world, "127.0.0.1", "control", PASSWORD) == 200
    beside = [await login(world, OWN, "control") for _ in range(ALLOWED + 1)]
    assert beside == [401] * ALLOWED + [429]
    assert await login(world, OWN, "control", PASSWORD) == 429
