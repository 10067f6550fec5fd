"""One-time tickets: an address that opens one socket or event stream, for clients that cannot send a token otherwise.

Used by the route that gives them out and by whatever lets connections in. A ticket opens what its asker may open at
that moment, once, soon, and only from the same browser origin. Only its hash is stored, in the database, so it
works on every node and after a restart. Invariant: one conditional delete redeems it, so of many at once one succeeds.
"""

from collections.abc import Collection
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, delete, false, func, insert, or_, select

from backend.app.auth.permissions import Caller, Principal
from backend.app.auth.tokens import TICKET_PREFIX, check_token_text, new_opaque_token, token_hash
from backend.app.config import Settings
from backend.app.database import Database, Transaction
from backend.app.models import ApiToken, Session, Ticket
from backend.app.models.columns import now
from backend.app.operations.delete_some import delete_some
from backend.app.operations.session_rows import is_live
from backend.app.operations.sessions import Sessions
from backend.app.realtime.unit_of_work import audit
from backend.app.schemas.errors import ErrorCode, WindFlowError, field_error
from backend.app.schemas.roles import Role
from backend.app.schemas.times import wire_time

_ORIGIN_CHARACTERS = 256

_REDEEM = (Ticket.user_id, Ticket.session_id, Ticket.token_id, Ticket.access_until)


class Tickets:
    """Gives tickets out and redeems them."""

    def __init__(self, db: Database, settings: Settings, sessions: Sessions) -> None:
        self._db = db
        self._settings = settings
        self._sessions = sessions

    async def create(self, caller: Caller, origin: str | None) -> dict[str, Any]:
        """Return a new ticket for the caller's session or API token, and when it ends.

        Raise `rate_limited` when too many of them wait to be redeemed, `not_authenticated` when the session has
        ended meanwhile.
        """
        if origin is not None and len(origin) > _ORIGIN_CHARACTERS:
            raise field_error(ErrorCode.INVALID_PAYLOAD, "Origin", f"at most {_ORIGIN_CHARACTERS} characters")
        who, ticket, moment = caller.principal, new_opaque_token(TICKET_PREFIX), now()
        expires_at = moment + timedelta(seconds=self._settings.ticket_seconds)
        if who.expires_at is not None:
            expires_at = min(expires_at, who.expires_at)
        values = {
            "hash": token_hash(ticket),
            "user_id": who.user_id,
            "session_id": who.session_id,
            "token_id": who.token_id,
            "origin": origin,
            "created_at": moment,
            "expires_at": expires_at,
            "access_until": who.expires_at,
        }

        def unit(tx: Transaction) -> None:
            # Who asks at the same time waits here: the count holds.
            if tx.conn.scalar(_asker(who).with_for_update()) is None:
                raise WindFlowError(ErrorCode.NOT_AUTHENTICATED, "the session has ended")
            own = _of(who)
            tx.conn.execute(delete(Ticket).where(own, Ticket.expires_at <= moment))
            waiting = tx.conn.scalars(select(func.count()).select_from(Ticket).where(own)).one()
            if waiting >= self._settings.max_tickets:
                raise WindFlowError(
                    ErrorCode.RATE_LIMITED,
                    f"at most {self._settings.max_tickets} tickets that are not redeemed",
                    retry_after_seconds=self._settings.ticket_seconds,
                )
            tx.conn.execute(insert(Ticket).values(**values))
            audit(tx, "ticket.create", caller, target=_target(who))

        await self._db.write(unit)
        return {"ticket": ticket, "expiresAt": wire_time(expires_at)}

    async def redeem(self, ticket: str, origins: Collection[str | None]) -> Principal:
        """Use a ticket up; return whom it stands for now.

        `origins` are those that the request may have come from; None: it came from no browser. Raise
        `not_authenticated` for a ticket that was redeemed, is over, was never given out, or was given to another
        origin (which does not use it up), and when its session has ended.
        """
        check_token_text(ticket)
        digest, known = token_hash(ticket), [origin for origin in origins if origin is not None]
        is_from = or_(Ticket.origin.in_(known), Ticket.origin.is_(None) if None in origins else false())

        def unit(tx: Transaction) -> Principal | None:
            which = delete(Ticket).where(Ticket.hash == digest, Ticket.expires_at > now(), is_from)
            row = tx.conn.execute(which.returning(*_REDEEM)).first()
            if row is None:
                return None
            return Principal(
                row.user_id,
                "",
                "",
                Role.VIEWER,
                session_id=row.session_id,
                token_id=row.token_id,
                expires_at=row.access_until,
            )

        found = await self._db.write(unit)
        if found is None:
            raise WindFlowError(ErrorCode.NOT_AUTHENTICATED, "ticket: not valid here, over, or used before")
        # Names and rights are read now: the row only says whose it is.
        return await self._sessions.present(found)


def purge_tickets(tx: Transaction, most: int) -> int:
    """Delete at most so many tickets that are over, and return how many."""
    return delete_some(tx, Ticket, (Ticket.hash,), Ticket.expires_at <= now(), most)


def _asker(who: Principal) -> Select[str]:
    if who.token_id is not None:
        return select(ApiToken.id).where(ApiToken.id == who.token_id, ApiToken.revoked_at.is_(None))
    return select(Session.id).where(Session.id == who.session_id, is_live(now()))


def _of(who: Principal) -> ColumnElement[bool]:
    return Ticket.token_id == who.token_id if who.token_id is not None else Ticket.session_id == who.session_id


def _target(who: Principal) -> str:
    return f"token/{who.token_id}" if who.token_id is not None else f"session/{who.session_id}"
