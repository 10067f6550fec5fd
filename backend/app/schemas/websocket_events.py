"""The catalogue: the only place where an event of the core is defined.

`WebSocketEventType` names the events, one payload model stands for each, and `CORE_EVENTS`
says how each is delivered, to whom and by whom it may be sent. The TypeScript file, the
reference page and the permission tests are made from it (`windflow contract build`).
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from backend.app.schemas.event_spec import Audience, Delivery, EventCatalogue, EventSpec, Payload, Sender
from backend.app.schemas.times import WireTime

Identifier = Annotated[str, StringConstraints(min_length=1, max_length=64)]
ShortText = Annotated[str, StringConstraints(max_length=1024)]
DeploymentStatus = Literal["pending", "running", "success", "failed", "cancelled"]
NotificationLevel = Literal["info", "success", "warning", "error"]


class WebSocketEventType(StrEnum):
    """Every event of the core; name and value are the same, on both sides of the wire."""

    AUTH_LOGIN_SUCCESS = "AUTH_LOGIN_SUCCESS"
    AUTH_LOGOUT = "AUTH_LOGOUT"
    AUTH_TOKEN_REFRESH = "AUTH_TOKEN_REFRESH"
    SESSION_EXPIRED = "SESSION_EXPIRED"
    SESSION_AUTH_REQUIRED = "SESSION_AUTH_REQUIRED"
    SESSION_PERMISSION_CHANGED = "SESSION_PERMISSION_CHANGED"
    SESSION_ORGANIZATION_CHANGED = "SESSION_ORGANIZATION_CHANGED"
    DEPLOYMENT_CREATED = "DEPLOYMENT_CREATED"
    DEPLOYMENT_STATUS_CHANGED = "DEPLOYMENT_STATUS_CHANGED"
    DEPLOYMENT_LOGS_UPDATE = "DEPLOYMENT_LOGS_UPDATE"
    DEPLOYMENT_PROGRESS = "DEPLOYMENT_PROGRESS"
    DEPLOYMENT_CANCEL_REQUESTED = "DEPLOYMENT_CANCEL_REQUESTED"
    DEPLOYMENT_DELETED = "DEPLOYMENT_DELETED"
    NOTIFICATION_SENT = "NOTIFICATION_SENT"
    NOTIFICATION_READ = "NOTIFICATION_READ"
    WEBSOCKET_ERROR = "WEBSOCKET_ERROR"
    WEBSOCKET_PING = "WEBSOCKET_PING"
    WEBSOCKET_PONG = "WEBSOCKET_PONG"
    CUSTOM_EVENT = "CUSTOM_EVENT"


class AuthLoginSuccess(Payload):
    """A user logged in, or a socket authenticated."""

    user_id: Identifier
    username: str | None = None
    organization_id: str | None = None
    session_id: str | None = None
    ip_address: str | None = None


class AuthLogout(Payload):
    """A session was ended by its user."""

    user_id: Identifier
    session_id: str | None = None
    reason: ShortText | None = None


class AuthTokenRefresh(Payload):
    """A session got a new access token. The token itself is never in an event."""

    user_id: Identifier
    session_id: str | None = None
    expires_at: WireTime | None = None


class SessionExpired(Payload):
    """A session ended: its time ran out, or somebody ended it. An API token is a session of its own, by its id."""

    session_id: Identifier
    reason: ShortText | None = None
    expired_at: WireTime | None = None


class SessionAuthRequired(Payload):
    """The access token of a socket runs out soon: send a fresh `auth`."""

    reason: ShortText
    expires_at: WireTime | None = None
    grace_seconds: float | None = None


class SessionPermissionChanged(Payload):
    """The rights of a user changed."""

    user_id: Identifier
    role: str | None = None
    permissions: list[str] | None = None
    changed_by: str | None = None


class SessionOrganizationChanged(Payload):
    """A user was moved to another organization."""

    user_id: Identifier
    old_organization_id: str | None = None
    new_organization_id: str | None = None


class DeploymentCreated(Payload):
    """A deployment was created."""

    deployment_id: Identifier
    deployment_name: str
    target: str | None = None
    status: DeploymentStatus | None = None
    created_by: str | None = None


class DeploymentStatusChanged(Payload):
    """A deployment went from one status to another."""

    deployment_id: Identifier
    new_status: DeploymentStatus
    old_status: DeploymentStatus | None = None
    deployment_name: str | None = None
    reason: ShortText | None = None
    exit_code: int | None = None


class DeploymentLogsUpdate(Payload):
    """Lines were added to a deployment's log; the first line of a log is number 1."""

    deployment_id: Identifier
    logs: list[str]
    first_line: int | None = Field(default=None, ge=1)
    times: list[WireTime | None] | None = None
    streams: list[Literal["out", "err"]] | None = None
    levels: list[str | None] | None = None


class DeploymentProgress(Payload):
    """How far a deployment is, in percent."""

    deployment_id: Identifier
    progress: float = Field(ge=0, le=100)
    step: ShortText | None = None
    current_step: int | None = Field(default=None, ge=0)
    total_steps: int | None = Field(default=None, ge=0)
    eta_seconds: float | None = Field(default=None, ge=0)


class DeploymentCancelRequested(Payload):
    """Somebody wants a deployment to stop; its runner listens to this."""

    deployment_id: Identifier
    requested_by: str | None = None
    reason: ShortText | None = None


