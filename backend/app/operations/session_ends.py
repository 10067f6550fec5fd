"""The end of sessions: why, which ones, and the events that tell their sockets.

Called inside units of work by `Sessions`, `Users`, the password reset and housekeeping. A session that
has ended stays ended; its row stays until it is purged, so that re-use of its tokens is noticed.
"""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import ColumnElement, exists, or_, select

from backend.app.auth.permissions import Caller
from backend.app.database import Transaction
from backend.app.models import ApiToken, RefreshToken, Session
from backend.app.models.columns import now
from backend.app.operations.delete_some import delete_some
from backend.app.operations.identity_events import IdentityEvents, Subject
from backend.app.operations.session_rows import is_live

LOGOUT = "logout"
LOGOUT_EVERYWHERE = "logout_everywhere"
ENDED_BY_USER = "ended_by_user"
ENDED_BY_ADMIN = "ended_by_admin"
PASSWORD_CHANGED = "password_changed"
USER_DEACTIVATED = "user_deactivated"
USER_DELETED = "user_deleted"
TOKEN_REVOKED = "token_revoked"


def end_sessions(tx: Transaction, reason: str, *conditions: ColumnElement[bool]) -> Sequence[Session]:
    """End the live sessions that meet the conditions and return them, locked, in the order of their ids."""
    moment = now()
    found = tx.session.scalars(
        select(Session).where(is_live(moment), *conditions).order_by(Session.id).with_for_update()
    ).all()
    for session in found:
        session.ended_at, session.end_reason = moment, reason
    tx.session.flush()
    return found


def end_sessions_of_user(
    tx: Transaction,
    events: IdentityEvents,
    caller: Caller,
    subject: Subject,
    reason: str,
    except_session_id: str | None = None,
) -> list[str]:
    """End all sessions of a user but one, each with its SESSION_EXPIRED, and return their ids."""
    conditions = [Session.user_id == subject.user_id]
    if except_session_id is not None:
        conditions.append(Session.id != except_session_id)
    ended = [session.id for session in end_sessions(tx, reason, *conditions)]
    for session_id in ended:
        events.session_expired(tx, caller, subject, session_id, reason)
    return ended


def end_everything_of_user(
    tx: Transaction, events: IdentityEvents, caller: Caller, subject: Subject, reason: str
) -> None:
    """End all sessions of a user that must not act any more, and tell the sockets of the user's API tokens.

    The tokens themselves stay as they are: an inactive user's are refused, a deleted user's go with the user.
    """
    end_sessions_of_user(tx, events, caller, subject, reason)
    usable = select(ApiToken.id).where(ApiToken.user_id == subject.user_id, ApiToken.revoked_at.is_(None))
    for token_id in tx.conn.scalars(usable.order_by(ApiToken.id)).all():
        events.token_ended(tx, caller, subject, token_id, reason)


def purge_refresh_tokens(tx: Transaction, kept_seconds: float, life_seconds: float, most: int) -> int:
    """Delete at most so many refresh tokens, and return how many.

    Those of sessions that are over since `kept_seconds`, and those used `life_seconds` ago: so old, a
    token would not work unused either, and its re-use tells nothing more.
    """
    of_dead = RefreshToken.session_id.in_(select(Session.id).where(_is_over(kept_seconds)))
    is_old = RefreshToken.used_at < now() - timedelta(seconds=life_seconds)
    return delete_some(tx, RefreshToken, (RefreshToken.hash,), of_dead | is_old, most)


def purge_sessions(tx: Transaction, kept_seconds: float, most: int) -> int:
    """Delete at most so many sessions that ended or ran out `kept_seconds` ago, and return how many.

    Those that still have refresh tokens stay until these are purged: so one deletion is never a large one.
    """
    has_tokens = exists().where(RefreshToken.session_id == Session.id)
    return delete_some(tx, Session, (Session.id,), _is_over(kept_seconds) & ~has_tokens, most)


def purge_api_tokens(tx: Transaction, kept_seconds: float, most: int) -> int:
    """Delete at most so many API tokens that were revoked or ran out `kept_seconds` ago, and return how many."""
    limit = now() - timedelta(seconds=kept_seconds)
    is_over = or_(ApiToken.revoked_at < limit, ApiToken.expires_at < limit)
    return delete_some(tx, ApiToken, (ApiToken.id,), is_over, most)


def _is_over(kept_seconds: float) -> ColumnElement[bool]:
    limit = now() - timedelta(seconds=kept_seconds)
    return or_(Session.ended_at < limit, Session.expires_at < limit)
