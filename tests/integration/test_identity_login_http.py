"""Login, refresh and what an access token stands for, over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from sqlalchemy import event, func, select, update

from backend.app.auth.tokens import AccessTokens, token_hash
from backend.app.config import Settings
from backend.app.database import Database
from backend.app.models import RefreshToken, Session, User
from backend.app.models.columns import now
from backend.app.realtime.event import Event
from tests.identity_http import PASSWORD, SECRET, Http, ok, refused, serving


@pytest.fixture
async def http(database: Database, settings: Settings, committed: list[Event]) -> AsyncIterator[Http]:
    async with serving(database, settings, committed) as http:
        yield http


@pytest.fixture
async def strict(database: Database, settings: Settings, committed: list[Event]) -> AsyncIterator[Http]:
    """The same without grace for refresh tokens that come twice."""
    async with serving(database, settings.model_copy(update={"refresh_grace_seconds": 0}), committed) as http:
        yield http


async def test_login_answers_as_oauth2_and_tells_plugins_and_audit(http: Http) -> None:
    """POST /auth/login: form → {access_token, token_type, expires_in, refresh_token}; AUTH_LOGIN_SUCCESS."""
    response = await http.login("Ada", headers={"user-agent": "tests/1"})
    body = ok(response)
    assert set(body) == {"access_token", "token_type", "expires_in", "refresh_token"}
    assert (body["token_type"], body["expires_in"]) == ("bearer", 900)
    assert response.headers["cache-control"] == "no-store"

    (event,) = http.world.events("AUTH_LOGIN_SUCCESS")
    session_id = event.session_id
    assert event.payload == {
        "userId": "ada", "username": "ada", "organizationId": "o1", "sessionId": session_id, "ipAddress": "127.0.0.1",
    }  # fmt: skip
    (row,) = await http.world.trail("AUTH_LOGIN_SUCCESS")
    assert (row.chain, row.actor_id, row.outcome, row.address) == ("org:o1", "ada", "success", "127.0.0.1")
    assert row.request_id == response.headers["x-request-id"]
    ((session,),) = await http.world.rows(select(Session))
    assert (session.id, session.user_id, session.client) == (session_id, "ada", "tests/1")
    ((stored,),) = await http.world.rows(select(RefreshToken.hash))
    assert stored == token_hash(body["refresh_token"])


@pytest.mark.parametrize(
    ("name", "password", "target"),
    [
        ("ada", "wrong", "user/ada"),
        ("nobody", PASSWORD, None),
        ("gone", PASSWORD, "user/gone"),
        ("no such\x00name", PASSWORD, None),
        ("n" * 500, PASSWORD, None),
        ("ada", "x" * 5000, "user/ada"),
    ],
)
async def test_every_wrong_login_gets_one_answer_and_one_password_check(
    http: Http, monkeypatch: pytest.MonkeyPatch, name: str, password: str, target: str | None
) -> None:
    """One answer and one password check for every kind of wrong login; refused logins are audited."""
    await http.world.change(User, "vic", id="gone", username="gone", is_active=False)
    hasher = http.world.sessions.passwords._hasher
    checks: list[str] = []
    verify = hasher.verify

    def counted(given: str | bytes, stored: str | bytes) -> bool:
        checks.append(str(stored))
        return verify(given, stored)

    monkeypatch.setattr(hasher, "verify", counted)
    response = await http.login(name, password)
    refused(response, 401, "invalid_credentials")
    assert response.json()["message"] == "User name and password do not match an active user."
    assert len(checks) == 1
    (row,) = await http.world.trail("auth.login")
    assert (row.outcome, row.target, row.actor_id, row.address) == ("invalid_credentials", target, None, "127.0.0.1")
    assert row.chain == ("org:o1" if target else "system")
    assert not http.world.committed


@pytest.mark.parametrize("missing", ["username", "password"])
async def test_an_incomplete_form_names_the_field(http: Http, missing: str) -> None:
    """Bad input names field and rule."""
    form = {"username": "ada", "password": PASSWORD}
    del form[missing]
    refused(await http.client.post("/api/v1/auth/login", data=form), 422, "invalid_payload", missing)


async def test_wrong_logins_are_slowed_down_per_account_and_address(http: Http) -> None:
    """429 with Retry-After after the allowed failures, also for the right password; other accounts go on."""
    settings = http.world.settings
    for _ in range(settings.login_failures):
        refused(await http.login("ada", "wrong"), 401, "invalid_credentials")
    response = await http.login("ada")
    refused(response, 429, "rate_limited")
    assert 0 < int(response.headers["retry-after"]) <= settings.login_failure_window_seconds
    # The same address may not go on with other accounts either; another address may, with those.
    refused(await http.login("oli"), 429, "rate_limited")
    await http.world.sessions.login("oli", PASSWORD, address="10.0.0.2", client=None, request_id=None)


async def test_guesses_sent_at_once_are_no_more_than_allowed(http: Http) -> None:
    """Many wrong logins at the same time are checked no more often than one after another."""
    answers = await asyncio.gather(*(http.login("ada", f"wrong {n}") for n in range(20)))
    statuses = sorted(answer.status_code for answer in answers)
    limit = http.world.settings.login_failures
    assert statuses == [401] * limit + [429] * (20 - limit)


async def test_right_logins_at_once_all_pass(http: Http) -> None:
    """The limit is for failures: more right logins than it, from one address, only wait for each other."""
    answers = await asyncio.gather(*(http.login("ada") for _ in range(12)))
    assert {answer.status_code for answer in answers} == {200}


async def test_a_refresh_gives_new_tokens_and_tells_the_session(http: Http) -> None:
    """POST /auth/refresh → as login; AUTH_TOKEN_REFRESH to that session, never with the token."""
    first = ok(await http.login("ada"))
    second = ok(await http.refresh(first["refresh_token"]))
    assert set(second) == set(first)
    assert second["refresh_token"] != first["refresh_token"]
    assert ok(await http.with_token(second["access_token"], "GET", "/auth/me"))["username"] == "ada"
    (event,) = http.world.events("AUTH_TOKEN_REFRESH")
    assert set(event.payload) == {"userId", "sessionId", "expiresAt"}
    assert event.session_id == event.payload["sessionId"]
    (row,) = await http.world.trail("AUTH_TOKEN_REFRESH")
    assert (row.actor_id, row.target) == ("ada", f"session/{event.session_id}")


async def test_reuse_of_an_old_refresh_token_ends_the_session(strict: Http) -> None:
    """Re-use of an old one ends the whole family: 401 token_reused, SESSION_EXPIRED to that session, audited."""
    first = ok(await strict.login("ada"))
    second = ok(await strict.refresh(first["refresh_token"]))
    refused(await strict.refresh(first["refresh_token"]), 401, "token_reused")
    (event,) = strict.world.events("SESSION_EXPIRED")
    assert event.payload["reason"] == "token_reused"
    assert event.session_id == event.payload["sessionId"]
    (row,) = await strict.world.trail("auth.refresh")
    assert (row.outcome, row.chain, row.actor_id) == ("token_reused", "org:o1", None)
    refused(await strict.refresh(second["refresh_token"]), 401, "token_expired")
    refused(await strict.with_token(second["access_token"], "GET", "/auth/me"), 401, "not_authenticated")
    ((session,),) = await strict.world.rows(select(Session))
    assert session.end_reason == "token_reused"


async def test_the_direct_predecessor_is_forgiven_for_a_moment(http: Http) -> None:
    """The direct predecessor is forgiven for 10 s (two tabs), until one of its successors was used."""
    first = ok(await http.login("ada"))["refresh_token"]
    left = ok(await http.refresh(first))["refresh_token"]
    right = ok(await http.refresh(first))["refresh_token"]
    assert left != right
    ok(await http.refresh(left))
    ok(await http.refresh(right))
    refused(await http.refresh(first), 401, "token_reused")


async def test_the_grace_ends(http: Http) -> None:
    """After the grace the predecessor counts as re-used, although its successor was never used."""
    first = ok(await http.login("ada"))["refresh_token"]
    ok(await http.refresh(first))
    earlier = now() - timedelta(seconds=http.world.settings.refresh_grace_seconds + 1)
    used = update(RefreshToken).where(RefreshToken.hash == token_hash(first)).values(used_at=earlier)
    await http.world.db.write(lambda tx: tx.conn.execute(used))
    refused(await http.refresh(first), 401, "token_reused")


async def test_one_refresh_token_has_a_bounded_number_of_successors(http: Http) -> None:
    """Within the grace, a token that comes over and over is refused without ending the session."""
    first = ok(await http.login("ada"))["refresh_token"]
    answers = [(await http.refresh(first)).status_code for _ in range(18)]
    assert answers == [200] * 16 + [429] * 2


async def test_of_two_refreshes_at_once_one_is_first(strict: Http) -> None:
    """Without grace, two requests with one refresh token never both get a successor."""
    first = ok(await strict.login("ada"))["refresh_token"]
    answers = await asyncio.gather(strict.refresh(first), strict.refresh(first))
    assert sorted(answer.status_code for answer in answers) == [200, 401]
    ((count,),) = await strict.world.rows(select(func.count()).select_from(RefreshToken))
    assert count == 2


async def test_a_refresh_token_of_an_ended_or_unknown_session_is_refused(http: Http) -> None:
    """401 token_expired once the session has run out; not_authenticated for a token that never was."""
    tokens = ok(await http.login("ada"))
    for wrong in ("wfr_unknown", tokens["access_token"], "wfr_" + "x" * 9000, "wfr_\u00e9", "\x00"):
        refused(await http.refresh(wrong), 401, "not_authenticated")
    await http.world.db.write(lambda tx: tx.conn.execute(update(Session).values(expires_at=now())))
    refused(await http.refresh(tokens["refresh_token"]), 401, "token_expired")
    refused(await http.with_token(tokens["access_token"], "GET", "/auth/me"), 401, "token_expired")


async def test_an_access_token_that_ran_out_says_so(http: Http) -> None:
    """401 token_expired, so that a client knows to refresh."""
    ok(await http.login("ada"))
    ((session,),) = await http.world.rows(select(Session))
    old = AccessTokens(
        SECRET, issuer="windflow", audience="windflow", seconds=1, clock=lambda: now() - timedelta(hours=1)
    )
    token, _ = old.issue("ada", session.id, session.expires_at)
    response = await http.with_token(token, "GET", "/auth/me")
    refused(response, 401, "token_expired")
    assert response.headers["www-authenticate"] == "Bearer"


async def test_requests_without_valid_credentials_are_refused(http: Http) -> None:
    """401 not_authenticated for no token, no such token, another user's session, and tokens above 8 KiB."""
    refused(await http.client.get("/api/v1/auth/me"), 401, "not_authenticated")
    ok(await http.login("ada"))
    ((session,),) = await http.world.rows(select(Session))
    tokens = AccessTokens(SECRET, issuer="windflow", audience="windflow", seconds=60)
    foreign, _ = tokens.issue("bob", session.id, session.expires_at)
    unknown, _ = tokens.issue("ada", "unknown", session.expires_at)
    for token in ("x", "wf_unknown", "a.b.c", foreign, unknown, "x" * 8193, "wf_" + "x" * 8193):
        refused(await http.with_token(token, "GET", "/auth/me"), 401, "not_authenticated")


