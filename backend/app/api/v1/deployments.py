"""Routes under /deployments: create, list, show, set the status, cancel, delete.

They read requests and shape answers; what happens is in `operations/deployments.py`. Lines,
progress and heartbeats are in `deployment_logs.py`.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from pydantic import Field, StringConstraints

from backend.app.api.dependencies import Allowed, UseServices
from backend.app.api.schema import Answer, Body, ErrorAnswer
from backend.app.api.strict_route import StrictRoute
from backend.app.auth.permissions import Caller, Permission
from backend.app.operations.deployment_reads import DeploymentFilter
from backend.app.operations.deployments import NewDeployment
from backend.app.schemas.times import WireTime
from backend.app.schemas.websocket_events import DeploymentStatus

router = APIRouter(prefix="/deployments", tags=["deployments"], route_class=StrictRoute)

Viewer = Annotated[Caller, Depends(Allowed(Permission.DEPLOYMENTS_VIEW))]
Operator = Annotated[Caller, Depends(Allowed(Permission.DEPLOYMENTS_RUN))]
Admin = Annotated[Caller, Depends(Allowed(Permission.DEPLOYMENTS_DELETE))]

NewId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
OneLine = Annotated[str, StringConstraints(strip_whitespace=True, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]
Reason = Annotated[str, StringConstraints(max_length=1024)]
Errors = dict[int | str, dict[str, Any]]

NOT_FOUND: Errors = {404: {"model": ErrorAnswer, "description": "not_found: also in another organization"}}


class CreateDeployment(Body):
    """A deployment to be created."""

    name: OneLine
    deployment_id: NewId | None = None
    target: OneLine | None = None
    program: Annotated[str, StringConstraints(max_length=4096)] | None = None
    organization_id: str | None = None


class ChangeStatus(Body):
    """The status a deployment goes to."""

    status: DeploymentStatus
    reason: Reason | None = None
    exit_code: Annotated[int, Field(ge=-(2**31), lt=2**31)] | None = None


class CancelDeployment(Body):
    """Why a deployment should stop."""

    reason: Reason | None = None


class DeploymentAnswer(Answer):
    """A deployment."""

    id: str
    organization_id: str
    name: str
    target: str | None
    program: str | None
    status: DeploymentStatus
    reason: str | None
    exit_code: int | None
    progress: float | None
    step: str | None
    last_line: int
    log_bytes: int
    created_by: str | None
    created_by_name: str | None
    created_at: WireTime
    started_at: WireTime | None
    finished_at: WireTime | None
    cancel_requested_at: WireTime | None
    cancel_requested: bool
    lease_until: WireTime | None


class DeploymentDetail(DeploymentAnswer):
    """A deployment, with the positions of its stream at that moment."""

    positions: dict[str, Any]


class DeploymentPage(Answer):
    """A page of deployments, newest first."""

    items: list[DeploymentAnswer]
    next_cursor: str | None
    positions: dict[str, Any]


@router.post(
    "",
    status_code=201,
    response_model=DeploymentAnswer,
    responses={
        200: {"model": DeploymentAnswer, "description": "It was there already, with the same content."},
        409: {"model": ErrorAnswer, "description": "id_taken, key_reused"},
    },
)
async def create_deployment(
    body: CreateDeployment, caller: Operator, services: UseServices, response: Response
) -> dict[str, Any]:
    """Create a deployment. With a client-made `deploymentId` it can be repeated without harm."""
    new = NewDeployment(
        name=body.name,
        deployment_id=body.deployment_id,
        target=body.target,
        program=body.program,
        organization_id=body.organization_id,
    )
    deployment, is_new = await services.deployments.create(caller, new)
    response.status_code = 201 if is_new else 200
    return deployment


@router.get("", response_model=DeploymentPage)
async def list_deployments(
    caller: Viewer,
    services: UseServices,
    status: Annotated[list[DeploymentStatus] | None, Query(description="Only these; may be repeated.")] = None,
    q: Annotated[str | None, Query(max_length=256, description="Part of name, target or id.")] = None,
    created_by: Annotated[str | None, Query(alias="createdBy", max_length=64, description="A user's id.")] = None,
    organization_id: Annotated[str | None, Query(alias="organizationId", max_length=64)] = None,
    limit: Annotated[int | None, Query(ge=1)] = None,
    cursor: Annotated[str | None, Query(max_length=1024)] = None,
) -> dict[str, Any]:
    """List the organization's deployments, newest first."""
    wanted = DeploymentFilter(tuple(status or ()), q, created_by, organization_id)
    return await services.deployments.list(caller, wanted, limit, cursor)


@router.get("/{deployment_id}", response_model=DeploymentDetail, responses=NOT_FOUND)
async def get_deployment(deployment_id: str, caller: Viewer, services: UseServices) -> dict[str, Any]:
    """Show one deployment."""
    return await services.deployments.get(caller, deployment_id)


@router.put(
    "/{deployment_id}/status",
    response_model=DeploymentAnswer,
    responses={**NOT_FOUND, 409: {"model": ErrorAnswer, "description": "invalid_transition, lease_held"}},
)
async def change_status(
    deployment_id: str, body: ChangeStatus, caller: Operator, services: UseServices
) -> dict[str, Any]:
    """Set the status. The one it has already changes nothing."""
    return await services.deployments.change_status(caller, deployment_id, body.status, body.reason, body.exit_code)


@router.post(
    "/{deployment_id}/cancel",
    status_code=202,
    response_model=DeploymentAnswer,
    responses={
        **NOT_FOUND,
        200: {"model": DeploymentAnswer, "description": "No runner holds it: it is cancelled."},
        202: {"description": "Its runner was asked to stop."},
        409: {"model": ErrorAnswer, "description": "deployment_closed, key_reused"},
    },
)
async def cancel_deployment(
    deployment_id: str,
    caller: Operator,
    services: UseServices,
    response: Response,
    body: CancelDeployment | None = None,
) -> dict[str, Any]:
    """Ask a deployment to stop."""
    deployment, is_asked = await services.deployments.cancel(caller, deployment_id, body.reason if body else None)
    response.status_code = 202 if is_asked else 200
    return deployment


@router.delete(
    "/{deployment_id}",
    status_code=204,
    responses={**NOT_FOUND, 409: {"model": ErrorAnswer, "description": "deployment_active"}},
)
async def delete_deployment(deployment_id: str, caller: Admin, services: UseServices) -> None:
    """Delete an ended deployment with its lines."""
    await services.deployments.delete(caller, deployment_id)
