"""Users, organizations and API tokens over HTTP: who may do what to whom, and what happens at the same time."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from sqlalchemy import func, select

from backend.app.auth.usernames import spell
from backend.app.config import Settings
from backend.app.database import Database
from backend.app.models import ApiToken, IdempotencyKey, Organization, Session, User
from backend.app.realtime.event import Event
from tests.identity_http import PASSWORD, Http, ok, refused, serving


@pytest.fixture
async def http(database: Database, settings: Settings, committed: list[Event]) -> AsyncIterator[Http]:
    async with serving(database, settings, committed) as http:
        yield http


async def role_of(http: Http, name: str) -> tuple[str, bool, bool, str]:
    """Role, superuser, active and organization of a user, from the database."""
    ((row,),) = await http.world.rows(select(User).where(User.id == name))
    return row.role, row.is_superuser, row.is_active, row.organization_id


# ---- tenants and roles --------------------------------------------------------------------------------

FOREIGN: list[tuple[str, str, Any]] = [
    ("GET", "/users/vic", None),
    ("PATCH", "/users/vic", {"role": "admin"}),
    ("DELETE", "/users/vic", None),
    ("POST", "/users/vic/password", {"password": "a long enough one"}),
]


@pytest.mark.parametrize(("method", "path", "body"), FOREIGN)
async def test_a_user_of_another_organization_does_not_exist(http: Http, method: str, path: str, body: Any) -> None:
    """What belongs to another organization is 404, answered exactly like what does not exist."""
    there = refused(await http("bob", method, path, body), 404, "not_found")
    nowhere = refused(await http("bob", method, path.replace("vic", "nobody"), body), 404, "not_found")
    assert there == nowhere
    assert await role_of(http, "vic") == ("viewer", False, True, "o1")


@pytest.mark.parametrize("name", ["oli", "vic"])
@pytest.mark.parametrize(
    ("method", "path", "body"), [*FOREIGN, ("GET", "/users", None), ("POST", "/users", {"username": "x"})]
)
async def test_who_is_no_admin_manages_nobody(http: Http, name: str, method: str, path: str, body: Any) -> None:
    """Least role A; your own but not allowed is 403."""
    refused(await http(name, method, path, body), 403, "forbidden")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"username": "eve", "organizationId": "o2"}, 403, "forbidden"),
        ({"username": "eve", "isSuperuser": True}, 403, "forbidden"),
        ({"username": "VIC"}, 409, "name_taken"),
        ({"username": "bob"}, 409, "name_taken"),
        ({"username": "e v e"}, 422, "invalid_payload"),
        ({"username": "eve", "password": "short"}, 422, "weak_password"),
    ],
)
async def test_an_admin_makes_users_of_the_own_organization_only(http: Http, body: Any, status: int, code: str) -> None:
    """An `admin` makes the users of the own organization; superusers and other organizations are for superusers."""
    refused(await http("ada", "POST", "/users", body), status, code)
    assert len(await http.world.rows(select(User))) == 5


@pytest.mark.parametrize(
    ("changes", "target"),
    [
        ({"isSuperuser": True}, "vic"),
        ({"isSuperuser": True}, "ada"),
        ({"organizationId": "o2"}, "vic"),
        ({"organizationId": "o2"}, "ada"),
        ({"isSuperuser": False}, "root"),
        ({"role": "viewer"}, "root"),
        ({"isActive": False}, "root"),
        ({"username": "toor"}, "root"),
    ],
)
async def test_an_admin_reaches_no_superuser_and_becomes_none(http: Http, changes: Any, target: str) -> None:
    """Superusers are changed by superusers; nobody else moves users or makes superusers."""
    before = await role_of(http, target)
    refused(await http("ada", "PATCH", f"/users/{target}", changes), 403, "forbidden")
    assert await role_of(http, target) == before


async def test_an_admin_neither_deletes_a_superuser_nor_sets_its_password_nor_ends_its_sessions(http: Http) -> None:
    """A superuser's lost password: on the server's machine, never over HTTP."""
    await http("root", "GET", "/auth/me")
    ((session_id,),) = await http.world.rows(select(Session.id).where(Session.user_id == "root"))
    refused(await http("ada", "DELETE", "/users/root"), 403, "forbidden")
    refused(await http("ada", "POST", "/users/root/password", {}), 403, "forbidden")
    refused(await http("ada", "DELETE", f"/auth/sessions/{session_id}"), 403, "forbidden")
    await http.world.change(User, "oli", is_superuser=True)
    refused(await http("root", "POST", "/users/oli/password", {}), 403, "forbidden")


async def test_an_api_token_of_a_superuser_is_an_admin_of_the_own_organization(http: Http) -> None:
    """An API token is never a superuser."""
    made = ok(await http("root", "POST", "/auth/tokens", {"name": "ci", "role": "admin"}), 201)
    token = made["secret"]
    refused(await http.with_token(token, "GET", "/organizations"), 403, "forbidden")
    refused(await http.with_token(token, "GET", "/users/bob"), 404, "not_found")
    refused(await http.with_token(token, "PATCH", "/users/vic", {"isSuperuser": True}), 403, "forbidden")
    refused(await http.with_token(token, "POST", "/auth/tokens", {"name": "more", "role": "viewer"}), 403, "forbidden")
    ok(await http.with_token(token, "PATCH", "/users/vic", {"role": "operator"}))


async def test_a_token_has_at_most_its_owners_present_role(http: Http) -> None:
    """{name, role ≤ own}; a token never outlives a right."""
    refused(await http("oli", "POST", "/auth/tokens", {"name": "ci", "role": "admin"}), 403, "role_too_high")
    made = ok(await http("ada", "POST", "/auth/tokens", {"name": "ci", "role": "admin"}), 201)
    await http.world.change(User, "ada", role="viewer")
    me = ok(await http.with_token(made["secret"], "GET", "/auth/me"))
    assert me["role"] == "viewer"
    refused(await http.with_token(made["secret"], "GET", "/users"), 403, "forbidden")
    refused(await http("oli", "DELETE", f"/auth/tokens/{made['id']}"), 404, "not_found")


# ---- at the same time -----------------------------------------------------------------------------------


async def test_two_superusers_who_demote_each_other_leave_one(http: Http) -> None:
    """The last superuser stays one."""
    await http.world.change(User, "ada", is_superuser=True)
    answers = await asyncio.gather(
        http("root", "PATCH", "/users/ada", {"isSuperuser": False}),
        http("ada", "PATCH", "/users/root", {"isSuperuser": False}),
    )
    assert 200 in [answer.status_code for answer in answers]
    left = await http.world.rows(select(User.id).where(User.is_superuser))
    assert len(left) == 1
    for changes in ({"isSuperuser": False}, {"isActive": False}):
        refused(await http(left[0].id, "PATCH", f"/users/{left[0].id}", changes), 409, "last_superuser")
    refused(await http(left[0].id, "DELETE", f"/users/{left[0].id}"), 409, "last_superuser")


async def test_a_name_is_taken_once_also_at_the_same_moment(http: Http) -> None:
    """409 name_taken, whoever comes second."""
    body = {"username": "eve", "password": "a long enough one"}
    answers = await asyncio.gather(*(http(name, "POST", "/users", body) for name in ("ada", "bob", "root", "ada")))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]


async def test_a_login_during_a_deactivation_leaves_no_live_session(http: Http) -> None:
    """Deactivation acts on all sessions of that user, also on one that is just being made."""
    await http("ada", "GET", "/auth/me")
    await asyncio.gather(
        *(http.login("oli") for _ in range(3)), http("ada", "PATCH", "/users/oli", {"isActive": False})
    )
    live = select(Session.id).where(Session.user_id == "oli", Session.ended_at.is_(None))
    assert await http.world.rows(live) == []


# ---- idempotency ------------------------------------------------------------------------------------------


async def test_a_repeated_request_makes_nothing_twice_and_repeats_no_secret(http: Http) -> None:
    """`Idempotency-Key` on every POST: a retry makes nothing twice; secrets are answered once."""
    for path, body, secret in (
        ("/users", {"username": "eve"}, "password"),
        ("/auth/tokens", {"name": "ci", "role": "viewer"}, "secret"),
        ("/users/vic/password", {}, "password"),
    ):
        headers = {"Idempotency-Key": f"key of {path}".replace(" ", "-")}
        first = await http("ada", "POST", path, body, headers=headers)
        again = await http("ada", "POST", path, body, headers=headers)
        assert first.status_code == again.status_code
        assert first.json()[secret]
        assert again.json()[secret] is None
        assert first.json().get("id") == again.json().get("id")
        other = {**body, "odd": 1}
        assert (await http("ada", "POST", path, other, headers=headers)).status_code in (409, 422)
    assert len(await http.world.rows(select(ApiToken))) == 1


async def test_a_key_is_its_users_own_and_for_one_request(http: Http) -> None:
    """The same key with another request is refused; another user's is another key."""
    headers = {"Idempotency-Key": "same"}
    ok(await http("ada", "POST", "/users", {"username": "eve"}, headers=headers), 201)
    refused(await http("ada", "POST", "/users", {"username": "eva"}, headers=headers), 409, "key_reused")
    ok(await http("bob", "POST", "/users", {"username": "eva"}, headers=headers), 201)


