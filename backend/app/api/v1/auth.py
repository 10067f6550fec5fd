"""Routes under /auth: login, refresh, logout, one's own account, sessions and API tokens.

They read requests and shape answers; what happens is in `operations/sessions.py`, `users.py` and
`tokens.py`. Login and refresh answer as OAuth2 wants it, in snake_case.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.security import OAuth2PasswordRequestForm
from pydantic import AfterValidator, AwareDatetime, BaseModel, SecretStr

from backend.app.api.dependencies import Allowed, Public, UseServices, address_of, request_id_of
from backend.app.api.pages import PageAnswer, UsePage
from backend.app.api.refusals import AUTHENTICATED, PUBLIC, refusals
from backend.app.api.schema import Answer, Body, Name
from backend.app.api.strict_route import StrictRoute
from backend.app.api.v1.users import UserAnswer
from backend.app.auth.permissions import Caller, Permission
from backend.app.operations.sessions import TokenPair
from backend.app.schemas.errors import ErrorCode
from backend.app.schemas.roles import Role
from backend.app.schemas.times import WireTime
from backend.app.schemas.websocket_events import Identifier

router = APIRouter(prefix="/auth", tags=["auth"], route_class=StrictRoute)

Own = Annotated[Caller, Depends(Allowed(Permission.OWN_ACCOUNT))]
TokenOwner = Annotated[Caller, Depends(Allowed(Permission.TOKENS_OWN))]

_E = ErrorCode


def _utc(moment: datetime) -> datetime:
    try:
        utc = moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("outside the years 1 to 9999") from None
    return utc.replace(microsecond=utc.microsecond // 1000 * 1000)


class TokenAnswer(BaseModel):
    """What a login or a refresh gives."""

    access_token: str
    token_type: Literal["bearer"] = "bearer"
    expires_in: int
    """Seconds."""
    refresh_token: str


class RefreshBody(Body):
    """The refresh token of the last answer."""

    refresh_token: SecretStr


class LogoutBody(Body):
    """With `all`, every session of the user ends."""

    all: bool = False


class PasswordBody(Body):
    """The caller's own password: the present one and the next one."""

    current_password: SecretStr
    new_password: SecretStr


class MeAnswer(UserAnswer):
    """The caller, with what these credentials may do."""

    organization_name: str
    permissions: list[str]
    session_id: str | None
    token_id: str | None
    positions: dict[str, Any]


class SessionAnswer(Answer):
    """A live session."""

    id: str
    user_id: str
    username: str
    created_at: WireTime
    last_used_at: WireTime
    expires_at: WireTime
    address: str | None
    client: str | None
    is_current: bool


class SessionPage(PageAnswer):
    """A page of sessions, newest first."""

    items: list[SessionAnswer]


class NewTokenBody(Body):
    """An API token to be made; its role is at most the caller's."""

    name: Name
    role: Role
    expires_at: Annotated[AwareDatetime, AfterValidator(_utc)] | None = None


class ApiTokenAnswer(Answer):
    """An API token."""

    id: str
    name: str
    role: Role
    created_at: WireTime
    expires_at: WireTime | None


class NewApiTokenAnswer(ApiTokenAnswer):
    """A new API token; the secret is answered once, and null to a repeated request."""

    secret: str | None


class ApiTokenPage(PageAnswer):
    """A page of API tokens, newest first."""

    items: list[ApiTokenAnswer]


def _tokens(pair: TokenPair, response: Response) -> TokenAnswer:
    response.headers["Cache-Control"] = "no-store"
    return TokenAnswer(access_token=pair.access_token, expires_in=pair.expires_in, refresh_token=pair.refresh_token)


@router.post(
    "/login",
    response_model=TokenAnswer,
    dependencies=[Depends(Public())],
    responses={**PUBLIC, **refusals(_E.INVALID_CREDENTIALS, _E.RATE_LIMITED)},
)
async def login(
    form: Annotated[OAuth2PasswordRequestForm, Depends()],
    request: Request,
    response: Response,
    services: UseServices,
) -> TokenAnswer:
    """Log in with user name and password, as OAuth2's password form."""
    pair = await services.sessions.login(
        form.username,
        form.password,
        address=address_of(request),
        client=request.headers.get("user-agent"),
        request_id=request_id_of(request),
    )
    return _tokens(pair, response)