class DeploymentDeleted(Payload):
    """A deployment and its log were deleted."""

    deployment_id: Identifier
    deleted_by: str | None = None


class NotificationSent(Payload):
    """A notification for a user or a whole organization; the id is made if absent."""

    title: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    message: Annotated[str, StringConstraints(max_length=16384)]
    level: NotificationLevel = "info"
    notification_id: Identifier | None = None
    link: Annotated[str, StringConstraints(max_length=2048)] | None = None
    deployment_id: Identifier | None = None


class NotificationRead(Payload):
    """A user read notifications, on any of their devices."""

    notification_ids: list[Identifier] = Field(min_length=1, max_length=1000)
    read_at: WireTime | None = None


class WebSocketError(Payload):
    """A message of this connection was refused."""

    code: str
    message: str
    details: Any | None = None


class WebSocketHeartbeat(Payload):
    """A ping or its pong; whatever the ping carries, the pong carries too."""

    at: WireTime | None = None


class CustomEvent(Payload):
    """Any object: for plugins and integrations that need no type of their own."""


_NOBODY: frozenset[Sender] = frozenset()
_PLUGIN = frozenset({Sender.PLUGIN})
_API = frozenset({Sender.PLUGIN, Sender.API})
_CLIENT = frozenset({Sender.CLIENT})

_T, _D, _A = WebSocketEventType, Delivery, Audience


def _spec(
    name: WebSocketEventType,
    payload: type[Payload],
    delivery: Delivery,
    audience: Audience,
    senders: frozenset[Sender] = _NOBODY,
    *,
    audited: bool = False,
    subject: str | None = None,
    is_pushed: bool = True,
) -> EventSpec:
    description = (payload.__doc__ or "").strip()
    return EventSpec(
        name.value, payload, delivery, audience, senders, description, audited, subject, is_pushed=is_pushed
    )


CORE_EVENTS: tuple[EventSpec, ...] = (
    _spec(_T.AUTH_LOGIN_SUCCESS, AuthLoginSuccess, _D.TRANSIENT, _A.USER, audited=True, is_pushed=False),
    _spec(_T.AUTH_LOGOUT, AuthLogout, _D.TRANSIENT, _A.USER, audited=True),
    _spec(_T.AUTH_TOKEN_REFRESH, AuthTokenRefresh, _D.TRANSIENT, _A.SESSION, audited=True),
    _spec(_T.SESSION_EXPIRED, SessionExpired, _D.TRANSIENT, _A.SESSION, audited=True),
    _spec(_T.SESSION_AUTH_REQUIRED, SessionAuthRequired, _D.TRANSIENT, _A.SESSION, audited=True),
    _spec(_T.SESSION_PERMISSION_CHANGED, SessionPermissionChanged, _D.STREAM, _A.USER, audited=True),
    _spec(_T.SESSION_ORGANIZATION_CHANGED, SessionOrganizationChanged, _D.STREAM, _A.USER, audited=True),
    _spec(_T.DEPLOYMENT_CREATED, DeploymentCreated, _D.STREAM, _A.ORGANIZATION, _PLUGIN, subject="deploymentId"),
    _spec(
        _T.DEPLOYMENT_STATUS_CHANGED,
        DeploymentStatusChanged,
        _D.STREAM,
        _A.ORGANIZATION,
        _PLUGIN,
        subject="deploymentId",
    ),
    _spec(_T.DEPLOYMENT_LOGS_UPDATE, DeploymentLogsUpdate, _D.LOG, _A.ORGANIZATION, _PLUGIN, subject="deploymentId"),
    _spec(_T.DEPLOYMENT_PROGRESS, DeploymentProgress, _D.LATEST, _A.ORGANIZATION, _PLUGIN, subject="deploymentId"),
    _spec(
        _T.DEPLOYMENT_CANCEL_REQUESTED,
        DeploymentCancelRequested,
        _D.STREAM,
        _A.ORGANIZATION,
        _PLUGIN,
        subject="deploymentId",
    ),
    _spec(_T.DEPLOYMENT_DELETED, DeploymentDeleted, _D.STREAM, _A.ORGANIZATION, _PLUGIN, subject="deploymentId"),
    _spec(_T.NOTIFICATION_SENT, NotificationSent, _D.STREAM, _A.USER_OR_ORGANIZATION, _API),
    _spec(_T.NOTIFICATION_READ, NotificationRead, _D.STREAM, _A.USER, _CLIENT),
    _spec(_T.WEBSOCKET_ERROR, WebSocketError, _D.TRANSIENT, _A.CONNECTION),
    _spec(_T.WEBSOCKET_PING, WebSocketHeartbeat, _D.TRANSIENT, _A.CONNECTION, _CLIENT),
    _spec(_T.WEBSOCKET_PONG, WebSocketHeartbeat, _D.TRANSIENT, _A.CONNECTION, _CLIENT),
    _spec(_T.CUSTOM_EVENT, CustomEvent, _D.TRANSIENT, _A.ORGANIZATION, _API),
)
"""The core's events, in the order of the enum."""


def core_catalogue() -> EventCatalogue:
    """Return a new catalogue that holds the core's events; plugins add theirs to it."""
    return EventCatalogue(CORE_EVENTS)
