"""Routes under /events: publish an event of any type the API may send.

They read requests and shape answers; what happens is in `operations/events.py`.
"""

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import StringConstraints

from backend.app.api.dependencies import API_SENDER, Allowed, UseServices
from backend.app.api.schema import Answer, Body, ErrorAnswer
from backend.app.api.strict_route import StrictRoute
from backend.app.auth.permissions import Caller, Permission
from backend.app.schemas.websocket_events import Identifier

router = APIRouter(prefix="/events", tags=["events"], route_class=StrictRoute)

Admin = Annotated[Caller, Depends(Allowed(Permission.EVENTS_PUBLISH))]


class PublishEvent(Body):
    """An event; with `userId` only that user of the organization gets it."""

    type: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    data: dict[str, Any]
    user_id: Identifier | None = None


class PublishedAnswer(Answer):
    """The event's id; its place in the log where its type is kept there."""

    id: str | None
    stream: str | None = None
    offset: int | None = None


@router.post(
    "",
    status_code=202,
    response_model=PublishedAnswer,
    response_model_exclude_none=True,
    responses={
        400: {"model": ErrorAnswer, "description": "unknown_type"},
        403: {"model": ErrorAnswer, "description": "not_sendable, forbidden"},
        404: {"model": ErrorAnswer, "description": "not_found: the user, or what the payload names"},
    },
)
async def publish_event(body: PublishEvent, caller: Admin, services: UseServices) -> dict[str, Any]:
    """Publish an event to the organization, or to one user of it."""
    sender = replace(caller, sender=API_SENDER)
    published = await services.events.publish(sender, body.type, body.data, user_id=body.user_id)
    return published.wire()
