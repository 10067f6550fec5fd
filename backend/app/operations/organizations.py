"""Organizations, for superusers. Each has a stream of its own from the start.

Used by routes and by the first start. An organization goes only when nobody and nothing is in it.
"""

from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from backend.app.auth.permissions import Caller
from backend.app.config import Settings
from backend.app.database import Database, Transaction
from backend.app.models import Deployment, Organization, User
from backend.app.models.columns import new_id, now
from backend.app.operations.idempotency import once
from backend.app.operations.identity_reads import PageRequest, read_page, with_positions
from backend.app.operations.stored_text import is_storable
from backend.app.realtime.event import stream_of
from backend.app.realtime.event_log import open_stream
from backend.app.realtime.unit_of_work import audit
from backend.app.schemas.errors import ErrorCode, WindFlowError, not_found
from backend.app.schemas.times import wire_time


class Organizations:
    """The operations on organizations."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self._db = db
        self._settings = settings

    async def page(self, page: PageRequest = PageRequest()) -> dict[str, Any]:
        """Return a page of all organizations, newest first."""
        order = (Organization.created_at, Organization.id)
        async with self._db.session() as session:
            rows, following = await read_page(session, select(Organization), order, page, self._settings.page_limit)
            answer = {"items": [_shown(row.Organization) for row in rows], "nextCursor": following}
            return await with_positions(session, answer, [None])

    async def get(self, organization_id: str) -> dict[str, Any]:
        """Return one organization with positions; raise `not_found`."""
        async with self._db.session() as session:
            organization = await session.get(Organization, organization_id) if is_storable(organization_id) else None
            if organization is None:
                raise not_found("organization")
            return await with_positions(session, _shown(organization), [organization.id])

    async def create(self, caller: Caller, name: str) -> dict[str, Any]:
        """Make an organization with its stream and return it; raise `name_taken`."""

        def make(tx: Transaction) -> dict[str, Any]:
            organization = make_organization(tx, name)
            audit(tx, "organization.create", caller, **_about(organization), name=name)
            return _shown(organization)

        return await self._db.write(lambda tx: once(tx, caller, self._settings.idempotency_seconds, lambda: make(tx)))

    async def rename(self, caller: Caller, organization_id: str, name: str) -> dict[str, Any]:
        """Give an organization another name and return it; raise `not_found`, `name_taken`."""

        def unit(tx: Transaction) -> dict[str, Any]:
            organization = _lock(tx, organization_id)
            if organization.name != name:
                facts = {"from": organization.name, "to": name}
                organization.name = name
                _store(tx, organization)
                audit(tx, "organization.update", caller, **_about(organization), changes={"name": facts})
            return _shown(organization)

        return await self._db.write(unit)

    async def delete(self, caller: Caller, organization_id: str) -> None:
        """Delete an organization; raise `not_found`, and `not_empty` while it has users or deployments."""

        def unit(tx: Transaction) -> None:
            organization = _lock(tx, organization_id)
            for what in (User, Deployment):
                inside = select(what.id).where(what.organization_id == organization.id).limit(1)
                if tx.session.scalar(inside) is not None:
                    raise WindFlowError(ErrorCode.NOT_EMPTY)
            audit(tx, "organization.delete", caller, **_about(organization), name=organization.name)
            tx.session.delete(organization)

        await self._db.write(unit)


def make_organization(tx: Transaction, name: str) -> Organization:
    """Make an organization and open its stream; raise `name_taken`."""
    organization = Organization(id=new_id(), name=name, created_at=now())
    _store(tx, organization)
    open_stream(tx.conn, stream_of(organization.id))
    return organization


def _lock(tx: Transaction, organization_id: str) -> Organization:
    locked = select(Organization).where(Organization.id == organization_id).with_for_update()
    organization = tx.session.scalar(locked) if is_storable(organization_id) else None
    if organization is None:
        raise not_found("organization")
    return organization


def _store(tx: Transaction, organization: Organization) -> None:
    same = select(Organization.id).where(Organization.name == organization.name, Organization.id != organization.id)
    with tx.session.no_autoflush:
        if tx.session.scalar(same) is not None:
            raise WindFlowError(ErrorCode.NAME_TAKEN, "name: this name is in use")
    tx.session.add(organization)
    try:
        tx.session.flush()
    except IntegrityError as error:  # somebody took the name at the same moment (PostgreSQL)
        raise WindFlowError(ErrorCode.NAME_TAKEN, "name: this name is in use") from error


def _about(organization: Organization) -> dict[str, Any]:
    return {"target": f"organization/{organization.id}", "organization_id": organization.id}


def _shown(organization: Organization) -> dict[str, Any]:
    return {"id": organization.id, "name": organization.name, "createdAt": wire_time(organization.created_at)}
