"""Changed rights on open sockets: what events tell at once, and what a comparison with the database finds."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy.exc import OperationalError

from backend.app.auth.permissions import Caller, Principal
from backend.app.config import Settings
from backend.app.database import Database
from backend.app.models import Session, User
from backend.app.models.columns import now
from backend.app.operations.bootstrap import reset_password
from backend.app.operations.principals import Found
from backend.app.realtime.connection import Connection
from backend.app.realtime.event import Event
from backend.app.realtime.flusher import Flusher
from backend.app.realtime.hub import Hub
from backend.app.realtime.topics import Topic
from backend.app.schemas.errors import ErrorCode, WindFlowError
from backend.app.schemas.messages import CloseCode
from backend.app.schemas.roles import Role
from backend.app.websocket.access import Access
from tests.identity_http import Http, ok, serving
from tests.plugin_world import until, within
from tests.unit.realtime.outlets import BUDGET, HandOutlet, connect


class Sockets:
    """A hub with connections of people, and the `Access` that hears of what is committed."""

    def __init__(self, http: Http) -> None:
        self.http = http
        self.flusher = Flusher()
        self.hub = Hub(self.flusher, BUDGET.high_water_bytes)
        self.sessions = http.world.sessions
        self.access = Access(self.hub, self.sessions, http.world.catalogue, recheck_seconds=60)
        self._told = len(http.world.committed)

    async def open(self, token: str) -> Connection:
        """Register a connection with an access token or an API token."""
        connection = self.connection(await self.sessions.authenticate(token))
        self.hub.add(connection)
        return connection

    def connection(self, principal: Principal) -> Connection:
        """Make a connection that is not registered."""
        return connect(self.flusher, principal, settle=self.hub.settle)[0]

    async def login(self, name: str) -> Connection:
        """Register a connection of a session of its own."""
        return await self.open((await self.http.login(name)).json()["access_token"])

    async def api_token(self, name: str, role: str) -> tuple[str, Connection]:
        """Make an API token; return its id and a connection with it."""
        made = ok(await self.http(name, "POST", "/auth/tokens", {"name": "ci", "role": role}), 201)
        return made["id"], await self.open(made["secret"])

    async def tell(self) -> None:
        """Hand on what was committed, as the bus does, and wait for what that starts."""
        events, self._told = self.http.world.committed[self._told :], len(self.http.world.committed)
        for event in events:
            self.hub.deliver(event)
            self.access(event)
        await within(self.access.stop())

    async def behind_the_back(self, act: Callable[[], object]) -> None:
        """Change the database as another program would: no event is heard."""
        await act()  # type: ignore[misc]
        self._told = len(self.http.world.committed)


@pytest.fixture
async def sockets(database: Database, settings: Settings, committed: list[Event]) -> AsyncIterator[Sockets]:
    async with serving(database, settings, committed) as http:
        yield Sockets(http)


@pytest.mark.parametrize("act", ["revoke", "deactivate", "delete"])
async def test_an_api_tokens_sockets_end_with_it(sockets: Sockets, act: str) -> None:
    """Revoked token, deactivation, deletion: act on all sockets of that session or user; 4503."""
    token_id, with_token = await sockets.api_token("oli", "operator")
    _, other = await sockets.api_token("ada", "operator")
    if act == "revoke":
        ok(await sockets.http("oli", "DELETE", f"/auth/tokens/{token_id}"), 204)
    elif act == "deactivate":
        ok(await sockets.http("ada", "PATCH", "/users/oli", {"isActive": False}))
    else:
        ok(await sockets.http("ada", "DELETE", "/users/oli"), 204)
    await sockets.tell()
    assert with_token.close_code is CloseCode.ACCESS_REVOKED
    assert sockets.hub.get(with_token.id) is None
    assert other.close_code is None
    (row,) = [row for row in await sockets.http.world.trail("SESSION_EXPIRED") if row.target == f"token/{token_id}"]
    assert row.chain == "org:o1"


async def test_revoking_one_token_leaves_the_users_other_sockets(sockets: Sockets) -> None:
    """Revoke: it and its open connections end, nothing else."""
    token_id, with_token = await sockets.api_token("oli", "operator")
    _, with_other = await sockets.api_token("oli", "viewer")
    with_session = await sockets.login("oli")
    ok(await sockets.http("oli", "DELETE", f"/auth/tokens/{token_id}"), 204)
    await sockets.tell()
    assert [each.close_code for each in (with_token, with_other, with_session)] == [4503, None, None]


async def test_a_lost_role_of_the_owner_is_the_tokens_too(sockets: Sockets) -> None:
    """Role change acts on all sockets of that user: rights are recomputed."""
    _, with_token = await sockets.api_token("oli", "operator")
    ok(await sockets.http("ada", "PATCH", "/users/oli", {"role": "viewer"}))
    await sockets.tell()
    assert with_token.principal.role is Role.VIEWER


async def test_an_older_answer_never_replaces_a_newer_one(sockets: Sockets) -> None:
    """Two role changes at once: whatever order their reads end in, the socket has the last role."""
    connection = await sockets.login("vic")
    gate, entered = asyncio.Event(), asyncio.Event()
    read = sockets.sessions.present
    is_first = True

    async def slow_the_first(principal: Principal) -> Principal:
        nonlocal is_first
        was_first, is_first = is_first, False
        found = await read(principal)
        if was_first:
            entered.set()
            await gate.wait()
        return found

    sockets.sessions.present = slow_the_first  # type: ignore[method-assign]
    ok(await sockets.http("ada", "PATCH", "/users/vic", {"role": "admin"}))
    first = asyncio.create_task(sockets.tell())
    await within(_wait(entered))
    ok(await sockets.http("ada", "PATCH", "/users/vic", {"role": "operator"}))
    second = asyncio.create_task(sockets.tell())
    await until(lambda: connection.principal.role is Role.OPERATOR)
    gate.set()
    await within(_both(first, second))
    assert connection.principal.role is Role.OPERATOR


async def test_a_socket_that_ends_while_its_rights_are_read_is_forgotten(sockets: Sockets) -> None:
    """A closed connection leaves nothing behind in the hub."""
    connection = await sockets.login("oli")
    session_id = connection.principal.session_id
    read = sockets.sessions.present

    async def ends(principal: Principal) -> Principal:
        found = await read(principal)
        sockets.hub.remove(connection)
        return found

    sockets.sessions.present = ends  # type: ignore[method-assign]
    ok(await sockets.http("ada", "PATCH", "/users/oli", {"role": "viewer"}))
    await sockets.tell()
    assert sockets.hub.of_session(session_id or "") == ()


@pytest.mark.parametrize(
    "failure",
    [OperationalError("SELECT", {}, OSError("gone")), WindFlowError(ErrorCode.STORAGE_UNAVAILABLE), OSError("gone")],
    ids=lambda error: type(error).__name__,
)
async def test_a_database_that_is_away_revokes_nothing(
    sockets: Sockets, failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """4503 means that access was revoked; a database that cannot be asked does not say so."""
    connection = await sockets.login("oli")
    read = sockets.sessions.present

    async def away(principal: Principal) -> Principal:
        raise failure

    sockets.sessions.present = away  # type: ignore[method-assign]
    ok(await sockets.http("ada", "PATCH", "/users/oli", {"role": "viewer"}))
    await sockets.tell()
    assert connection.close_code is None
    assert "rights could not be read" in caplog.text
    sockets.sessions.present = read  # type: ignore[method-assign]
    assert await sockets.access.check_all() == 1
    assert connection.principal.role is Role.VIEWER


async def test_a_session_that_ends_while_its_socket_is_being_opened_closes_it(sockets: Sockets) -> None:
    """Logout acts on all sockets of that session, also on one between its authentication and its registration."""
    token = (await sockets.http.login("oli")).json()["access_token"]
    connection = sockets.connection(await sockets.sessions.authenticate(token))
    ok(await sockets.http.with_token(token, "POST", "/auth/logout"), 204)
    await sockets.tell()
    sockets.hub.add(connection)
    await sockets.sessions.sockets_authenticated([Caller(connection.principal, connection_id=connection.id)])
    await sockets.tell()
    assert connection.close_code is CloseCode.ACCESS_REVOKED


# ---- comparing with the database --------------------------------------------------------------------


async def test_a_password_reset_beside_the_server_closes_the_sockets(sockets: Sockets) -> None:
    """`windflow user reset-password` beside a running server: the user's sockets close 4503."""
    mine, other = await sockets.login("oli"), await sockets.login("vic")
    await sockets.behind_the_back(lambda: reset_password(sockets.http.world.db, "oli", "another good pass phrase"))
    assert await sockets.access.check_all() == 1
    assert (mine.close_code, other.close_code) == (CloseCode.ACCESS_REVOKED, None)
    assert sockets.hub.get(mine.id) is None
    assert await sockets.access.check_all() == 0


