"""FailureNotifierPlugin: a failed deployment becomes a notification for its organization, with its last log lines.

Registered only if it is configured. The notification's id is derived from the event's: an event that
is handled again, after a crash, makes no second one.
"""

import uuid
from typing import Any

from pydantic import BaseModel, Field
from sqlalchemy import func, select

from backend.app.models.deployment import DeploymentLog
from backend.app.schemas.errors import ErrorCode, WindFlowError
from backend.app.schemas.websocket_events import WebSocketEventType
from backend.app.websocket.plugin import PluginContext, WebSocketPlugin

_NAMESPACE = uuid.UUID("5b0b6c3e-6a86-5d5e-9d0c-6f0f2a4f7d11")
_TITLE_CHARACTERS = 256
_MESSAGE_CHARACTERS = 16_384
_CUT = "…"


class FailureNotifierSettings(BaseModel):
    """What an operator can set: `WINDFLOW_PLUGIN__FAILURE_NOTIFIER__…`."""

    lines: int = Field(20, ge=0, le=200, description="How many of the last log lines a notification holds.")
    line_characters: int = Field(500, ge=20, le=5_000, description="Longest line in it; a longer one is cut.")


class FailureNotifierPlugin(WebSocketPlugin):
    """Sends NOTIFICATION_SENT, level `error`, for each deployment that failed."""

    event_types = (WebSocketEventType.DEPLOYMENT_STATUS_CHANGED,)
    settings_model = FailureNotifierSettings
    retries = 5

    async def handle_event(self, event_type: str, event_data: dict[str, Any], context: PluginContext) -> None:
        """Notify of a failure; nothing for any other change of status. Without a database there are no log lines."""
        data = event_data or {}
        if data.get("newStatus") != "failed" or context.broadcast_to_event_subscribers is None:
            return
        settings = context.settings if isinstance(context.settings, FailureNotifierSettings) else None
        settings = settings or FailureNotifierSettings.model_validate({})
        deployment_id = data.get("deploymentId")
        payload: dict[str, Any] = {
            "title": f"Deployment failed: {data.get('deploymentName') or deployment_id}"[:_TITLE_CHARACTERS],
            "message": _message(data, await _last_lines(deployment_id, settings, context)),
            "level": "error",
            "deploymentId": deployment_id,
        }
        if context.event is not None:
            payload["notificationId"] = str(uuid.uuid5(_NAMESPACE, context.event.id))
        try:
            await context.broadcast_to_event_subscribers(WebSocketEventType.NOTIFICATION_SENT, payload)
        except WindFlowError as error:
            if error.code is ErrorCode.ID_TAKEN:
                return  # The event was handled before: its notification is there.
            if error.code is not ErrorCode.NOT_FOUND:
                raise
            context.logger.info("failure_notifier: deployment %s was deleted, nobody is notified", deployment_id)


async def _last_lines(
    deployment_id: str | None, settings: FailureNotifierSettings, context: PluginContext
) -> list[str]:
    """Return the last stored lines, oldest first, each cut to its length."""
    if context.session is None or deployment_id is None or settings.lines == 0:
        return []
    # One character more than is shown tells whether it was cut; a line of a megabyte is not fetched.
    text = func.substr(DeploymentLog.text, 1, settings.line_characters + 1)
    statement = select(text).where(DeploymentLog.deployment_id == deployment_id)
    async with context.session() as db:
        found = (await db.scalars(statement.order_by(DeploymentLog.line.desc()).limit(settings.lines))).all()
    return [_cut(line, settings.line_characters) for line in reversed(found)]


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: characters - 1] + _CUT


def _message(data: dict[str, Any], lines: list[str]) -> str:
    """Return reason and exit code, and below them as many of the last lines as fit."""
    cause = [str(data["reason"])] if data.get("reason") else []
    if data.get("exitCode") is not None:
        cause.append(f"exit code {data['exitCode']}")
    message = _cut("; ".join(cause) or "It failed.", 2_000)
    kept: list[str] = []
    room = _MESSAGE_CHARACTERS - len(message) - 1
    for line in reversed(lines):
        room -= len(line) + 1
        if room < 0:
            break
        kept.append(line)
    return "\n".join([message, "", *reversed(kept)]) if kept else message
