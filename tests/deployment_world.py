"""Two organizations with their users and the operations on deployments, for tests."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import func, insert, select, update

from backend.app.auth.permissions import Caller, IdempotencyRequest, Principal
from backend.app.config import Settings
from backend.app.database import Database
from backend.app.models import AuditRecord, Deployment, Organization, User
from backend.app.models.columns import now
from backend.app.operations.deployment_logs import LogLine
from backend.app.operations.deployment_reads import LogQuery
from backend.app.operations.deployments import Deployments, NewDeployment
from backend.app.operations.events import Events
from backend.app.operations.leases import LeaseSweeper
from backend.app.operations.notifications import Notifications
from backend.app.realtime.event import Event
from backend.app.realtime.event_log import open_stream
from backend.app.schemas.event_spec import EventCatalogue, Sender
from backend.app.schemas.roles import Role
from backend.app.schemas.websocket_events import core_catalogue

RUNNER = "0190a000-0000-7000-8000-000000000001"
OTHER_RUNNER = "0190a000-0000-7000-8000-000000000002"

PEOPLE = {
    "ada": ("o1", Role.OPERATOR, False),
    "vic": ("o1", Role.VIEWER, False),
    "adm": ("o1", Role.ADMIN, False),
    "bob": ("o2", Role.OPERATOR, False),
    "root": ("o1", Role.ADMIN, True),
}
"""Name (also the id): organization, role, superuser."""


def caller(name: str = "ada", *, runner: str | None = None, key: str | None = None, body: str = "") -> Caller:
    """Return one of the people as a caller, maybe as a runner, maybe with an Idempotency-Key."""
    organization, role, is_superuser = PEOPLE[name]
    principal = Principal(name, name, organization, role, is_superuser)
    idempotency = IdempotencyRequest(key, body) if key else None
    return Caller(principal, runner_id=runner, idempotency=idempotency)


def lines(*texts: str) -> list[LogLine]:
    """Return plain lines."""
    return [LogLine(text) for text in texts]


@dataclass
class World:
    """The operations on one database, and what they handed on and pushed."""

    db: Database
    settings: Settings
    committed: list[Event]
    catalogue: EventCatalogue = field(default_factory=core_catalogue)
    pushed: list[tuple[str, str, Mapping[str, Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.deployments = Deployments(self.db, self.settings, self.catalogue)
        self.notifications = Notifications(self.db, self.settings, self.catalogue)
        self.sweeper = LeaseSweeper(self.db, self.settings, self.catalogue)
        self.events = Events(
            self.db,
            self.settings,
            self.catalogue,
            self.committed.append,
            self.deployments,
            self.notifications,
            lambda user, organization, message: self.pushed.append((user, organization, message)),
        )

    @classmethod
    async def make(cls, db: Database, settings: Settings, committed: list[Event]) -> "World":
        """Fill the empty tables and return the world."""

        def fill(tx: Any) -> None:
            for name in ("o1", "o2"):
                tx.conn.execute(insert(Organization).values(id=name, name=name, created_at=now()))
                open_stream(tx.conn, f"org:{name}")
            for name, (organization, role, is_superuser) in PEOPLE.items():
                tx.conn.execute(
                    insert(User).values(
                        id=name,
                        organization_id=organization,
                        username=name,
                        password_hash="-",
                        role=role.value,
                        is_superuser=is_superuser,
                        is_active=True,
                        created_at=now(),
                    )
                )

        await db.write(fill)
        return cls(db, settings, committed)

    def types(self) -> list[str]:
        """The types of the events so far, in order."""
        return [event.spec.name for event in self.committed]

    def last(self, event_type: str) -> dict[str, Any]:
        """The payload of the last event of a type."""
        return [event.payload for event in self.committed if event.spec.name == event_type][-1]

    async def create(self, deployment_id: str = "d1", by: Caller | None = None, **content: Any) -> dict[str, Any]:
        """Create a deployment."""
        new = NewDeployment(content.pop("name", "site"), deployment_id, **content)
        return (await self.deployments.create(by or caller(), new))[0]

    async def running(self, deployment_id: str = "d1", runner: str | None = RUNNER) -> Caller:
        """Create and start a deployment; return the caller that runs it."""
        by = caller(runner=runner)
        await self.create(deployment_id, by)
        await self.deployments.change_status(by, deployment_id, "running")
        return by

    async def status(self, deployment_id: str = "d1") -> str:
        """The present status."""
        return str((await self.deployments.get(caller("root"), deployment_id))["status"])

    async def texts(self, deployment_id: str = "d1") -> list[str]:
        """The stored lines."""
        page = await self.deployments.read_logs(caller("root"), deployment_id, LogQuery())
        return [item["text"] for item in page["items"]]

    async def set(self, deployment_id: str, **columns: Any) -> None:
        """Change columns of a deployment behind its back: what time would do."""
        await self.db.write(
            lambda tx: tx.conn.execute(update(Deployment).where(Deployment.id == deployment_id).values(**columns))
        )

    async def audited(self) -> list[str]:
        """The acts in the audit trail, oldest first."""
        async with self.db.session() as session:
            return list(await session.scalars(select(AuditRecord.event).order_by(AuditRecord.chain, AuditRecord.seq)))

    async def count(self, table: Any) -> int:
        """The rows of a table."""
        async with self.db.session() as session:
            return await session.scalar(select(func.count()).select_from(table)) or 0


def as_plugin(by: Caller, hop: int = 1) -> Caller:
    """Return a caller as it is when a plugin publishes."""
    return replace(by, sender=Sender.PLUGIN, hop=hop)


def as_api(by: Caller) -> Caller:
    """Return a caller as it is in `POST /events`."""
    return replace(by, sender=Sender.API)