@router.post(
    "/refresh",
    response_model=TokenAnswer,
    dependencies=[Depends(Public())],
    responses={**PUBLIC, **refusals(_E.NOT_AUTHENTICATED, _E.TOKEN_EXPIRED, _E.TOKEN_REUSED, _E.RATE_LIMITED)},
)
async def refresh(body: RefreshBody, request: Request, response: Response, services: UseServices) -> TokenAnswer:
    """Exchange a refresh token for new tokens; each works once, and using an old one ends the session."""
    token = body.refresh_token.get_secret_value()
    pair = await services.sessions.refresh(token, address=address_of(request), request_id=request_id_of(request))
    return _tokens(pair, response)


@router.post("/logout", status_code=204, responses=AUTHENTICATED)
async def logout(caller: Own, services: UseServices, body: LogoutBody | None = None) -> None:
    """End the session, or with `all` every session of the user; their sockets are closed."""
    await services.sessions.logout(caller, everywhere=body is not None and body.all)


@router.get("/me", response_model=MeAnswer, responses=AUTHENTICATED)
async def me(caller: Own, services: UseServices) -> dict[str, Any]:
    """Show who the credentials stand for, and what they may do."""
    return await services.users.me(caller)


@router.put(
    "/password",
    status_code=204,
    responses={
        **AUTHENTICATED,
        **refusals(_E.NOT_AUTHENTICATED, _E.TOKEN_EXPIRED, _E.INVALID_CREDENTIALS),
        **refusals(_E.INVALID_PAYLOAD, _E.WEAK_PASSWORD, _E.RATE_LIMITED),
    },
)
async def change_password(body: PasswordBody, caller: Own, services: UseServices) -> None:
    """Change one's own password; all other sessions end."""
    await services.users.change_own_password(
        caller, body.current_password.get_secret_value(), body.new_password.get_secret_value()
    )


@router.get("/sessions", response_model=SessionPage, responses=AUTHENTICATED)
async def list_sessions(
    caller: Own,
    services: UseServices,
    page: UsePage,
    everyone: Annotated[bool, Query(description="All of the organization, for its admins.")] = False,
    organization_id: Annotated[Identifier | None, Query(alias="organizationId", description="Superusers.")] = None,
) -> dict[str, Any]:
    """List live sessions: one's own, or everyone's of the organization."""
    return await services.sessions.list_sessions(caller, everyone=everyone, organization_id=organization_id, page=page)


@router.delete("/sessions/{session_id}", status_code=204, responses={**AUTHENTICATED, **refusals(_E.NOT_FOUND)})
async def end_session(session_id: str, caller: Own, services: UseServices) -> None:
    """End a session: one's own, or as an admin any of the organization; its sockets are closed."""
    await services.sessions.end_session(caller, session_id)


@router.get("/tokens", response_model=ApiTokenPage, responses=AUTHENTICATED)
async def list_tokens(caller: TokenOwner, services: UseServices, page: UsePage) -> dict[str, Any]:
    """List one's own API tokens that are not revoked."""
    return await services.tokens.page(caller, page)


@router.post(
    "/tokens",
    status_code=201,
    response_model=NewApiTokenAnswer,
    responses={
        **AUTHENTICATED,
        **refusals(_E.FORBIDDEN, _E.ROLE_TOO_HIGH, _E.KEY_REUSED),
    },
)
async def create_token(
    body: NewTokenBody, caller: TokenOwner, response: Response, services: UseServices
) -> dict[str, Any]:
    """Make an API token; its secret is in this answer only."""
    response.headers["Cache-Control"] = "no-store"
    return await services.tokens.create(caller, body.name, body.role, body.expires_at)


@router.delete("/tokens/{token_id}", status_code=204, responses={**AUTHENTICATED, **refusals(_E.NOT_FOUND)})
async def revoke_token(token_id: str, caller: TokenOwner, services: UseServices) -> None:
    """Revoke one of one's own API tokens, at once."""
    await services.tokens.revoke(caller, token_id)
