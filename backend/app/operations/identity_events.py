"""The events of logins, sessions and rights: each is published and audited in the unit that causes it.

Used by every operation on users and sessions. What ends a session names it, so that its sockets
are found after the commit; no event ever carries a token or a password.
"""

from dataclasses import dataclass
from datetime import datetime

from backend.app.auth.permissions import Caller, Principal
from backend.app.database import Transaction
from backend.app.models import User
from backend.app.models.columns import now
from backend.app.realtime.event import new_event
from backend.app.realtime.unit_of_work import audit, publish
from backend.app.schemas.event_spec import EventCatalogue, Payload
from backend.app.schemas.roles import Role
from backend.app.schemas.websocket_events import (
    AuthLoginSuccess,
    AuthLogout,
    AuthTokenRefresh,
    SessionExpired,
    SessionOrganizationChanged,
    SessionPermissionChanged,
    WebSocketEventType,
)


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom an event is about: it goes into this organization's stream and trail."""

    user_id: str
    organization_id: str


def subject_of(user: User) -> Subject:
    """Return the subject for a user's row as it is now."""
    return Subject(user.id, user.organization_id)


def principal_of(user: User, session_id: str | None = None, expires_at: datetime | None = None) -> Principal:
    """Return who a user acts as, from their row."""
    return Principal(
        user.id, user.username, user.organization_id, Role(user.role), user.is_superuser, session_id, None, expires_at
    )


def login_payload(caller: Caller) -> AuthLoginSuccess:
    """Return what AUTH_LOGIN_SUCCESS says, as an event and as the reply to a socket's `auth`."""
    who = caller.principal
    return AuthLoginSuccess(
        user_id=who.user_id,
        username=who.username,
        organization_id=who.organization_id,
        session_id=who.session_id,
        ip_address=caller.address,
    )


class IdentityEvents:
    """Makes, publishes and audits these events."""

    def __init__(self, catalogue: EventCatalogue) -> None:
        self._catalogue = catalogue

    def logged_in(self, tx: Transaction, caller: Caller) -> None:
        """AUTH_LOGIN_SUCCESS: for a login, and for a socket that authenticated (it has a connection id)."""
        who = caller.principal
        subject = Subject(who.user_id, who.organization_id)
        payload = login_payload(caller)
        self._announce(tx, caller, WebSocketEventType.AUTH_LOGIN_SUCCESS, payload, subject, who.session_id)

    def logged_out(self, tx: Transaction, caller: Caller, subject: Subject, session_id: str, reason: str) -> None:
        """AUTH_LOGOUT: a user ended an own session."""
        payload = AuthLogout(user_id=subject.user_id, session_id=session_id, reason=reason)
        self._announce(tx, caller, WebSocketEventType.AUTH_LOGOUT, payload, subject, session_id)

    def token_refreshed(self, tx: Transaction, caller: Caller) -> None:
        """AUTH_TOKEN_REFRESH: a session got a new access token."""
        who = caller.principal
        payload = AuthTokenRefresh(user_id=who.user_id, session_id=who.session_id, expires_at=who.expires_at)
        subject = Subject(who.user_id, who.organization_id)
        self._announce(tx, caller, WebSocketEventType.AUTH_TOKEN_REFRESH, payload, subject, who.session_id)

    def session_expired(self, tx: Transaction, caller: Caller, subject: Subject, session_id: str, reason: str) -> None:
        """SESSION_EXPIRED: something else than a logout ended a session."""
        payload = SessionExpired(session_id=session_id, reason=reason, expired_at=now())
        self._announce(tx, caller, WebSocketEventType.SESSION_EXPIRED, payload, subject, session_id)

    def token_ended(self, tx: Transaction, caller: Caller, subject: Subject, token_id: str, reason: str) -> None:
        """SESSION_EXPIRED for an API token, which is a session of its own: its sockets are found by its id."""
        payload = SessionExpired(session_id=token_id, reason=reason, expired_at=now())
        self._announce(
            tx, caller, WebSocketEventType.SESSION_EXPIRED, payload, subject, token_id, target=f"token/{token_id}"
        )

    def permission_changed(self, tx: Transaction, caller: Caller, user: User) -> None:
        """SESSION_PERMISSION_CHANGED: a user has another role, or became a superuser or none."""
        payload = SessionPermissionChanged(
            user_id=user.id,
            role=user.role,
            permissions=principal_of(user).permissions(),
            changed_by=caller.principal.user_id,
        )
        self._announce(tx, caller, WebSocketEventType.SESSION_PERMISSION_CHANGED, payload, subject_of(user))

    def organization_changed(self, tx: Transaction, caller: Caller, user: User, old_organization_id: str) -> None:
        """SESSION_ORGANIZATION_CHANGED, in the stream of the new organization: a user was moved."""
        payload = SessionOrganizationChanged(
            user_id=user.id, old_organization_id=old_organization_id, new_organization_id=user.organization_id
        )
        self._announce(tx, caller, WebSocketEventType.SESSION_ORGANIZATION_CHANGED, payload, subject_of(user))

    def _announce(
        self,
        tx: Transaction,
        caller: Caller,
        name: WebSocketEventType,
        payload: Payload,
        subject: Subject,
        session_id: str | None = None,
        target: str | None = None,
    ) -> None:
        event = new_event(
            self._catalogue[name],
            subject.organization_id,
            payload,
            actor=caller.principal if caller.principal.user_id else None,
            user_id=subject.user_id,
            session_id=session_id,
            connection_id=caller.connection_id,
            hop=caller.hop,
        )
        publish(tx, event)
        target = target or (f"session/{session_id}" if session_id else f"user/{subject.user_id}")
        audit(tx, name.value, caller, target=target, organization_id=subject.organization_id, **event.payload)
