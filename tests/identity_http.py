"""The routes of auth, users and organizations over HTTP, with two organizations and their people."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import argon2
import httpx
from fastapi import FastAPI
from sqlalchemy import insert, select

from backend.app.api.errors import install_error_handlers
from backend.app.api.middleware import RequestMiddleware
from backend.app.api.v1 import auth, organizations, users
from backend.app.config import Settings
from backend.app.database import Database, Transaction
from backend.app.models import AuditRecord, Organization, User
from backend.app.models.columns import now
from backend.app.operations.organizations import Organizations
from backend.app.operations.sessions import Sessions
from backend.app.operations.tokens import ApiTokens
from backend.app.operations.users import Users
from backend.app.realtime.event import Event, stream_of
from backend.app.realtime.event_log import open_stream
from backend.app.schemas.event_spec import EventCatalogue
from backend.app.schemas.roles import Role
from backend.app.schemas.websocket_events import core_catalogue

SECRET = b"a secret of the tests, 32 bytes or more"
PASSWORD = "a good long pass phrase"
# A cheap hash: what it costs to check is not what these tests are about.
PASSWORD_HASH = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)

PEOPLE = {
    "root": ("o1", Role.ADMIN, True),
    "ada": ("o1", Role.ADMIN, False),
    "oli": ("o1", Role.OPERATOR, False),
    "vic": ("o1", Role.VIEWER, False),
    "bob": ("o2", Role.ADMIN, False),
}
"""Name (also the id): organization, role, superuser."""


@dataclass
class Identity:
    """The operations on one database, the application that serves them, and what was committed."""

    db: Database
    settings: Settings
    committed: list[Event]
    catalogue: EventCatalogue = field(default_factory=core_catalogue)

    def __post_init__(self) -> None:
        self.sessions = Sessions(self.db, self.settings, self.catalogue, SECRET)
        self.users = Users(self.db, self.settings, self.catalogue, self.sessions)
        self.tokens: dict[str, str] = {}
        """Access tokens of the people who logged in by being asked for."""
        self.app = FastAPI()
        for module in (auth, users, organizations):
            self.app.include_router(module.router, prefix="/api/v1")
        self.app.add_middleware(RequestMiddleware, max_bytes=self.settings.request_bytes)
        install_error_handlers(self.app)
        self.app.state.services = SimpleNamespace(
            settings=self.settings,
            db=self.db,
            sessions=self.sessions,
            users=self.users,
            organizations=Organizations(self.db, self.settings),
            tokens=ApiTokens(self.db, self.settings, self.catalogue),
            request_secret=SECRET,
        )

    async def fill(self) -> None:
        """Make the people."""

        def unit(tx: Transaction) -> None:
            for organization in ("o1", "o2"):
                tx.conn.execute(insert(Organization).values(id=organization, name=organization, created_at=now()))
                open_stream(tx.conn, stream_of(organization))
            for name, (organization, role, is_superuser) in PEOPLE.items():
                tx.conn.execute(
                    insert(User).values(
                        id=name,
                        username=name,
                        organization_id=organization,
                        role=role.value,
                        is_superuser=is_superuser,
                        is_active=True,
                        password_hash=PASSWORD_HASH,
                        created_at=now(),
                    )
                )

        await self.db.write(unit)

    async def change(self, table: Any, row_id: str, **values: Any) -> None:
        """Change a row behind the operations' back."""
        await self.db.write(lambda tx: tx.conn.execute(table.__table__.update().where(table.id == row_id), values))

    async def rows(self, statement: Any) -> list[Any]:
        """Return what a statement finds."""
        async with self.db.session() as session:
            return list((await session.execute(statement)).all())

    async def trail(self, event: str) -> list[AuditRecord]:
        """Return the audit rows of one kind, in order."""
        found = await self.rows(select(AuditRecord).where(AuditRecord.event == event).order_by(AuditRecord.seq))
        return [row.AuditRecord for row in found]

    def events(self, name: str) -> list[Event]:
        """Return the committed events of one type."""
        return [event for event in self.committed if event.spec.name == name]


class Http:
    """Asks the routes as one of the people: `answer = await http("ada", "GET", "/users")`."""

    def __init__(self, world: Identity, client: httpx.AsyncClient) -> None:
        self.world = world
        self.client = client

    async def login(self, name: str, password: str = PASSWORD, **more: Any) -> httpx.Response:
        """Send the login form."""
        form = {"username": name, "password": password}
        return await self.client.post("/api/v1/auth/login", data=form, **more)

    async def refresh(self, refresh_token: str) -> httpx.Response:
        """Send a refresh token."""
        return await self.client.post("/api/v1/auth/refresh", json={"refreshToken": refresh_token})

    async def with_token(self, token: str, method: str, path: str, body: Any = None, **more: Any) -> httpx.Response:
        """Send one request with an access token; `more` goes to httpx."""
        headers = {"Authorization": f"Bearer {token}", **more.pop("headers", {})}
        if body is not None:
            more["json"] = body
        return await self.client.request(method, f"/api/v1{path}", headers=headers, **more)

    async def __call__(self, name: str, method: str, path: str, body: Any = None, **more: Any) -> httpx.Response:
        """Send one request as one of the people, logged in on first use."""
        if name not in self.world.tokens:
            self.world.tokens[name] = (await self.login(name)).json()["access_token"]
        return await self.with_token(self.world.tokens[name], method, path, body, **more)


@asynccontextmanager
async def serving(db: Database, settings: Settings, committed: list[Event]) -> AsyncIterator[Http]:
    """Make the people in an empty database, and give the HTTP side."""
    world = Identity(db, settings, committed)
    await world.fill()
    transport = httpx.ASGITransport(world.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield Http(world, client)


def refused(response: httpx.Response, status: int, code: str, field: str | None = None) -> Any:
    """Check the one shape of errors, and the first broken field; return the details."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"code", "message", "details", "requestId"}
    assert body["code"] == code, body
    if field is not None:
        assert body["details"][0]["field"] == field, body
        assert body["details"][0]["rule"]
    return body["details"]


def ok(response: httpx.Response, status: int = 200) -> Any:
    """Check the status and return the body, None for 204."""
    assert response.status_code == status, response.text
    return response.json() if response.content else None
