"""The tables. Importing this package registers all of them on `Base.metadata`."""

from backend.app.models.audit_record import AuditHead, AuditRecord
from backend.app.models.deployment import Deployment, DeploymentLog
from backend.app.models.disabled_plugin import DisabledPlugin
from backend.app.models.event_record import EventRecord, EventStream, LatestValue
from backend.app.models.idempotency import IdempotencyKey
from backend.app.models.node import Node, PluginCursor
from backend.app.models.notification import Notification, NotificationRead
from backend.app.models.organization import Organization
from backend.app.models.session import ApiToken, RefreshToken, Session
from backend.app.models.ticket import Ticket
from backend.app.models.user import User

__all__ = [
    "ApiToken",
    "AuditHead",
    "AuditRecord",
    "Deployment",
    "DeploymentLog",
    "DisabledPlugin",
    "EventRecord",
    "EventStream",
    "IdempotencyKey",
    "LatestValue",
    "Node",
    "Notification",
    "NotificationRead",
    "Organization",
    "PluginCursor",
    "RefreshToken",
    "Session",
    "Ticket",
    "User",
]
