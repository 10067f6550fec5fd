"""The failure notifier alone: what it sends, and when it sends nothing."""

from typing import Any

import pytest

from backend.app.schemas.errors import ErrorCode, WindFlowError
from backend.app.schemas.websocket_events import NotificationSent
from backend.app.websocket.plugin import EventEnvelope
from backend.app.websocket.plugins.failure_notifier import FailureNotifierPlugin
from tests.plugin_world import make_context

FAILED = {"deploymentId": "d-1", "newStatus": "failed", "deploymentName": "shop", "reason": "exit", "exitCode": 3}
EVENT = EventEnvelope("event-1", "DEPLOYMENT_STATUS_CHANGED", "org-1", "d-1")


async def sent_for(data: dict[str, Any], **context: Any) -> list[dict[str, Any]]:
    """Handle an event, directly, and return the notifications that were sent."""
    made = make_context(**context)
    await FailureNotifierPlugin().handle_event("DEPLOYMENT_STATUS_CHANGED", data, made)
    calls = made.broadcast_to_event_subscribers.await_args_list  # type: ignore[union-attr]
    assert all(call.args[0] == "NOTIFICATION_SENT" for call in calls)
    return [call.args[1] for call in calls]


async def test_a_failure_is_told_with_its_cause() -> None:
    """Called directly, without start, database or manager."""
    (payload,) = await sent_for(FAILED)
    assert payload["title"] == "Deployment failed: shop"
    assert payload["message"] == "exit; exit code 3"
    assert (payload["level"], payload["deploymentId"]) == ("error", "d-1")
    NotificationSent.model_validate(payload)


@pytest.mark.parametrize("status", ["running", "success", "cancelled", None])
async def test_nothing_is_sent_for_any_other_status(status: str | None) -> None:
    """Nor for an event without one."""
    assert await sent_for({**FAILED, "newStatus": status}) == []


async def test_the_same_event_gives_the_same_notification() -> None:
    """And another event another one."""
    (first,), (again,) = await sent_for(FAILED, event=EVENT), await sent_for(FAILED, event=EVENT)
    other = EventEnvelope("event-2", "DEPLOYMENT_STATUS_CHANGED", "org-1", "d-1")
    (second,) = await sent_for(FAILED, event=other)
    assert first["notificationId"] == again["notificationId"] != second["notificationId"]


@pytest.mark.parametrize(("code", "is_raised"), [("ID_TAKEN", False), ("NOT_FOUND", False), ("RATE_LIMITED", True)])
async def test_only_what_may_pass_is_raised(code: str, is_raised: bool) -> None:
    """A notification that is there, or a deployment that is gone, is no failure; any other refusal is tried again."""
    context = make_context(event=EVENT)
    context.broadcast_to_event_subscribers.side_effect = WindFlowError(ErrorCode[code], "refused")  # type: ignore[union-attr]
    handled = FailureNotifierPlugin().handle_event("DEPLOYMENT_STATUS_CHANGED", FAILED, context)
    if is_raised:
        with pytest.raises(WindFlowError):
            await handled
    else:
        await handled
