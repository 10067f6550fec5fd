"""Who may do, see and send what: the one table that routes, commands and delivery ask.

`Principal` is who an authenticated request or socket acts as; `Caller` adds where the act
came from. Default deny: what has no row here is refused, and a test enumerates every route,
command and event.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from backend.app.schemas.errors import ErrorCode, WindFlowError
from backend.app.schemas.event_spec import EventSpec, Sender
from backend.app.schemas.roles import Role


class Permission(StrEnum):
    """What can be allowed. The part before the colon is what is acted on."""

    OWN_ACCOUNT = "account:own"
    ORGANIZATIONS_MANAGE = "organizations:manage"
    USERS_MANAGE = "users:manage"
    SESSIONS_OF_ORGANIZATION = "sessions:organization"
    TOKENS_OWN = "tokens:own"
    DEPLOYMENTS_VIEW = "deployments:view"
    DEPLOYMENTS_RUN = "deployments:run"
    DEPLOYMENTS_DELETE = "deployments:delete"
    NOTIFICATIONS_VIEW = "notifications:view"
    NOTIFICATIONS_SEND = "notifications:send"
    EVENTS_SUBSCRIBE = "events:subscribe"
    EVENTS_PUBLISH = "events:publish"
    PLUGINS_MANAGE = "plugins:manage"
    SYSTEM_VIEW = "system:view"


_P = Permission

LEAST_ROLE: Mapping[Permission, Role | None] = {
    _P.OWN_ACCOUNT: Role.VIEWER,
    _P.ORGANIZATIONS_MANAGE: None,
    _P.USERS_MANAGE: Role.ADMIN,
    _P.SESSIONS_OF_ORGANIZATION: Role.ADMIN,
    _P.TOKENS_OWN: Role.OPERATOR,
    _P.DEPLOYMENTS_VIEW: Role.VIEWER,
    _P.DEPLOYMENTS_RUN: Role.OPERATOR,
    _P.DEPLOYMENTS_DELETE: Role.ADMIN,
    _P.NOTIFICATIONS_VIEW: Role.VIEWER,
    _P.NOTIFICATIONS_SEND: Role.OPERATOR,
    _P.EVENTS_SUBSCRIBE: Role.VIEWER,
    _P.EVENTS_PUBLISH: Role.ADMIN,
    _P.PLUGINS_MANAGE: None,
    _P.SYSTEM_VIEW: Role.VIEWER,
}
"""The least role that has a permission; None: superusers only."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who acts: a user by a session or an API token, or the system itself."""

    user_id: str
    username: str
    organization_id: str
    role: Role
    is_superuser: bool = False
    session_id: str | None = None
    """The session the access token belongs to; None for API tokens and the system."""
    token_id: str | None = None
    """The API token, where one was used."""
    expires_at: datetime | None = None
    """When the credentials run out."""

    def has(self, permission: Permission) -> bool:
        """Tell whether this principal has a permission."""
        if self.is_superuser:
            return True
        least = LEAST_ROLE.get(permission)
        return least is not None and self.role.includes(least)

    def permissions(self) -> list[str]:
        """Return the names of all permissions, sorted, as `auth/me` shows them."""
        return sorted(permission.value for permission in Permission if self.has(permission))


SYSTEM_ID = "system"


def system_principal(organization_id: str) -> Principal:
    """Return the principal for acts of the server itself in an organization."""
    return Principal(SYSTEM_ID, SYSTEM_ID, organization_id, Role.ADMIN)


def nobody() -> Principal:
    """Return the principal of acts before authentication (a refused login): audited without an actor."""
    return Principal("", "", "", Role.VIEWER)


@dataclass(frozen=True, slots=True)
class IdempotencyRequest:
    """The key a client sent with a POST, and the hash of what it sent with it."""

    key: str
    request_hash: str


@dataclass(frozen=True, slots=True)
class Caller:
    """A principal, and where this one act of theirs comes from."""

    principal: Principal
    sender: Sender | None = None
    """Through what an event is published; None: by the server's own operations."""
    address: str | None = None
    request_id: str | None = None
    connection_id: str | None = None
    """The socket the act came over: plugins handle its events with that connection's copy."""
    hop: int = 0
    """How many plugins stand between the first event and this act."""
    idempotency: IdempotencyRequest | None = None
    runner_id: str | None = field(default=None)
    """What `X-Windflow-Runner` said."""

    def require(self, permission: Permission) -> None:
        """Raise `forbidden` unless the principal has the permission."""
        if not self.principal.has(permission):
            raise WindFlowError(ErrorCode.FORBIDDEN, f"this needs the permission {permission.value}")

    def organization(self, chosen: str | None = None) -> str:
        """Return the organization to act in: the own one, or the chosen one for a superuser; else `forbidden`."""
        if chosen is None or chosen == self.principal.organization_id:
            return self.principal.organization_id
        if not self.principal.is_superuser:
            raise WindFlowError(ErrorCode.FORBIDDEN, "organizationId: only superusers choose another organization")
        return chosen

    def can_reach(self, organization_id: str) -> bool:
        """Tell whether something of that organization exists for this caller at all."""
        return self.principal.is_superuser or organization_id == self.principal.organization_id


def may_see(principal: Principal, spec: EventSpec) -> bool:
    """Tell whether a principal may receive events of a type in an organization it can reach."""
    return sight_of(principal) >= sight_needed(spec)


def sight_of(principal: Principal) -> int:
    """Return how far a principal sees, as a number that delivery compares with `sight_needed`."""
    return len(Role) if principal.is_superuser else principal.role.rank


def sight_needed(spec: EventSpec) -> int:
    """Return the number for an event type: `sight_of(p) >= sight_needed(s)` is `may_see(p, s)`."""
    return spec.least_role.rank


def may_send(spec: EventSpec, sender: Sender | None) -> bool:
    """Tell whether an event may be published through a sender; the server's own operations may send every one."""
    return sender is None or sender in spec.senders
