"""Who a session or an API token stands for now: one read of the database, nothing from a cache.

Called by `Sessions` for every request and for each socket whose user changed.
"""

from datetime import datetime

from sqlalchemy import ColumnElement, select

from backend.app.auth.permissions import Principal
from backend.app.database import Database
from backend.app.models import ApiToken, Session, User
from backend.app.models.columns import now
from backend.app.operations.identity_events import principal_of
from backend.app.schemas.errors import ErrorCode, WindFlowError
from backend.app.schemas.roles import Role


class UserInactive(WindFlowError):
    """The token is sound, but its user is gone or must not log in; a socket is told so in its close reason."""

    def __init__(self) -> None:
        super().__init__(ErrorCode.NOT_AUTHENTICATED, "the user does not exist or is inactive")


async def session_principal(db: Database, user_id: str, session_id: str, expires_at: datetime | None) -> Principal:
    """Return the user of a live session; `expires_at` is when the access token ends.

    Raise `not_authenticated` when the session was ended or the user is gone or inactive, `token_expired`
    when the session ran out.
    """
    async with db.session() as session:
        found = await session.execute(
            select(User, Session)
            .join(Session, Session.user_id == User.id)
            .where(Session.id == session_id, User.id == user_id)
        )
        row = found.first()
    if row is None or not row.User.is_active:
        raise UserInactive
    if row.Session.ended_at is not None:
        raise WindFlowError(ErrorCode.NOT_AUTHENTICATED, "the session has ended")
    if row.Session.expires_at <= now():
        raise WindFlowError(ErrorCode.TOKEN_EXPIRED, "the session has run out")
    return principal_of(row.User, session_id, expires_at)


async def token_principal(db: Database, which: ColumnElement[bool]) -> Principal:
    """Return whom an API token stands for: its owner, with the lesser of both roles, never as a superuser.

    Raise `not_authenticated`, or `token_expired` when it ran out.
    """
    async with db.session() as session:
        found = await session.execute(select(User, ApiToken).join(ApiToken, ApiToken.user_id == User.id).where(which))
        row = found.first()
    if row is None or not row.User.is_active or row.ApiToken.revoked_at is not None:
        raise WindFlowError(ErrorCode.NOT_AUTHENTICATED, "the API token is not valid")
    owner, token = row.User, row.ApiToken
    if token.expires_at is not None and token.expires_at <= now():
        raise WindFlowError(ErrorCode.TOKEN_EXPIRED, "the API token has run out")
    owners_role = Role.ADMIN if owner.is_superuser else Role(owner.role)
    role = Role(token.role) if owners_role.includes(Role(token.role)) else owners_role
    return Principal(
        owner.id, owner.username, owner.organization_id, role, token_id=token.id, expires_at=token.expires_at
    )