async def test_changes_by_another_program_are_applied(sockets: Sockets) -> None:
    """By database re-check: rights are recomputed, subscriptions no longer allowed are removed with a reason."""
    world = sockets.http.world
    moved, demoted, gone = [await sockets.login(name) for name in ("oli", "ada", "vic")]
    _, with_token = await sockets.api_token("oli", "viewer")
    topic = Topic("o1", "DEPLOYMENT_CREATED")
    sockets.hub.subscribe(moved, [topic])
    await world.change(User, "oli", organization_id="o2")
    await world.change(User, "ada", role="viewer")
    await world.change(User, "vic", is_active=False)
    assert await sockets.access.check_all() == 4
    assert (moved.principal.organization_id, with_token.principal.organization_id) == ("o2", "o2")
    assert not moved.topics
    await asyncio.sleep(0)  # What is due is written at the end of the tick.
    assert isinstance(moved.outlet, HandOutlet)
    assert "subscription_removed" in moved.outlet.texts[-1]
    assert demoted.principal.role is Role.VIEWER
    assert gone.close_code is CloseCode.ACCESS_REVOKED


async def test_a_session_that_ran_out_closes_4009(sockets: Sockets) -> None:
    """4009: the token ran out; 4503: ended by an act of somebody."""
    connection = await sockets.login("oli")
    await sockets.http.world.change(Session, connection.principal.session_id or "", expires_at=now())
    await sockets.access.check_all()
    assert connection.close_code is CloseCode.TOKEN_EXPIRED


