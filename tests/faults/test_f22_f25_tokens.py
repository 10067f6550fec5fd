"""Rows F22, F23 and F25: forged tokens, tokens that run out on open sockets, refresh tokens that come twice."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
import pytest_asyncio

from tests.faults.control import control
from tests.faults.faulty_world import World, faulty_world
from tests.faults.raw_socket import RawSocket
from tests.integration.server_process import PASSWORD
from tests.proving import amount

pytestmark = pytest.mark.asyncio(loop_scope="module")

GRACE_SECONDS = amount(1.0, 10.0)
NOTICE_SECONDS = 1.0
LIFE_SECONDS = 2.5
"""Of the tokens that run out on an open socket."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory, module_database: dict[str, str]) -> AsyncIterator[World]:
    settings = {
        **module_database,
        "REFRESH_GRACE_SECONDS": str(GRACE_SECONDS),
        "REAUTH_NOTICE_SECONDS": str(NOTICE_SECONDS),
        "MAX_UNAUTHENTICATED_PER_ADDRESS": "100",
    }
    async with faulty_world(tmp_path_factory.mktemp("tokens"), settings) as made:
        yield made


def secret_of(world: World) -> bytes:
    """Return what the server signs with."""
    return (Path(world.server.log).parent / "data" / "secret.key").read_bytes().strip()


def claims_of(token: str) -> dict[str, Any]:
    """Return what a token says."""
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


def signed(world: World, token: str, **changes: Any) -> str:
    """Return a token of the same session that the server did sign, with other claims; None leaves one out."""
    claims = {name: value for name, value in {**claims_of(token), **changes}.items() if value is not None}
    return jwt.encode(claims, secret_of(world), algorithm="HS256")


def part(value: object) -> str:
    """Return one part of a token."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def forged(world: World) -> dict[str, str]:
    """Return tokens that were never valid, by what is wrong with them."""
    good = world.tokens["rude"]
    claims, secret, own = claims_of(good), secret_of(world), b"a key of somebody else, long enough.."
    head, body, signature = good.split(".")
    key = {"kty": "oct", "k": base64.urlsafe_b64encode(own).decode().rstrip("=")}
    nested = base64.urlsafe_b64encode(b"[" * 5_000).decode().rstrip("=")
    later = time.time() + 3600
    return {
        "alg none": jwt.encode(claims, None, algorithm="none"),
        "alg None": f"{part({'alg': 'None', 'typ': 'JWT'})}.{body}.",
        "alg none, signed": f"{part({'alg': 'none', 'typ': 'JWT'})}.{body}.{signature}",
        "no signature": f"{head}.{body}.",
        "another key": jwt.encode(claims, own, algorithm="HS256"),
        "another algorithm": jwt.encode(claims, secret.ljust(64, b"="), algorithm="HS512"),
        "its own key": jwt.encode(claims, own, algorithm="HS256", headers={"jwk": key}),
        "a key from elsewhere": jwt.encode(claims, own, algorithm="HS256", headers={"jku": "http://127.0.0.1:1/"}),
        "a key's path": jwt.encode(claims, own, algorithm="HS256", headers={"kid": "../../../dev/null"}),
        "asymmetric": f"{part({'alg': 'EdDSA', 'typ': 'JWT'})}.{body}.{signature}",
        "other claims": f"{head}.{part({**claims, 'sub': world.ids['polite']})}.{signature}",
        "aud": signed(world, good, aud="others"),
        "aud, many": signed(world, good, aud=["windflow", "others"]),
        "no aud": signed(world, good, aud=None),
        "iss": signed(world, good, iss="others"),
        "no iss": signed(world, good, iss=None),
        "typ": signed(world, good, typ="refresh"),
        "no typ": signed(world, good, typ=None),
        "no exp": signed(world, good, exp=None),
        "exp": signed(world, good, exp="tomorrow"),
        "no jti": signed(world, good, jti=None),
        "not yet valid": signed(world, good, nbf=later),
        "not yet valid, expired": signed(world, good, nbf=later, exp=time.time() - 1),
        "two dots": "..",
        "two dots of garbage": "a.b.c",
        "garbage": "\x7f.~.!",
        "deep head": f"{nested}.{body}.{signature}",
        "deep body": f"{head}.{nested}.{signature}",
        "a list": f"{part([])}.{part([])}.{signature}",
        "long": "x" * 9_000,
    }


async def first_message(world: World, token: str) -> tuple[int, str]:
    """Send a token as the first message of a socket; return how it was closed."""
    async with await RawSocket.connect(world.server.url) as socket:
        assert await socket.upgrade() == 101
        await socket.send_json("auth", {"token": token})
        return await socket.closed()


async def test_f22_every_token_that_was_never_valid_gets_the_same_answer(world: World) -> None:
    """`alg: none`, key confusion, wrong claims, not yet valid, garbage: the same answer, and no ERROR in the log."""
    async with control(*world.control), httpx.AsyncClient(base_url=world.server.url, timeout=30) as client:
        for what, token in forged(world).items():
            answer = await client.get("/api/v1/auth/me", headers={"Authorization": f"Bearer {token}"})
            told = (answer.status_code, answer.json()["code"], answer.json()["message"])
            assert told == (401, "not_authenticated", "the token is not valid"), what
            assert await first_message(world, token) == (1008, "Invalid token"), what


async def test_f22_what_was_valid_is_told_from_what_never_was(world: World) -> None:
    """Expired: told as such, so that a client refreshes; what is too large is refused before anything reads it."""
    expired = signed(world, world.tokens["rude"], exp=time.time() - 1)
    async with httpx.AsyncClient(base_url=world.server.url, timeout=30) as client:
        answer = await client.get("/api/v1/auth/me", headers={"Authorization": f"Bearer {expired}"})
        assert (answer.status_code, answer.json()["code"]) == (401, "token_expired")
        huge = await client.get("/api/v1/auth/me", headers={"Authorization": "Bearer " + "x" * 100_000})
        assert huge.status_code == 431
    assert (await first_message(world, expired))[0] == 4009
    assert (await first_message(world, "x" * 100_000))[0] == 1009


# ---- F23 ----------------------------------------------------------------------------------------------


async def test_f23_a_socket_whose_token_runs_out_is_told_and_ends(world: World) -> None:
    """Without refresh: a notice, SESSION_EXPIRED, 4009."""
    short = signed(world, await world.server.login("rude"), exp=time.time() + LIFE_SECONDS)
    async with await RawSocket.connect(world.server.url) as socket:
        await socket.authenticate(short)
        notice = await socket.until("SESSION_AUTH_REQUIRED")
        assert 0 < notice["data"]["graceSeconds"] <= NOTICE_SECONDS
        assert (await socket.closed())[0] == 4009
        assert socket.texts[-1]["type"] == "SESSION_EXPIRED"


async def test_f23_a_fresh_token_keeps_the_socket_and_a_foreign_one_does_not(world: World) -> None:
    """With refresh: stays; with another user's token: refused, and the socket ends with its own."""
    token = await world.server.login("rude")
    kept, ended = [await RawSocket.connect(world.server.url) for _ in range(2)]
    with kept, ended:
        for socket in (kept, ended):
            await socket.authenticate(signed(world, token, exp=time.time() + LIFE_SECONDS))
        answer = await kept.ask("auth", {"token": token})
        assert answer["type"] == "AUTH_TOKEN_REFRESH"
        for foreign in (world.tokens["polite"], world.tokens["admin"], "a.b.c"):
            refused = await ended.ask("auth", {"token": foreign})
            code = "not_authenticated" if foreign == "a.b.c" else "forbidden"
            assert (refused["type"], refused["data"]["code"]) == ("WEBSOCKET_ERROR", code)
        assert (await ended.closed())[0] == 4009
        assert await kept.lives()
        assert "SESSION_AUTH_REQUIRED" not in [message["type"] for message in kept.texts]


