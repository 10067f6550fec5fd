"""A user's row: locked for a change, with the rules about who may change whom; and how it is shown.

Called inside units of work by `Users`. All superusers are locked together with the user, in the
order of their ids: two who demote each other at the same time cannot leave none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import or_, select

from backend.app.auth.permissions import Caller
from backend.app.database import Transaction
from backend.app.models import Organization, User
from backend.app.operations.stored_text import is_storable
from backend.app.schemas.errors import ErrorCode, WindFlowError, not_found
from backend.app.schemas.roles import Role
from backend.app.schemas.times import wire_time


@dataclass(frozen=True, slots=True)
class LockedUser:
    """A user under its lock, and the other active superusers."""

    user: User
    other_superusers: Sequence[User]

    def require_another_superuser(self) -> None:
        """Raise `last_superuser` if this is the only active one: it must not cease to be one."""
        if self.user.is_superuser and self.user.is_active and not self.other_superusers:
            raise WindFlowError(ErrorCode.LAST_SUPERUSER)


def lock_user(tx: Transaction, caller: Caller, user_id: str) -> LockedUser:
    """Return a user whom the caller may change, locked until the unit ends.

    Raise `not_found` for one of another organization, `forbidden` for a superuser unless the caller is
    one, `role_too_high` for one whose role is above the caller's.
    """
    if not is_storable(user_id):
        raise not_found("user")
    found = tx.session.scalars(
        select(User).where(or_(User.id == user_id, User.is_superuser)).order_by(User.id).with_for_update()
    ).all()
    user = next((each for each in found if each.id == user_id), None)
    if user is None or not caller.can_reach(user.organization_id):
        raise not_found("user")
    if user.is_superuser and not caller.principal.is_superuser:
        raise WindFlowError(ErrorCode.FORBIDDEN, "only superusers change superusers")
    require_role(caller, Role(user.role))
    return LockedUser(user, [each for each in found if each.id != user_id and each.is_superuser and each.is_active])


def require_role(caller: Caller, role: Role) -> None:
    """Raise `role_too_high` for a role above the caller's own."""
    if not caller.principal.is_superuser and not caller.principal.role.includes(role):
        raise WindFlowError(ErrorCode.ROLE_TOO_HIGH, f"role: {role.value} is above your own role")


def require_organization(tx: Transaction, organization_id: str) -> None:
    """Keep an organization from being deleted until the unit ends; raise `not_found` if there is none."""
    kept = select(Organization.id).where(Organization.id == organization_id).with_for_update(read=True, key_share=True)
    if not is_storable(organization_id) or tx.conn.scalar(kept) is None:
        raise not_found("organization")


def shown_user(user: User) -> dict[str, Any]:
    """Return a user as it crosses the wire."""
    return {
        "id": user.id,
        "organizationId": user.organization_id,
        "username": user.username,
        "role": user.role,
        "isSuperuser": user.is_superuser,
        "isActive": user.is_active,
        "createdAt": wire_time(user.created_at),
        "passwordChangedAt": wire_time(user.password_changed_at) if user.password_changed_at else None,
    }