async def test_of_two_requests_with_one_key_at_once_one_makes_it(http: Http) -> None:
    """Nothing twice, also at the same time."""
    headers = {"Idempotency-Key": "twins"}
    answers = await asyncio.gather(
        *(http("root", "POST", "/organizations", {"name": "third"}, headers=headers) for _ in range(4))
    )
    assert [answer.status_code for answer in answers] == [201] * 4
    assert len({answer.json()["id"] for answer in answers}) == 1
    ((count,),) = await http.world.rows(select(func.count()).select_from(Organization))
    assert count == 3


async def test_a_password_in_a_request_cannot_be_guessed_from_what_is_stored(http: Http) -> None:
    """No password is stored in a form that is quick to try out: also not in the trace of a request with a key."""
    body = {"username": "eve", "password": "a guessable password"}
    answer = await http("ada", "POST", "/users", body, headers={"Idempotency-Key": "k"})
    ok(answer, 201)
    ((row,),) = await http.world.rows(select(IdempotencyKey))
    plain = hashlib.sha256(b"POST /api/v1/users?\n" + answer.request.content).hexdigest()
    assert row.request_hash != plain
    assert "guessable" not in row.answer


# ---- pages and names ----------------------------------------------------------------------------------------


async def test_pages_go_through_all_users_once(http: Http) -> None:
    """Lists with a cursor neither repeat nor skip, also when newer ones come meanwhile."""
    seen: list[str] = []
    cursor: str | None = None
    for _ in range(10):
        query = f"?limit=1{f'&cursor={cursor}' if cursor else ''}"
        page = ok(await http("ada", "GET", f"/users{query}"))
        seen += [item["username"] for item in page["items"]]
        cursor = page["nextCursor"]
        if cursor is None:
            break
        ok(await http("ada", "POST", "/users", {"username": f"new{len(seen)}"}), 201)
    assert sorted(seen) == ["ada", "oli", "root", "vic"]


