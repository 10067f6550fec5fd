"""Default deny: every route, command, event and permission has a policy, and what is open to all is listed here."""

from backend.app.auth.permissions import LEAST_ROLE, Permission, Principal
from backend.app.schemas.event_spec import Sender
from backend.app.schemas.messages import Command
from backend.app.schemas.roles import Role
from backend.app.schemas.websocket_events import CORE_EVENTS, WebSocketEventType
from backend.app.websocket.commands import COMMAND_PERMISSIONS
from scripts.reference_rest import routes

PUBLIC = {
    ("GET", "/"),
    ("GET", "/deployments/{deployment_id}"),
    ("GET", "/docs"),
    ("GET", "/docs/start.js"),
    ("GET", "/docs/{name}"),
    ("GET", "/livez"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("POST", "/api/v1/auth/login"),
    ("POST", "/api/v1/auth/refresh"),
}
"""What anybody may call. A new entry is a decision, not an accident."""


def test_every_route_has_a_policy_and_only_these_are_public() -> None:
    """A test enumerates every route and fails if one has no policy."""
    found = {(method, path): permission for method, path, _, permission in routes()}
    assert {route for route, permission in found.items() if permission is None} == PUBLIC
    for (method, path), permission in found.items():
        if permission is not None and method not in ("GET", "HEAD") and LEAST_ROLE[permission] is Role.VIEWER:
            # What changes something and is open to viewers acts on their own account only.
            assert permission is Permission.OWN_ACCOUNT or path == "/api/v1/notifications/read", (method, path)


def test_every_command_has_a_policy() -> None:
    """A test enumerates every command and fails if one has no policy."""
    assert set(COMMAND_PERMISSIONS) == set(Command)


def test_every_permission_has_a_least_role_and_nobody_has_one_without() -> None:
    """Default deny: what has no row is refused."""
    assert set(LEAST_ROLE) == set(Permission)
    admin = Principal("a", "a", "o", Role.ADMIN)
    for permission, least in LEAST_ROLE.items():
        assert admin.has(permission) is (least is not None)


def test_every_event_has_a_policy_and_clients_send_only_these() -> None:
    """Over a socket a client may send NOTIFICATION_READ and pings; nothing else."""
    assert [spec.name for spec in CORE_EVENTS] == [member.value for member in WebSocketEventType]
    assert {spec.name for spec in CORE_EVENTS if Sender.CLIENT in spec.senders} == {
        "NOTIFICATION_READ",
        "WEBSOCKET_PING",
        "WEBSOCKET_PONG",
    }
    for spec in CORE_EVENTS:
        if spec.name.startswith(("AUTH_", "SESSION_")) or spec.name == "WEBSOCKET_ERROR":
            assert not spec.senders, spec.name
