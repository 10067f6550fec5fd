"""Routes under /users, for the admins of an organization.

They read requests and shape answers; what happens is in `operations/users.py`.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from pydantic import SecretStr

from backend.app.api.dependencies import Allowed, UseServices
from backend.app.api.pages import Changes, PageAnswer, UsePage
from backend.app.api.refusals import AUTHENTICATED, refusals
from backend.app.api.schema import Answer, Body
from backend.app.api.strict_route import StrictRoute
from backend.app.auth.permissions import Caller, Permission
from backend.app.operations.users import NewUser, UserChanges
from backend.app.schemas.errors import ErrorCode
from backend.app.schemas.roles import Role
from backend.app.schemas.times import WireTime
from backend.app.schemas.websocket_events import Identifier

router = APIRouter(prefix="/users", tags=["users"], route_class=StrictRoute)

Admin = Annotated[Caller, Depends(Allowed(Permission.USERS_MANAGE))]

_E = ErrorCode
_REFUSED = {**AUTHENTICATED, **refusals(_E.FORBIDDEN, _E.ROLE_TOO_HIGH, _E.NOT_FOUND)}


class NewUserBody(Body):
    """A user to be made. Without a password, one is generated and answered once."""

    username: str
    role: Role = Role.VIEWER
    password: SecretStr | None = None
    is_active: bool = True
    is_superuser: bool = False
    organization_id: Identifier | None = None


class UserChangesBody(Changes):
    """What is to change about a user."""

    username: str | None = None
    role: Role | None = None
    is_active: bool | None = None
    is_superuser: bool | None = None
    organization_id: Identifier | None = None


class NewPasswordBody(Body):
    """Another password for a user. Without one, it is generated and answered once."""

    password: SecretStr | None = None


class UserAnswer(Answer):
    """A user."""

    id: str
    organization_id: str
    username: str
    role: Role
    is_superuser: bool
    is_active: bool
    created_at: WireTime
    password_changed_at: WireTime | None


class UserDetail(UserAnswer):
    """A user, with where the organization's stream stood."""

    positions: dict[str, Any]


class NewUserAnswer(UserAnswer):
    """A new user; `password` holds a generated one, and is null otherwise and to a repeated request."""

    password: str | None


class NewPasswordAnswer(Answer):
    """The generated password; null where one was given, and to a repeated request."""

    password: str | None


class UserPage(PageAnswer):
    """A page of users, newest first."""

    items: list[UserAnswer]


def _plain(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


@router.get("", response_model=UserPage, responses=AUTHENTICATED)
async def list_users(
    caller: Admin,
    services: UseServices,
    page: UsePage,
    organization_id: Annotated[
        Identifier | None, Query(alias="organizationId", description="Superusers; without it they see all.")
    ] = None,
) -> dict[str, Any]:
    """List the users of the organization."""
    return await services.users.page(caller, organization_id, page)


@router.post(
    "",
    status_code=201,
    response_model=NewUserAnswer,
    responses={
        **_REFUSED,
        **refusals(_E.INVALID_PAYLOAD, _E.WEAK_PASSWORD, _E.NAME_TAKEN, _E.KEY_REUSED, _E.RATE_LIMITED),
    },
)
async def create_user(body: NewUserBody, caller: Admin, response: Response, services: UseServices) -> dict[str, Any]:
    """Make a user."""
    response.headers["Cache-Control"] = "no-store"
    new = NewUser(
        username=body.username,
        role=body.role,
        password=_plain(body.password),
        is_active=body.is_active,
        is_superuser=body.is_superuser,
        organization_id=body.organization_id,
    )
    return await services.users.create(caller, new)


@router.get("/{user_id}", response_model=UserDetail, responses={**AUTHENTICATED, **refusals(_E.NOT_FOUND)})
async def get_user(user_id: str, caller: Admin, services: UseServices) -> dict[str, Any]:
    """Show one user."""
    return await services.users.get(caller, user_id)


@router.patch(
    "/{user_id}",
    response_model=UserAnswer,
    responses={**_REFUSED, **refusals(_E.NAME_TAKEN, _E.LAST_SUPERUSER)},
)
async def change_user(user_id: str, body: UserChangesBody, caller: Admin, services: UseServices) -> dict[str, Any]:
    """Change a user's name, role, organization (superusers), or whether it can log in."""
    changes = UserChanges(
        username=body.username,
        role=body.role,
        is_active=body.is_active,
        is_superuser=body.is_superuser,
        organization_id=body.organization_id,
    )
    return await services.users.update(caller, user_id, changes)


@router.delete("/{user_id}", status_code=204, responses={**_REFUSED, **refusals(_E.LAST_SUPERUSER)})
async def delete_user(user_id: str, caller: Admin, services: UseServices) -> None:
    """Delete a user with its sessions and API tokens."""
    await services.users.delete(caller, user_id)


@router.post(
    "/{user_id}/password",
    response_model=NewPasswordAnswer,
    responses={**_REFUSED, **refusals(_E.INVALID_PAYLOAD, _E.WEAK_PASSWORD, _E.KEY_REUSED, _E.RATE_LIMITED)},
)
async def set_password(
    user_id: str,
    caller: Admin,
    response: Response,
    services: UseServices,
    body: NewPasswordBody | None = None,
) -> dict[str, Any]:
    """Give a user another password and end its sessions; not for superusers and not for oneself."""
    response.headers["Cache-Control"] = "no-store"
    return await services.users.set_password(caller, user_id, _plain(body.password) if body else None)
