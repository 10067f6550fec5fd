"""Logins and what follows from them: access tokens, refreshes, logouts, and who a token stands for.

Used by routes, sockets and the command line. Every answer to a wrong login is the same and costs
one password check. Rights come from the database with each use of a token, never from the token.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from backend.app import metrics
from backend.app.auth.login_gate import LoginGate
from backend.app.auth.login_limiter import LoginLimiter, network
from backend.app.auth.passwords import Passwords
from backend.app.auth.permissions import Caller, Permission, Principal, nobody
from backend.app.auth.tokens import API_TOKEN_PREFIX, AccessTokens, check_token_text, token_hash
from backend.app.auth.usernames import spell
from backend.app.config import Settings
from backend.app.database import Database, Transaction
from backend.app.models import ApiToken, Session, User
from backend.app.models.columns import now
from backend.app.operations import session_ends
from backend.app.operations.identity_events import IdentityEvents, Subject, principal_of, subject_of
from backend.app.operations.identity_reads import PageRequest, read_page, with_positions
from backend.app.operations.principals import Found, SessionPrincipals, present_principals, token_principal
from backend.app.operations.session_ends import end_sessions
from backend.app.operations.session_rows import TOKEN_REUSED, is_live, open_session, rotate
from backend.app.operations.stored_text import is_storable
from backend.app.realtime.unit_of_work import audit
from backend.app.schemas.errors import ErrorCode, WindFlowError, not_found
from backend.app.schemas.event_spec import EventCatalogue
from backend.app.schemas.times import wire_time


@dataclass(frozen=True, slots=True)
class TokenPair:
    """What a login or a refresh gives."""

    access_token: str
    expires_in: int
    """Seconds from now."""
    refresh_token: str
    principal: Principal


class Sessions:
    """The operations on sessions. `passwords` and `gate` are shared with what else checks passwords."""

    def __init__(self, db: Database, settings: Settings, catalogue: EventCatalogue, secret: bytes) -> None:
        self._db = db
        self._settings = settings
        self._events = IdentityEvents(catalogue)
        self._principals = SessionPrincipals(
            db, most=settings.session_read_group, group_seconds=settings.session_read_seconds
        )
        self._access_tokens = AccessTokens(
            secret, issuer=settings.issuer, audience=settings.audience, seconds=settings.access_token_seconds
        )
        self.passwords = Passwords()
        self.gate = LoginGate(LoginLimiter(settings.login_failures, settings.login_failure_window_seconds))

    # ---- login and refresh ----------------------------------------------------------------------

    async def login(
        self, username: str, password: str, *, address: str | None, client: str | None, request_id: str | None
    ) -> TokenPair:
        """Start a session; raise `invalid_credentials`, or `rate_limited` after too many failures.

        A cancelled login may have made its session; nobody has its tokens.
        """
        name = spell(username)
        async with self.gate.attempt(name or username, address, lambda: self._own_place(name, address)) as attempt:
            user = await self._find_user(name)
            is_right = await self.passwords.verify(password, user.password_hash if user and user.is_active else None)
            origin = Caller(nobody(), address=address, request_id=request_id)
            pair = await self._start(user, origin, client) if is_right and user else None
            attempt.is_success = pair is not None
            if pair is None:
                # A name that nobody has is not stored: people type passwords into the wrong field.
                await self._refused(origin, user, "auth.login")
                metrics.LOGINS.labels(_INVALID).inc()
                raise WindFlowError(ErrorCode.INVALID_CREDENTIALS)
        metrics.LOGINS.labels("success").inc()
        return pair

    async def _own_place(self, name: str | None, address: str | None) -> str | None:
        """Return the network of an address if the user had a session from there that is not purged yet."""
        if address is None:
            return None
        places = (
            select(Session.address)
            .join(User, User.id == Session.user_id)
            .where(User.username == (name or ""), Session.address.is_not(None))
            .order_by(Session.last_used_at.desc())
            .limit(_MOST_PLACES)
        )
        async with self._db.session() as session:
            known = (await session.scalars(places)).all()
        here = network(address)
        return f"address {here}" if any(network(each or "") == here for each in known) else None

    async def _find_user(self, name: str | None) -> User | None:
        if name is None:
            return None
        async with self._db.session() as session:
            user: User | None = await session.scalar(select(User).where(User.username == name))
            return user

    async def _start(self, checked: User, origin: Caller, client: str | None) -> TokenPair | None:
        """Open the session, unless user or password changed since the password was checked."""

        def unit(tx: Transaction) -> TokenPair | None:
            locked = select(User).where(User.id == checked.id).with_for_update(read=True)
            user = tx.session.scalar(locked)
            if user is None or not user.is_active or user.password_hash != checked.password_hash:
                return None
            seconds = self._settings.refresh_token_seconds
            session, refresh_token = open_session(tx, user, address=origin.address, client=client, seconds=seconds)
            pair = self._pair(user, session, refresh_token)
            caller = Caller(pair.principal, address=origin.address, request_id=origin.request_id)
            self._events.logged_in(tx, caller)
            return pair

        return await self._db.write(unit)

    async def _refused(self, origin: Caller, user: User | None, act: str) -> None:
        """Leave a trace of a wrong password: in the trail of the user's organization, or in the system's."""

        def unit(tx: Transaction) -> None:
            target = f"user/{user.id}" if user else None
            organization_id = user.organization_id if user else None
            audit(tx, act, origin, target=target, outcome=_INVALID, organization_id=organization_id)

        await self._db.write(unit)

    async def refresh(self, refresh_token: str, *, address: str | None, request_id: str | None) -> TokenPair:
        """Exchange a refresh token for a new pair; see `session_rows.rotate` for what is refused.

        Raise `token_reused`, with the whole session ended, when it was used before.
        """
        check_token_text(refresh_token)
        origin = Caller(nobody(), address=address, request_id=request_id)
        settings = self._settings

        def unit(tx: Transaction) -> TokenPair | None:
            rotation = rotate(
                tx,
                refresh_token,
                seconds=settings.refresh_token_seconds,
                grace_seconds=settings.refresh_grace_seconds,
            )
            user, session = rotation.user, rotation.session
            if rotation.refresh_token is None:
                audit(
                    tx,
                    "auth.refresh",
                    origin,
                    target=f"session/{session.id}",
                    outcome=ErrorCode.TOKEN_REUSED.value,
                    organization_id=user.organization_id,
                )
                self._events.session_expired(tx, origin, subject_of(user), session.id, TOKEN_REUSED)
                return None
            pair = self._pair(user, session, rotation.refresh_token)
            self._events.token_refreshed(tx, Caller(pair.principal, address=address, request_id=request_id))
            return pair

        pair = await self._db.write(unit)
        if pair is None:
            raise WindFlowError(ErrorCode.TOKEN_REUSED)
        return pair

    def _pair(self, user: User, session: Session, refresh_token: str) -> TokenPair:
        token, claims = self._access_tokens.issue(user.id, session.id, session.expires_at)
        principal = principal_of(user, session.id, claims.expires_at)
        seconds = max(1, round((claims.expires_at - now()).total_seconds()))
        return TokenPair(token, seconds, refresh_token, principal)

    # ---- who a token stands for -----------------------------------------------------------------

    async def authenticate(self, token: str) -> Principal:
        """Return whom an access token or API token stands for now, with one read of the database.

        Raise `not_authenticated`, or `token_expired` for one that was valid.
        """
        check_token_text(token)
        if token.startswith(API_TOKEN_PREFIX):
            return await token_principal(self._db, ApiToken.hash == token_hash(token))
        claims = self._access_tokens.read(token)
        return await self._principals.read(claims.user_id, claims.session_id, claims.expires_at)

    async def present(self, principal: Principal) -> Principal:
        """Return what a principal is now, for sockets whose user changed; raise as `authenticate` does."""
        if principal.token_id is not None:
            return await token_principal(self._db, ApiToken.id == principal.token_id)
        if principal.session_id is None:
            raise WindFlowError(ErrorCode.NOT_AUTHENTICATED, "there is no session")
        return await self._principals.read(principal.user_id, principal.session_id, principal.expires_at)

    async def present_all(self, principals: Iterable[Principal]) -> Mapping[Principal, Found]:
        """Return what many principals are now, or why they are nobody, with one query for each kind of credentials."""
        return await present_principals(self._db, principals)

    async def sockets_authenticated(self, callers: Sequence[Caller]) -> None:
        """Publish and audit that sockets authenticated, in one unit; each caller names its connection."""

        def unit(tx: Transaction) -> None:
            for caller in callers:
                self._events.logged_in(tx, caller)

        await self._db.write(unit)

    # ---- the end --------------------------------------------------------------------------------

    async def logout(self, caller: Caller, *, everywhere: bool) -> None:
        """End the caller's session, or all sessions of the user; an API token by itself has none to end."""
        who = caller.principal
        reason = session_ends.LOGOUT_EVERYWHERE if everywhere else session_ends.LOGOUT
        which = Session.user_id == who.user_id if everywhere else Session.id == who.session_id
        subject = Subject(who.user_id, who.organization_id)

        def unit(tx: Transaction) -> None:
            for session in end_sessions(tx, reason, which):
                self._events.logged_out(tx, caller, subject, session.id, reason)

        await self._db.write(unit)

    async def end_session(self, caller: Caller, session_id: str) -> None:
        """End one session: an own one, or with the permission any of the organization; else `not_found`.

        Raise `forbidden` when somebody else than a superuser would end a superuser's.
        """
        if not is_storable(session_id):
            raise not_found("session")

        def unit(tx: Transaction) -> None:
            owner = tx.session.scalar(
                select(User).join(Session, Session.user_id == User.id).where(Session.id == session_id, is_live(now()))
            )
            if owner is None or not self._may_see_sessions(caller, owner):
                raise not_found("session")
            is_own = owner.id == caller.principal.user_id
            if owner.is_superuser and not (is_own or caller.principal.is_superuser):
                raise WindFlowError(ErrorCode.FORBIDDEN, "only superusers end a superuser's session")
            reason = session_ends.ENDED_BY_USER if is_own else session_ends.ENDED_BY_ADMIN
            for session in end_sessions(tx, reason, Session.id == session_id):
                self._events.session_expired(tx, caller, subject_of(owner), session.id, reason)

        await self._db.write(unit)

    def _may_see_sessions(self, caller: Caller, owner: User) -> bool:
        if owner.id == caller.principal.user_id:
            return True
        return caller.principal.has(Permission.SESSIONS_OF_ORGANIZATION) and caller.can_reach(owner.organization_id)

    # ---- reading --------------------------------------------------------------------------------

    async def list_sessions(
        self,
        caller: Caller,
        *,
        everyone: bool = False,
        organization_id: str | None = None,
        page: PageRequest = PageRequest(),
    ) -> dict[str, Any]:
        """Return a page of live sessions, newest first: the own ones, or everyone's of the organization.

        Raise `forbidden` without the permission for everyone's.
        """
        chosen = caller.organization(organization_id)
        statement = select(Session, User.username).join(User, User.id == Session.user_id).where(is_live(now()))
        if everyone:
            caller.require(Permission.SESSIONS_OF_ORGANIZATION)
            statement = statement.where(User.organization_id == chosen)
        else:
            statement = statement.where(Session.user_id == caller.principal.user_id)
        order = (Session.created_at, Session.id)
        async with self._db.session() as session:
            rows, following = await read_page(session, statement, order, page, self._settings.page_limit)
            items = [_shown(row.Session, row.username, caller.principal.session_id) for row in rows]
            return await with_positions(session, {"items": items, "nextCursor": following}, [chosen])


_INVALID = ErrorCode.INVALID_CREDENTIALS.value
_MOST_PLACES = 500
"""Latest sessions of a user that are looked through for an address."""


def _shown(session: Session, username: str, current_id: str | None) -> dict[str, Any]:
    return {
        "id": session.id,
        "userId": session.user_id,
        "username": username,
        "createdAt": wire_time(session.created_at),
        "lastUsedAt": wire_time(session.last_used_at),
        "expiresAt": wire_time(session.expires_at),
        "address": session.address,
        "client": session.client,
        "isCurrent": session.id == current_id,
    }