# ---- F25 ----------------------------------------------------------------------------------------------


async def login(client: httpx.AsyncClient) -> dict[str, Any]:
    """Log in and return the tokens."""
    answer = await client.post("/api/v1/auth/login", data={"username": "polite", "password": PASSWORD})
    assert answer.status_code == 200, answer.text
    tokens: dict[str, Any] = answer.json()
    return tokens


async def refresh(client: httpx.AsyncClient, token: str) -> httpx.Response:
    """Send a refresh token."""
    return await client.post("/api/v1/auth/refresh", json={"refreshToken": token})


async def test_f25_a_refresh_token_that_comes_twice_at_once_keeps_its_family(world: World) -> None:
    """At once: both are answered, one family lives, and its socket stays."""
    async with httpx.AsyncClient(base_url=world.server.url, timeout=30) as client:
        tokens = await login(client)
        async with await RawSocket.connect(world.server.url) as socket:
            await socket.authenticate(tokens["access_token"])
            answers = await asyncio.gather(*(refresh(client, tokens["refresh_token"]) for _ in range(2)))
            assert [answer.status_code for answer in answers] == [200, 200]
            pairs = [answer.json() for answer in answers]
            sessions = {claims_of(pair["access_token"])["sid"] for pair in pairs}
            assert sessions == {claims_of(tokens["access_token"])["sid"]}
            for pair in pairs:
                assert (await refresh(client, pair["refresh_token"])).status_code == 200
            assert await socket.lives()


async def test_f25_a_refresh_token_that_comes_again_later_ends_its_family(world: World) -> None:
    """After the grace: 401, and everything of the family is over, its socket too; the user's other session lives."""
    async with httpx.AsyncClient(base_url=world.server.url, timeout=30) as client:
        tokens, others = await login(client), await login(client)
        async with await RawSocket.connect(world.server.url) as socket:
            await socket.authenticate(tokens["access_token"])
            following = (await refresh(client, tokens["refresh_token"])).json()
            await asyncio.sleep(GRACE_SECONDS * 1.1)
            again = await refresh(client, tokens["refresh_token"])
            assert (again.status_code, again.json()["code"]) == (401, "token_reused")
            assert await socket.closed(2) == (4503, "token_reused")
        assert (await refresh(client, following["refresh_token"])).status_code == 401
        for token, status in ((following, 401), (tokens, 401), (others, 200)):
            headers = {"Authorization": f"Bearer {token['access_token']}"}
            assert (await client.get("/api/v1/auth/me", headers=headers)).status_code == status