@pytest.mark.parametrize(
    "content",
    [
        ["0001-01-01T00:00:00+14:00", "x"],
        ["9999-12-31T23:59:59-14:00", "x"],
        ["2026-01-01T00:00:00", "x"],
        ["2026-01-01T00:00:00+00:00", "x\x00"],
        ["2026-01-01T00:00:00+00:00", 1],
        [1, 2],
        {"a": 1, "b": 2},
        "ab",
    ],
    ids=str,
)
async def test_a_cursor_that_this_server_never_made_is_refused(http: Http, content: Any) -> None:
    """Errors name field and rule, whatever a client sends."""
    cursor = base64.urlsafe_b64encode(orjson.dumps(content)).decode().rstrip("=")
    for path in ("/users", "/auth/sessions", "/auth/tokens"):
        (found,) = refused(await http("ada", "GET", f"{path}?cursor={cursor}"), 422, "invalid_payload")
        assert found["field"] == "cursor"


@pytest.mark.parametrize("name", ["xT\u0308", "x\u1e97", "Xt\u0308", "X\u1e97"])
async def test_every_spelling_of_a_name_is_the_same_user(http: Http, name: str) -> None:
    """One spelling for each name: case and composition make no other user."""
    assert spell(name) == "x\u1e97"
    ok(await http("ada", "POST", "/users", {"username": "x\u1e97", "password": PASSWORD}), 201)
    refused(await http("ada", "POST", "/users", {"username": name}), 409, "name_taken")
    ok(await http.login(name))
