"""The rows of a session: its opening, and the rotation of its refresh tokens.

Called inside units of work by `Sessions`. Whoever changes a session holds its row's
lock, so of two requests with the same refresh token one is first, and nothing revives an ended one.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, select

from backend.app.auth.tokens import REFRESH_TOKEN_PREFIX, new_opaque_token, token_hash
from backend.app.database import Transaction
from backend.app.models import RefreshToken, Session, User
from backend.app.models.columns import new_id, now
from backend.app.schemas.errors import ErrorCode, WindFlowError

MAX_SIBLINGS = 16
"""Most children of one refresh token: tabs that refresh within the same few seconds."""

TOKEN_REUSED = "token_reused"


@dataclass(frozen=True, slots=True)
class Rotation:
    """What presenting a refresh token led to."""

    user: User
    session: Session
    refresh_token: str | None
    """The next one; None: the token was used before, and the session is ended now."""


def is_live(moment: datetime) -> ColumnElement[bool]:
    """Return the condition for sessions that are neither ended nor run out."""
    return Session.ended_at.is_(None) & (Session.expires_at > moment)


def open_session(
    tx: Transaction, user: User, *, address: str | None, client: str | None, seconds: float
) -> tuple[Session, str]:
    """Make a session of `seconds` and return it with its first refresh token."""
    moment = now()
    session = Session(
        id=new_id(),
        user_id=user.id,
        created_at=moment,
        last_used_at=moment,
        expires_at=moment + timedelta(seconds=seconds),
        address=address[:64] if address else None,
        client=client.replace("\x00", "")[:256] if client else None,
    )
    tx.session.add(session)
    tx.session.flush()
    return session, _new_refresh_token(tx, session.id, None)


def rotate(tx: Transaction, refresh_token: str, *, seconds: float, grace_seconds: float) -> Rotation:
    """Exchange a refresh token for its successor and let the session live on for `seconds`.

    A used one gets a sibling of its unused successors for `grace_seconds`; after that its use ends
    the session. Raise `not_authenticated` for an unknown one, `token_expired` when its session ended,
    `rate_limited` for too many siblings.
    """
    digest = token_hash(refresh_token)
    session_id = tx.conn.scalar(select(RefreshToken.session_id).where(RefreshToken.hash == digest))
    session = tx.session.scalar(select(Session).where(Session.id == session_id).with_for_update())
    # Read under the session's lock: a twin that was first has marked it by now.
    presented = tx.session.get(RefreshToken, digest)
    if session is None or presented is None:
        raise WindFlowError(ErrorCode.NOT_AUTHENTICATED, "the refresh token is not valid")
    user = tx.session.get(User, session.user_id)
    moment = now()
    if user is None or not user.is_active or session.ended_at is not None or session.expires_at <= moment:
        raise WindFlowError(ErrorCode.TOKEN_EXPIRED, "the session has ended: log in again")
    if presented.used_at is None:
        presented.used_at = moment
    elif not _is_forgiven(tx, presented, moment, grace_seconds):
        session.ended_at, session.end_reason = moment, TOKEN_REUSED
        return Rotation(user, session, None)
    session.last_used_at = moment
    session.expires_at = moment + timedelta(seconds=seconds)
    return Rotation(user, session, _new_refresh_token(tx, session.id, digest))


def _is_forgiven(tx: Transaction, presented: RefreshToken, moment: datetime, grace_seconds: float) -> bool:
    """Tell whether a used token may come again: soon, and while none of its children was used."""
    assert presented.used_at is not None
    if moment - presented.used_at >= timedelta(seconds=grace_seconds):
        return False
    children = tx.conn.scalars(select(RefreshToken.used_at).where(RefreshToken.parent_hash == presented.hash)).all()
    if any(used_at is not None for used_at in children):
        return False
    if len(children) >= MAX_SIBLINGS:
        raise WindFlowError(
            ErrorCode.RATE_LIMITED, "this refresh token came too often", retry_after_seconds=grace_seconds
        )
    return True


def _new_refresh_token(tx: Transaction, session_id: str, parent_hash: str | None) -> str:
    token = new_opaque_token(REFRESH_TOKEN_PREFIX)
    tx.session.add(RefreshToken(hash=token_hash(token), session_id=session_id, parent_hash=parent_hash))
    return token
