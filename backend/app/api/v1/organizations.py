"""Routes under /organizations, for superusers.

They read requests and shape answers; what happens is in `operations/organizations.py`.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from backend.app.api.dependencies import Allowed, UseServices
from backend.app.api.pages import Changes, PageAnswer, UsePage
from backend.app.api.refusals import AUTHENTICATED, refusals
from backend.app.api.schema import Answer, Body, Name
from backend.app.api.strict_route import StrictRoute
from backend.app.auth.permissions import Caller, Permission
from backend.app.schemas.errors import ErrorCode
from backend.app.schemas.times import WireTime

router = APIRouter(prefix="/organizations", tags=["organizations"], route_class=StrictRoute)

Superuser = Annotated[Caller, Depends(Allowed(Permission.ORGANIZATIONS_MANAGE))]

_E = ErrorCode


class NewOrganizationBody(Body):
    """An organization to be made."""

    name: Name


class OrganizationChangesBody(Changes):
    """What is to change about an organization."""

    name: Name


class OrganizationAnswer(Answer):
    """An organization."""

    id: str
    name: str
    created_at: WireTime


class OrganizationDetail(OrganizationAnswer):
    """An organization, with where its stream stood."""

    positions: dict[str, Any]


class OrganizationPage(PageAnswer):
    """A page of organizations, newest first."""

    items: list[OrganizationAnswer]


@router.get("", response_model=OrganizationPage, responses=AUTHENTICATED)
async def list_organizations(caller: Superuser, services: UseServices, page: UsePage) -> dict[str, Any]:
    """List all organizations."""
    return await services.organizations.page(page)


@router.post(
    "",
    status_code=201,
    response_model=OrganizationAnswer,
    responses={**AUTHENTICATED, **refusals(_E.NAME_TAKEN, _E.KEY_REUSED)},
)
async def create_organization(body: NewOrganizationBody, caller: Superuser, services: UseServices) -> dict[str, Any]:
    """Make an organization."""
    return await services.organizations.create(caller, body.name)


@router.get(
    "/{organization_id}", response_model=OrganizationDetail, responses={**AUTHENTICATED, **refusals(_E.NOT_FOUND)}
)
async def get_organization(organization_id: str, caller: Superuser, services: UseServices) -> dict[str, Any]:
    """Show one organization."""
    return await services.organizations.get(organization_id)


@router.patch(
    "/{organization_id}",
    response_model=OrganizationAnswer,
    responses={**AUTHENTICATED, **refusals(_E.NOT_FOUND, _E.NAME_TAKEN)},
)
async def rename_organization(
    organization_id: str, body: OrganizationChangesBody, caller: Superuser, services: UseServices
) -> dict[str, Any]:
    """Give an organization another name."""
    return await services.organizations.rename(caller, organization_id, body.name)


@router.delete(
    "/{organization_id}",
    status_code=204,
    responses={**AUTHENTICATED, **refusals(_E.NOT_FOUND, _E.NOT_EMPTY)},
)
async def delete_organization(organization_id: str, caller: Superuser, services: UseServices) -> None:
    """Delete an organization that has neither users nor deployments."""
    await services.organizations.delete(caller, organization_id)