async def test_rights_come_from_the_database_with_one_read(http: Http) -> None:
    """Role and organization from the database, not from the token; exactly one read."""
    token = ok(await http.login("ada"))["access_token"]
    await http.world.change(User, "ada", role="viewer", organization_id="o2")
    statements: list[str] = []
    engine = http.world.db._connected().sync_engine

    def count(_c: object, _cursor: object, statement: str, *_more: object) -> None:
        if statement.startswith("SELECT"):
            statements.append(statement)

    event.listen(engine, "before_cursor_execute", count)
    principal = await http.world.sessions.authenticate(token)
    event.remove(engine, "before_cursor_execute", count)
    assert (principal.role, principal.organization_id) == ("viewer", "o2")
    assert len(statements) == 1
    await http.world.change(User, "ada", is_active=False)
    refused(await http.with_token(token, "GET", "/auth/me"), 401, "not_authenticated")


async def test_a_login_that_is_overtaken_by_a_new_password_is_refused(
    http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A password that was changed while it was checked opens no session."""
    passwords = http.world.sessions.passwords
    verify = passwords.verify

    async def overtaken(password: str, stored: str | None) -> bool:
        is_right = await verify(password, stored)
        await http.world.change(User, "ada", password_hash="another")
        return is_right

    monkeypatch.setattr(passwords, "verify", overtaken)
    refused(await http.login("ada"), 401, "invalid_credentials")
    assert await http.world.rows(select(Session)) == []
