"""AuditLoggerPlugin: one log line for each security event, as the specification prints it.

The audit trail is not its work: the operation itself writes that, so that no failing plugin
can lose a record. Works when called directly, with whatever context a test passes.
"""

import re
from typing import Any

from backend.app.schemas.websocket_events import WebSocketEventType
from backend.app.websocket.plugin import PluginContext, WebSocketPlugin

_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class AuditLoggerPlugin(WebSocketPlugin):
    """Logs who logged in and out, and whose session, rights or organization changed."""

    event_types = (
        WebSocketEventType.AUTH_LOGIN_SUCCESS,
        WebSocketEventType.AUTH_LOGOUT,
        WebSocketEventType.AUTH_TOKEN_REFRESH,
        WebSocketEventType.SESSION_EXPIRED,
        WebSocketEventType.SESSION_AUTH_REQUIRED,
        WebSocketEventType.SESSION_PERMISSION_CHANGED,
        WebSocketEventType.SESSION_ORGANIZATION_CHANGED,
    )

    async def handle_event(self, event_type: str, event_data: dict[str, Any], context: PluginContext) -> None:
        """Log the event at INFO; `user_id` is who caused it, `event_data` what the record does not have already."""
        data = {_snake_case(key): value for key, value in (event_data or {}).items()}
        user_id = getattr(context.user, "id", None) or data.get("user_id")
        organization_id = (
            context.organization_id or getattr(context.user, "organization_id", None) or data.get("organization_id")
        )
        record = {
            "user_id": None if user_id is None else str(user_id),
            "organization_id": None if organization_id is None else str(organization_id),
        }
        # An administrator's act on another user: that user's id differs from the record's, and stays.
        rest = {key: value for key, value in data.items() if key not in record or str(value) != record[key]}
        context.logger.info("Security audit log", extra={"event_type": str(event_type), **record, "event_data": rest})


def _snake_case(key: str) -> str:
    """Turn a payload key of the wire (`ipAddress`) into the log's spelling (`ip_address`)."""
    return _WORD_START.sub("_", key).lower()
