"""Users: made, changed and deleted by the admins of their organization, and their own passwords.

Used by routes. Each act is one unit of work with its audit row; what takes rights away ends the
sessions or tells them in the same unit. A generated password is answered once and stored nowhere.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from backend.app.auth.passwords import check_new_password, generate_password
from backend.app.auth.permissions import Caller, Principal
from backend.app.auth.usernames import check_username
from backend.app.config import Settings
from backend.app.database import Database, Transaction
from backend.app.models import Organization, User
from backend.app.models.columns import new_id, now
from backend.app.operations.idempotency import once
from backend.app.operations.identity_events import IdentityEvents, subject_of
from backend.app.operations.identity_reads import PageRequest, read_page, with_positions
from backend.app.operations.session_ends import (
    PASSWORD_CHANGED,
    USER_DEACTIVATED,
    USER_DELETED,
    end_everything_of_user,
    end_sessions_of_user,
)
from backend.app.operations.sessions import Sessions
from backend.app.operations.stored_text import is_storable
from backend.app.operations.user_rows import (
    LockedUser,
    lock_user,
    require_organization,
    require_role,
    shown_user,
)
from backend.app.realtime.unit_of_work import audit
from backend.app.schemas.errors import ErrorCode, WindFlowError, field_error, not_found
from backend.app.schemas.event_spec import EventCatalogue
from backend.app.schemas.roles import Role


@dataclass(frozen=True, slots=True)
class NewUser:
    """What a caller says about a user to be made."""

    username: str
    role: Role = Role.VIEWER
    password: str | None = None
    """None: generated, and answered once."""
    is_active: bool = True
    is_superuser: bool = False
    organization_id: str | None = None
    """Default: the caller's. Another one: superusers only."""


@dataclass(frozen=True, slots=True)
class UserChanges:
    """What is to change; None leaves it."""

    username: str | None = None
    role: Role | None = None
    is_active: bool | None = None
    is_superuser: bool | None = None
    organization_id: str | None = None


