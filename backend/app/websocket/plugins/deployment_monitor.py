"""DeploymentMonitorPlugin: a log record for each step in a deployment's life, as the specification prints it.

Status changes are logged at INFO; lines and progress at DEBUG, or every line would be logged twice.
Outcomes are counted, and how long deployments ran that this server saw begin and end.
"""

from collections import OrderedDict
from datetime import datetime
from typing import Any

from backend.app import metrics
from backend.app.schemas.websocket_events import WebSocketEventType
from backend.app.websocket.plugin import PluginContext, WebSocketPlugin

_OUTCOMES = frozenset({"success", "failed", "cancelled"})
_REMEMBERED = 10_000
"""Most running deployments whose begin is remembered; above, the oldest are not measured."""


class DeploymentMonitorPlugin(WebSocketPlugin):
    """Logs status changes, and at DEBUG how many lines came and how far a deployment is; measures outcomes."""

    event_types = (
        WebSocketEventType.DEPLOYMENT_STATUS_CHANGED,
        WebSocketEventType.DEPLOYMENT_LOGS_UPDATE,
        WebSocketEventType.DEPLOYMENT_PROGRESS,
    )

    def __init__(self) -> None:
        self._began: OrderedDict[str, datetime] = OrderedDict()

    async def handle_event(self, event_type: str, event_data: dict[str, Any], context: PluginContext) -> None:
        """Log the event; keys that the payload lacks are logged as None."""
        data = event_data or {}
        record: dict[str, Any] = {"event_type": str(event_type), "deployment_id": data.get("deploymentId")}
        log = context.logger.debug
        if event_type == WebSocketEventType.DEPLOYMENT_STATUS_CHANGED:
            log = context.logger.info
            record |= {"old_status": data.get("oldStatus"), "new_status": data.get("newStatus")}
            self._measure(data, context)
        elif event_type == WebSocketEventType.DEPLOYMENT_LOGS_UPDATE:
            record |= {"first_line": data.get("firstLine"), "line_count": len(data.get("logs") or ())}
        else:
            record |= {"progress": data.get("progress"), "step": data.get("step")}
        log("Deployment lifecycle event", extra=record)

    def _measure(self, data: dict[str, Any], context: PluginContext) -> None:
        """Count an end and observe its duration, by the times at which the changes were committed."""
        deployment_id, status = str(data.get("deploymentId")), data.get("newStatus")
        moment = context.event.created_at if context.event is not None else None
        if status == "running":
            if moment is not None:
                self._began.setdefault(deployment_id, moment)
            while len(self._began) > _REMEMBERED:
                self._began.popitem(last=False)
        elif status in _OUTCOMES:
            metrics.DEPLOYMENT_ENDS.labels(status).inc()
            began = self._began.pop(deployment_id, None)
            if began is not None and moment is not None:
                metrics.DEPLOYMENT_SECONDS.labels(status).observe(max(0.0, (moment - began).total_seconds()))
