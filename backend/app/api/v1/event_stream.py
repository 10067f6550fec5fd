"""The route GET /events, the socket's feed as server-sent events; what happens is in `websocket/event_streams.py`."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request
from pydantic import StringConstraints
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from backend.app.api.dependencies import AllowedByTicket, UseEventStreams
from backend.app.api.refusals import AUTHENTICATED, refusals
from backend.app.api.strict_route import StrictRoute
from backend.app.auth.permissions import Caller, Permission
from backend.app.schemas.errors import ErrorCode
from backend.app.schemas.websocket_events import Identifier
from backend.app.websocket.event_streams import Asked
from backend.app.websocket.server_sent_events import HEADER, read_last_event_id

router = APIRouter(prefix="/events", tags=["events"], route_class=StrictRoute)

Viewer = Annotated[Caller, Depends(AllowedByTicket(Permission.EVENTS_SUBSCRIBE))]
Types = list[Annotated[str, StringConstraints(max_length=4_096)]]


class EventStreamResponse(Response):
    """An answer that is written by whoever serves the stream."""

    media_type = "text/event-stream"

    def __init__(self, serve: Callable[[Receive, Send], Awaitable[None]]) -> None:
        super().__init__()
        self._serve = serve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the stream."""
        scope["windflow.is_stream"] = True
        await self._serve(receive, send)


@router.get(
    "",
    status_code=200,
    response_class=EventStreamResponse,
    responses={
        200: {"description": "Events, until one side ends", "content": {"text/event-stream": {}}},
        **AUTHENTICATED,
        **refusals(
            ErrorCode.INVALID_MESSAGE,
            ErrorCode.UNKNOWN_TYPE,
            ErrorCode.NOT_FOUND,
            ErrorCode.RATE_LIMITED,
            ErrorCode.TOO_MANY_SUBSCRIPTIONS,
            ErrorCode.SERVER_RESTARTING,
        ),
    },
)
async def stream_events(
    request: Request,
    caller: Viewer,
    streams: UseEventStreams,
    types: Annotated[Types | None, Query(description="Names and patterns (`DEPLOYMENT_*`), comma-separated.")] = None,
    deployment_id: Annotated[Identifier | None, Query(alias="deploymentId")] = None,
    organization_id: Annotated[Identifier | None, Query(alias="organizationId", description="For superusers.")] = None,
    from_line: Annotated[
        int | None, Query(alias="fromLine", description="First line of the deployment's log; 0 = all, -n = the last n.")
    ] = None,
    last_event_id: Annotated[
        str | None, Header(alias=HEADER, description="The `id` of the last event that came: the stream goes on there.")
    ] = None,
) -> EventStreamResponse:
    """Follow events as server-sent events: the same messages as on the socket."""
    names = [name.strip() for part in types or () for name in part.split(",") if name.strip()]
    asked = Asked(names, deployment_id, organization_id, from_line, read_last_event_id(last_event_id))
    return EventStreamResponse(lambda receive, send: streams.serve(caller, asked, request, receive, send))