class Users:
    """The operations on users."""

    def __init__(self, db: Database, settings: Settings, catalogue: EventCatalogue, sessions: Sessions) -> None:
        self._db = db
        self._settings = settings
        self._events = IdentityEvents(catalogue)
        self._passwords = sessions.passwords
        self._gate = sessions.gate

    # ---- reading --------------------------------------------------------------------------------

    async def page(
        self, caller: Caller, organization_id: str | None = None, page: PageRequest = PageRequest()
    ) -> dict[str, Any]:
        """Return a page of the organization's users, newest first; for superusers of all, unless they choose one."""
        chosen = caller.organization(organization_id)
        statement = select(User)
        if organization_id is not None or not caller.principal.is_superuser:
            statement = statement.where(User.organization_id == (chosen if is_storable(chosen) else ""))
        async with self._db.session() as session:
            order = (User.created_at, User.id)
            rows, following = await read_page(session, statement, order, page, self._settings.page_limit)
            answer = {"items": [shown_user(row.User) for row in rows], "nextCursor": following}
            return await with_positions(session, answer, {chosen, *(row.User.organization_id for row in rows)})

    async def get(self, caller: Caller, user_id: str) -> dict[str, Any]:
        """Return one user with positions; raise `not_found`."""
        async with self._db.session() as session:
            user = await session.get(User, user_id) if is_storable(user_id) else None
            if user is None or not caller.can_reach(user.organization_id):
                raise not_found("user")
            return await with_positions(session, shown_user(user), [user.organization_id])

    async def me(self, caller: Caller) -> dict[str, Any]:
        """Return the caller: the user with its organization's name, and the permissions of these credentials."""
        who = caller.principal
        async with self._db.session() as session:
            user = await session.get(User, who.user_id)
            organization = await session.get(Organization, who.organization_id)
            if user is None or organization is None:
                raise WindFlowError(ErrorCode.NOT_AUTHENTICATED, "the user was deleted")
            own = {
                **shown_user(user),
                "organizationName": organization.name,
                # An API token can have fewer rights than its owner.
                "role": who.role.value,
                "isSuperuser": who.is_superuser,
                "permissions": who.permissions(),
                "sessionId": who.session_id,
                "tokenId": who.token_id,
            }
            return await with_positions(session, own, [who.organization_id])

    # ---- acts of admins -------------------------------------------------------------------------

    async def create(self, caller: Caller, new: NewUser) -> dict[str, Any]:
        """Make a user and return it, with `password` where one was generated (never again, also not to a retry).

        Raise `name_taken`, `role_too_high`, `weak_password`, `forbidden`, and `not_found` (the organization).
        """
        username = check_username(new.username)
        organization_id = caller.organization(new.organization_id)
        require_role(caller, new.role)
        self._require_superuser(caller, new.is_superuser)
        password = new.password if new.password is not None else generate_password()
        check_new_password(password, username, self._settings.password_min_length)
        password_hash = await self._passwords.hash(password)
        user = User(
            id=new_id(),
            organization_id=organization_id,
            username=username,
            password_hash=password_hash,
            role=new.role.value,
            is_superuser=new.is_superuser,
            is_active=new.is_active,
            created_at=now(),
            password_changed_at=now(),
        )

        def make(tx: Transaction) -> dict[str, Any]:
            require_organization(tx, organization_id)
            self._store(tx, user)
            audit(
                tx, "user.create", caller, target=f"user/{user.id}", organization_id=organization_id,
                username=username, role=user.role, isSuperuser=user.is_superuser,
            )  # fmt: skip
            return shown_user(user)

        answer = await self._db.write(lambda tx: once(tx, caller, self._settings.idempotency_seconds, lambda: make(tx)))
        is_made = answer["id"] == user.id
        return {**answer, "password": password if is_made and new.password is None else None}

    def _store(self, tx: Transaction, user: User) -> None:
        """Send a user's row; raise `name_taken` when another one has its name."""
        others = select(User.id).where(User.username == user.username, User.id != user.id)
        with tx.session.no_autoflush:
            if tx.session.scalar(others) is not None:
                raise WindFlowError(ErrorCode.NAME_TAKEN, "username: this name is in use")
        tx.session.add(user)
        try:
            tx.session.flush()
        except IntegrityError as error:  # somebody took the name at the same moment (PostgreSQL)
            raise WindFlowError(ErrorCode.NAME_TAKEN, "username: this name is in use") from error

    def _require_superuser(self, caller: Caller, wanted: bool | None) -> None:
        if wanted and not caller.principal.is_superuser:
            raise WindFlowError(ErrorCode.FORBIDDEN, "isSuperuser: only superusers make superusers")

    async def update(self, caller: Caller, user_id: str, changes: UserChanges) -> dict[str, Any]:
        """Change a user and return it; its sessions are told of new rights, or ended when it is deactivated.

        Raise `not_found`, `name_taken`, `role_too_high`, `forbidden`, `last_superuser`.
        """
        username = check_username(changes.username) if changes.username is not None else None
        if changes.organization_id is not None:
            caller.organization(changes.organization_id)
        if changes.role is not None:
            require_role(caller, changes.role)
        self._require_superuser(caller, changes.is_superuser)
        wanted = {
            "username": username,
            "role": changes.role.value if changes.role is not None else None,
            "is_active": changes.is_active,
            "is_superuser": changes.is_superuser,
            "organization_id": changes.organization_id,
        }

        def unit(tx: Transaction) -> dict[str, Any]:
            locked = lock_user(tx, caller, user_id)
            user = locked.user
            before = {name: getattr(user, name) for name in wanted}
            new = {name: value for name, value in wanted.items() if value is not None and value != before[name]}
            if new:
                self._change(tx, caller, locked, before, new)
            return shown_user(user)

        return await self._db.write(unit)

    def _change(
        self, tx: Transaction, caller: Caller, locked: LockedUser, before: dict[str, Any], new: dict[str, Any]
    ) -> None:
        user = locked.user
        if new.get("is_superuser") is False or new.get("is_active") is False:
            locked.require_another_superuser()
        if "organization_id" in new:
            require_organization(tx, new["organization_id"])
        for name, value in new.items():
            setattr(user, name, value)
        self._store(tx, user)
        facts = {name: {"from": before[name], "to": value} for name, value in new.items()}
        old_organization_id = before["organization_id"]
        audit(tx, "user.update", caller, target=f"user/{user.id}", organization_id=old_organization_id, changes=facts)
        if "organization_id" in new:
            self._events.organization_changed(tx, caller, user, old_organization_id)
        if "role" in new or "is_superuser" in new:
            self._events.permission_changed(tx, caller, user)
        if new.get("is_active") is False:
            end_everything_of_user(tx, self._events, caller, subject_of(user), USER_DEACTIVATED)

    async def delete(self, caller: Caller, user_id: str) -> None:
        """Delete a user with its sessions and API tokens; raise `not_found`, `forbidden`, `last_superuser`."""

        def unit(tx: Transaction) -> None:
            locked = lock_user(tx, caller, user_id)
            locked.require_another_superuser()
            user = locked.user
            end_everything_of_user(tx, self._events, caller, subject_of(user), USER_DELETED)
            audit(
                tx, "user.delete", caller, target=f"user/{user.id}", organization_id=user.organization_id,
                username=user.username,
            )  # fmt: skip
            tx.session.delete(user)

        await self._db.write(unit)

    async def set_password(self, caller: Caller, user_id: str, password: str | None) -> dict[str, Any]:
        """Give a user another password and end its sessions; return a generated one as `password`, once.

        Raise `weak_password`, `not_found`, and `forbidden` for superusers and for oneself.
        """
        chosen = password if password is not None else generate_password()
        if user_id == caller.principal.user_id:
            raise WindFlowError(ErrorCode.FORBIDDEN, "change your own password with PUT /auth/password")
        username = (await self.get(caller, user_id))["username"]
        check_new_password(chosen, username, self._settings.password_min_length)
        password_hash = await self._passwords.hash(chosen)

        def make(tx: Transaction) -> dict[str, Any]:
            user = lock_user(tx, caller, user_id).user
            if user.is_superuser:
                raise WindFlowError(
                    ErrorCode.FORBIDDEN, "a superuser's password is reset on the server: windflow user reset-password"
                )
            store_password(tx, self._events, caller, user, password_hash)
            return {"password": None}

        def unit(tx: Transaction) -> dict[str, Any]:
            is_made = False

            def first() -> dict[str, Any]:
                nonlocal is_made
                is_made = True
                return make(tx)

            answer = once(tx, caller, self._settings.idempotency_seconds, first)
            return {"password": chosen} if is_made and password is None else answer

        return await self._db.write(unit)

    # ---- one's own ------------------------------------------------------------------------------

    async def change_own_password(self, caller: Caller, current: str, new: str) -> None:
        """Change the caller's password and end all other sessions of the user.

        Raise `weak_password`, `invalid_credentials` when the current one is wrong, and `rate_limited`.
        """
        who = caller.principal
        check_new_password(new, who.username, self._settings.password_min_length, field="newPassword")
        async with self._db.session() as session:
            known = await session.scalar(select(User.password_hash).where(User.id == who.user_id))
        async with self._gate.attempt(who.username, caller.address, partial(_place_of, who)) as attempt:
            attempt.is_success = await self._passwords.verify(current, known)
        if not attempt.is_success:
            await self._db.write(lambda tx: self._refused(tx, caller))
            raise field_error(ErrorCode.INVALID_CREDENTIALS, "currentPassword", "is not your password")
        password_hash = await self._passwords.hash(new)

        def unit(tx: Transaction) -> None:
            user = tx.session.scalar(select(User).where(User.id == who.user_id).with_for_update())
            if user is None or user.password_hash != known:
                raise field_error(ErrorCode.INVALID_CREDENTIALS, "currentPassword", "was changed meanwhile")
            store_password(tx, self._events, caller, user, password_hash, who.session_id)

        await self._db.write(unit)

    def _refused(self, tx: Transaction, caller: Caller) -> None:
        target = f"user/{caller.principal.user_id}"
        audit(tx, "user.password", caller, target=target, outcome=ErrorCode.INVALID_CREDENTIALS.value)


async def _place_of(who: Principal) -> str:
    """Return where the owner of an account is for certain: in the session, wherever it comes from."""
    return f"session {who.session_id or who.token_id}"


def store_password(
    tx: Transaction,
    events: IdentityEvents,
    caller: Caller,
    user: User,
    password_hash: str,
    except_session_id: str | None = None,
) -> None:
    """Store a locked user's new password, audit it, and end the user's sessions but one."""
    user.password_hash, user.password_changed_at = password_hash, now()
    audit(tx, "user.password", caller, target=f"user/{user.id}", organization_id=user.organization_id)
    end_sessions_of_user(tx, events, caller, subject_of(user), PASSWORD_CHANGED, except_session_id)
