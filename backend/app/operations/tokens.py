"""API tokens: for programs, with a role of their own, shown once, revoked by their owner.

Used by routes; `Sessions.authenticate` reads them. A token acts with the lesser of its role and
its owner's and is never a superuser, whoever made it; a leaked one cannot make others.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import select

from backend.app.auth.permissions import Caller
from backend.app.auth.tokens import API_TOKEN_PREFIX, new_opaque_token, token_hash
from backend.app.config import Settings
from backend.app.database import Database, Transaction
from backend.app.models import ApiToken, User
from backend.app.models.columns import new_id, now
from backend.app.operations.idempotency import once
from backend.app.operations.identity_events import IdentityEvents, Subject
from backend.app.operations.identity_reads import PageRequest, read_page, with_positions
from backend.app.operations.session_ends import TOKEN_REVOKED
from backend.app.operations.stored_text import is_storable
from backend.app.operations.user_rows import require_role
from backend.app.realtime.unit_of_work import audit
from backend.app.schemas.errors import ErrorCode, WindFlowError, field_error, not_found
from backend.app.schemas.event_spec import EventCatalogue
from backend.app.schemas.roles import Role
from backend.app.schemas.times import wire_time


class ApiTokens:
    """The operations on the caller's own API tokens."""

    def __init__(self, db: Database, settings: Settings, catalogue: EventCatalogue) -> None:
        self._db = db
        self._settings = settings
        self._events = IdentityEvents(catalogue)

    async def page(self, caller: Caller, page: PageRequest = PageRequest()) -> dict[str, Any]:
        """Return a page of the caller's tokens that are not revoked, newest first."""
        who = caller.principal
        statement = select(ApiToken).where(ApiToken.user_id == who.user_id, ApiToken.revoked_at.is_(None))
        order = (ApiToken.created_at, ApiToken.id)
        async with self._db.session() as session:
            rows, following = await read_page(session, statement, order, page, self._settings.page_limit)
            answer = {"items": [_shown(row.ApiToken) for row in rows], "nextCursor": following}
            return await with_positions(session, answer, [who.organization_id])

    async def create(self, caller: Caller, name: str, role: Role, expires_at: datetime | None) -> dict[str, Any]:
        """Make a token and return it with its `secret`, which nobody can read again, also not a retry.

        Raise `role_too_high`, and `forbidden` to an API token.
        """
        who = caller.principal
        if who.token_id is not None:
            raise WindFlowError(ErrorCode.FORBIDDEN, "an API token cannot make others: log in")
        require_role(caller, role)
        if expires_at is not None and expires_at <= now():
            raise field_error(ErrorCode.INVALID_PAYLOAD, "expiresAt", "must be in the future")
        secret = new_opaque_token(API_TOKEN_PREFIX)
        token = ApiToken(
            id=new_id(),
            user_id=who.user_id,
            name=name,
            hash=token_hash(secret),
            role=role.value,
            created_at=now(),
            expires_at=expires_at,
        )

        def make(tx: Transaction) -> dict[str, Any]:
            owner = select(User.id).where(User.id == who.user_id).with_for_update(read=True, key_share=True)
            if tx.conn.scalar(owner) is None:
                raise WindFlowError(ErrorCode.NOT_AUTHENTICATED, "the user was deleted")
            tx.session.add(token)
            audit(tx, "token.create", caller, target=f"token/{token.id}", name=name, role=role.value)
            return _shown(token)

        answer = await self._db.write(lambda tx: once(tx, caller, self._settings.idempotency_seconds, lambda: make(tx)))
        return {**answer, "secret": secret if answer["id"] == token.id else None}

    async def revoke(self, caller: Caller, token_id: str) -> None:
        """Revoke an own token at once, and end its sockets; raise `not_found`."""
        if not is_storable(token_id):
            raise not_found("token")

        def unit(tx: Transaction) -> None:
            token = tx.session.scalar(
                select(ApiToken)
                .where(
                    ApiToken.id == token_id,
                    ApiToken.user_id == caller.principal.user_id,
                    ApiToken.revoked_at.is_(None),
                )
                .with_for_update()
            )
            if token is None:
                raise not_found("token")
            token.revoked_at = now()
            audit(tx, "token.revoke", caller, target=f"token/{token.id}", name=token.name)
            subject = Subject(caller.principal.user_id, caller.principal.organization_id)
            self._events.token_ended(tx, caller, subject, token.id, TOKEN_REVOKED)

        await self._db.write(unit)


def _shown(token: ApiToken) -> dict[str, Any]:
    return {
        "id": token.id,
        "name": token.name,
        "role": token.role,
        "createdAt": wire_time(token.created_at),
        "expiresAt": wire_time(token.expires_at) if token.expires_at else None,
    }