async def test_all_sockets_are_compared_with_one_query(sockets: Sockets) -> None:
    """Re-reads the sessions and users of all open connections in one query, and changes nothing that is right."""
    connections = [await sockets.login(name) for name in ("oli", "ada", "vic", "bob", "root")]
    before = [each.principal for each in connections]
    statements: list[str] = []
    engine = sockets.http.world.db._connected().sync_engine

    def count(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("SELECT"):
            statements.append(statement)

    sqlalchemy_event.listen(engine, "before_cursor_execute", count)
    try:
        assert await sockets.access.check_all() == 0
    finally:
        sqlalchemy_event.remove(engine, "before_cursor_execute", count)
    assert len(statements) == 1
    assert all(each.principal is was for each, was in zip(connections, before, strict=True))


async def test_credentials_that_are_renewed_during_a_comparison_stay(sockets: Sockets) -> None:
    """A fresh token that a socket sends while it is compared is not taken back."""
    connection = await sockets.login("oli")
    fresh = replace(connection.principal, expires_at=now())
    compare = sockets.sessions.present_all

    async def renewed_meanwhile(principals: object) -> object:
        found = await compare(principals)  # type: ignore[arg-type]
        sockets.hub.update_principal(connection, fresh)
        answer: dict[Principal, Found] = {each: replace(each, role=Role.ADMIN) for each in found}
        return answer

    sockets.sessions.present_all = renewed_meanwhile  # type: ignore[method-assign, assignment]
    assert await sockets.access.check_all() == 0
    assert connection.principal is fresh


async def _wait(entered: asyncio.Event) -> None:
    await entered.wait()


async def _both(*tasks: "asyncio.Task[None]") -> None:
    await asyncio.gather(*tasks)
