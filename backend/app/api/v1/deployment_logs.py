"""Routes under /deployments/{id}: lines, progress and heartbeats of runners, and reading the lines.

They read requests and shape answers; what happens is in `operations/deployments.py`.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse
from pydantic import Field, StringConstraints

from backend.app.api.dependencies import Allowed, UseServices
from backend.app.api.schema import Answer, Body, ErrorAnswer
from backend.app.api.strict_route import StrictRoute
from backend.app.auth.permissions import Caller, Permission
from backend.app.operations.deployment_logs import LEVEL_CHARACTERS, LogLine
from backend.app.operations.deployment_reads import LogQuery
from backend.app.schemas.times import WireTime

router = APIRouter(prefix="/deployments/{deployment_id}", tags=["deployments"], route_class=StrictRoute)

Viewer = Annotated[Caller, Depends(Allowed(Permission.DEPLOYMENTS_VIEW))]
Operator = Annotated[Caller, Depends(Allowed(Permission.DEPLOYMENTS_RUN))]

LARGEST_NUMBER = 2**53
"""Line numbers stay exact in every JSON reader."""

REFUSALS: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorAnswer, "description": "not_found: also in another organization"},
    409: {"model": ErrorAnswer, "description": "lease_held, deployment_closed; lines also: log_gap"},
}


class Line(Body):
    """One line: any text without line end."""

    text: str
    t: datetime | None = None
    stream: Literal["out", "err"] | None = None
    level: Annotated[str, StringConstraints(min_length=1, max_length=LEVEL_CHARACTERS)] | None = None


class AppendLines(Body):
    """Lines from a number on; the first line of a log is number 1."""

    first_line: Annotated[int, Field(ge=1, lt=LARGEST_NUMBER)]
    lines: list[Line]


class Progress(Body):
    """How far a deployment is, in percent."""

    progress: Annotated[float, Field(ge=0, le=100)]
    step: Annotated[str, StringConstraints(max_length=1024)] | None = None
    current_step: Annotated[int, Field(ge=0, lt=LARGEST_NUMBER)] | None = None
    total_steps: Annotated[int, Field(ge=0, lt=LARGEST_NUMBER)] | None = None
    eta_seconds: Annotated[float, Field(ge=0)] | None = None


class Heartbeat(Body):
    """Nothing but the sign of life."""


class Reported(Answer):
    """What a runner is told with every answer."""

    cancel_requested: bool
    lease_until: WireTime | None


class Appended(Reported):
    """The number that the next line has."""

    next_line: int


class StoredLine(Answer):
    """One line of a log."""

    line: int
    text: str
    t: WireTime | None
    stream: str | None
    level: str | None


class LogPage(Answer):
    """A page of lines. Ask from `nextLine` to go on; above `lastLine` there is nothing more yet.

    `firstLine` is the first line that retention left of the log.
    """

    items: list[StoredLine]
    first_line: int
    next_line: int
    last_line: int
    positions: dict[str, Any]


@router.post(
    "/logs",
    response_model=Appended,
    responses={**REFUSALS, 413: {"model": ErrorAnswer, "description": "message_too_large"}},
)
async def append_lines(
    deployment_id: str, body: AppendLines, caller: Operator, services: UseServices
) -> dict[str, Any]:
    """Append lines. Lines below the next number are ignored, so a report can be repeated."""
    lines = [LogLine(line.text, line.t, line.stream, line.level) for line in body.lines]
    return await services.deployments.append_logs(caller, deployment_id, body.first_line, lines)


@router.get(
    "/logs",
    response_model=LogPage,
    responses={
        200: {"content": {"text/plain": {}}, "description": "A page, or the text."},
        404: REFUSALS[404],
        410: {"model": ErrorAnswer, "description": "lines_expired: go on from `firstAvailable`"},
    },
)
async def read_lines(
    deployment_id: str,
    caller: Viewer,
    services: UseServices,
    from_line: Annotated[
        int,
        Query(
            alias="fromLine",
            gt=-LARGEST_NUMBER,
            lt=LARGEST_NUMBER,
            description="1 or 0: all that is there; -n: the last n of it.",
        ),
    ] = 1,
    limit: Annotated[int | None, Query(ge=1, description="Most lines; a JSON page has a limit of its own.")] = None,
    level: Annotated[str | None, Query(min_length=1, max_length=LEVEL_CHARACTERS)] = None,
    q: Annotated[str | None, Query(min_length=1, max_length=256, description="Part of the text.")] = None,
    shape: Annotated[Literal["json", "text"], Query(alias="format")] = "json",
) -> Any:
    """Read lines: a page as JSON, or all of them as text."""
    query = LogQuery(from_line, limit, level, q)
    if shape == "json":
        return await services.deployments.read_logs(caller, deployment_id, query)
    text = await services.deployments.log_text(caller, deployment_id, query)
    # A log is data: no browser may take it for something else.
    headers = {"X-Content-Type-Options": "nosniff"}
    return StreamingResponse(text, media_type="text/plain; charset=utf-8", headers=headers)


@router.put("/progress", response_model=Reported, responses=REFUSALS)
async def report_progress(
    deployment_id: str, body: Progress, caller: Operator, services: UseServices
) -> dict[str, Any]:
    """Report how far the deployment is."""
    data = body.model_dump(by_alias=True, exclude_none=True)
    return await services.deployments.report_progress(caller, deployment_id, data)


@router.post("/heartbeat", response_model=Reported, responses=REFUSALS)
async def heartbeat(
    deployment_id: str, caller: Operator, services: UseServices, body: Heartbeat | None = None
) -> dict[str, Any]:
    """Renew the runner's lease."""
    return await services.deployments.heartbeat(caller, deployment_id)
