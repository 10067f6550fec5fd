"""DeploymentMonitorPlugin: a log record for each step in a deployment's life, as the specification prints it.

Status changes are logged at INFO; lines and progress at DEBUG, or every line would be logged twice.
"""

from typing import Any

from backend.app.schemas.websocket_events import WebSocketEventType
from backend.app.websocket.plugin import PluginContext, WebSocketPlugin


class DeploymentMonitorPlugin(WebSocketPlugin):
    """Logs status changes, and at DEBUG how many lines came and how far a deployment is."""

    event_types = (
        WebSocketEventType.DEPLOYMENT_STATUS_CHANGED,
        WebSocketEventType.DEPLOYMENT_LOGS_UPDATE,
        WebSocketEventType.DEPLOYMENT_PROGRESS,
    )

    async def handle_event(self, event_type: str, event_data: dict[str, Any], context: PluginContext) -> None:
        """Log the event; keys that the payload lacks are logged as None."""
        data = event_data or {}
        record: dict[str, Any] = {"event_type": str(event_type), "deployment_id": data.get("deploymentId")}
        log = context.logger.debug
        if event_type == WebSocketEventType.DEPLOYMENT_STATUS_CHANGED:
            log = context.logger.info
            record |= {"old_status": data.get("oldStatus"), "new_status": data.get("newStatus")}
        elif event_type == WebSocketEventType.DEPLOYMENT_LOGS_UPDATE:
            record |= {"first_line": data.get("firstLine"), "line_count": len(data.get("logs") or ())}
        else:
            record |= {"progress": data.get("progress"), "step": data.get("step")}
        log("Deployment lifecycle event", extra=record)
