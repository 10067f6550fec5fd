"""Routes under /notifications: send, list, mark as read.

They read requests and shape answers; what happens is in `operations/notifications.py`.
"""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import Field, StringConstraints, model_validator

from backend.app.api.dependencies import Allowed, UseServices
from backend.app.api.schema import Answer, Body, ErrorAnswer
from backend.app.api.strict_route import StrictRoute
from backend.app.auth.permissions import Caller, Permission
from backend.app.schemas.times import WireTime
from backend.app.schemas.websocket_events import Identifier, NotificationLevel, NotificationSent

router = APIRouter(prefix="/notifications", tags=["notifications"], route_class=StrictRoute)

Viewer = Annotated[Caller, Depends(Allowed(Permission.NOTIFICATIONS_VIEW))]
Operator = Annotated[Caller, Depends(Allowed(Permission.NOTIFICATIONS_SEND))]

NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": ErrorAnswer, "description": "not_found"}}


class SendNotification(Body):
    """A notification; without `userId` it is for everyone of the organization."""

    title: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    message: Annotated[str, StringConstraints(max_length=16384)]
    level: NotificationLevel = "info"
    user_id: Identifier | None = None
    link: Annotated[str, StringConstraints(max_length=2048)] | None = None
    deployment_id: Identifier | None = None


class MarkRead(Body):
    """Either the notifications, or all of them."""

    notification_ids: Annotated[list[Identifier], Field(min_length=1, max_length=1000)] | None = None
    all: Literal[True] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> "MarkRead":
        if (self.notification_ids is None) == (self.all is None):
            raise ValueError("either notificationIds or all: true")
        return self


class NotificationAnswer(Answer):
    """A notification, with what the asking user did with it."""

    id: str
    title: str
    message: str
    level: str
    link: str | None
    deployment_id: str | None
    user_id: str | None
    created_by: str | None
    created_at: WireTime
    read: bool
    read_at: WireTime | None


class NotificationPage(Answer):
    """A page of notifications, newest first; `unreadCount` counts all unread ones."""

    items: list[NotificationAnswer]
    unread_count: int
    next_cursor: str | None
    positions: dict[str, Any]


class MarkedRead(Answer):
    """Which notifications were unread until now."""

    notification_ids: list[str]
    read_at: WireTime
    unread_count: int


@router.post(
    "",
    status_code=201,
    response_model=NotificationAnswer,
    responses={404: {"model": ErrorAnswer, "description": "not_found: the user or the deployment"}},
)
async def send_notification(body: SendNotification, caller: Operator, services: UseServices) -> dict[str, Any]:
    """Send a notification to a user or to the whole organization."""
    payload = NotificationSent(
        title=body.title, message=body.message, level=body.level, link=body.link, deployment_id=body.deployment_id
    )
    return await services.notifications.send(caller, payload, body.user_id)


@router.get("", response_model=NotificationPage)
async def list_notifications(
    caller: Viewer,
    services: UseServices,
    unread: bool | None = None,
    level: NotificationLevel | None = None,
    limit: Annotated[int | None, Query(ge=1)] = None,
    cursor: Annotated[str | None, Query(max_length=1024)] = None,
) -> dict[str, Any]:
    """List the notifications for the caller, newest first."""
    return await services.notifications.list(caller, is_unread=unread, level=level, limit=limit, cursor=cursor)


@router.post("/read", response_model=MarkedRead, responses=NOT_FOUND)
async def mark_read(body: MarkRead, caller: Viewer, services: UseServices) -> dict[str, Any]:
    """Mark notifications as read, on all devices of the caller."""
    return await services.notifications.mark_read(caller, body.notification_ids)
