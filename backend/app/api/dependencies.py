"""What every route declares: who may call it. A test fails on a route that declares neither.

`Allowed(permission)` authenticates and gives the `Caller`; `Public()` marks the few routes
that need no credentials.
"""

import hashlib
import hmac
import re
from typing import Annotated

from fastapi import Depends, Query, Request
from fastapi.security import OAuth2PasswordBearer

from backend.app.api.services import Services, services_of
from backend.app.auth.permissions import Caller, IdempotencyRequest, Permission, Principal
from backend.app.schemas.errors import ErrorCode, WindFlowError, field_error
from backend.app.schemas.event_spec import Sender
from backend.app.websocket.event_streams import EventStreams

bearer = OAuth2PasswordBearer("/api/v1/auth/login", auto_error=False)

_KEY = re.compile(r"^[\x21-\x7e]{1,255}$")
_RUNNER = re.compile(r"^[0-9a-fA-F-]{36}$")


def services(request: Request) -> Services:
    """Return the services of the running application."""
    return services_of(request.app)


def event_streams(request: Request) -> EventStreams:
    """Return the event streams of the running application."""
    streams: EventStreams = request.app.state.event_streams
    return streams


UseServices = Annotated[Services, Depends(services)]
UseEventStreams = Annotated[EventStreams, Depends(event_streams)]


def request_id_of(request: Request) -> str | None:
    """Return the id that the middleware gave this request."""
    value: str | None = request.scope.get("windflow.request_id")
    return value


def address_of(request: Request) -> str | None:
    """Return the client's address."""
    return request.client.host if request.client else None


class Public:
    """Marks a route that needs no credentials."""

    async def __call__(self) -> None:
        return None


class Allowed:
    """Authenticates the request and requires a permission; the route gets the `Caller`."""

    def __init__(self, permission: Permission) -> None:
        self.permission = permission

    async def __call__(
        self, request: Request, services: UseServices, token: Annotated[str | None, Depends(bearer)]
    ) -> Caller:
        if token is None:
            raise WindFlowError(ErrorCode.NOT_AUTHENTICATED, "send the header Authorization: Bearer <access token>")
        return await self._caller(await services.sessions.authenticate(token), request, services)

    async def _caller(self, principal: Principal, request: Request, services: Services) -> Caller:
        caller = Caller(
            principal,
            sender=None,
            address=address_of(request),
            request_id=request_id_of(request),
            idempotency=await _idempotency(request, services),
            runner_id=_runner(request),
        )
        caller.require(self.permission)
        return caller


class AllowedByTicket(Allowed):
    """The same for a stream, which is asked for as a socket is: a one-time ticket in the address does as well."""

    async def __call__(
        self,
        request: Request,
        services: UseServices,
        token: Annotated[str | None, Depends(bearer)],
        ticket: Annotated[str | None, Query(description="A one-time ticket, instead of the header.")] = None,
    ) -> Caller:
        event_streams(request).check_request(request)
        if ticket is None or token is not None:
            return await super().__call__(request, services, token)
        return await self._caller(await services.tickets.redeem(ticket, _origins(request)), request, services)


def _origins(request: Request) -> set[str | None]:
    """Return where a request may have come from. A browser sends no `Origin` with a GET of the same origin."""
    origin = request.headers.get("origin")
    if origin is None and request.headers.get("sec-fetch-site") == "same-origin":
        host = request.headers.get("host", "")
        return {f"http://{host}", f"https://{host}"}
    return {origin}


API_SENDER = Sender.API


async def _idempotency(request: Request, services: Services) -> IdempotencyRequest | None:
    key = request.headers.get("idempotency-key")
    if key is None or request.method != "POST":
        return None
    if not _KEY.match(key):
        raise field_error(ErrorCode.INVALID_PAYLOAD, "Idempotency-Key", "1 to 255 visible ASCII characters")
    # Keyed: a body may hold a password, which a plain hash would give away to who tries likely ones.
    digest = hmac.new(services.request_secret, digestmod=hashlib.sha256)
    digest.update(f"{request.method} {request.url.path}?{request.url.query}\n".encode())
    digest.update(await request.body())
    return IdempotencyRequest(key, digest.hexdigest())


def _runner(request: Request) -> str | None:
    runner = request.headers.get("x-windflow-runner")
    if runner is not None and not _RUNNER.match(runner):
        raise field_error(ErrorCode.INVALID_PAYLOAD, "X-Windflow-Runner", "a UUID")
    return runner
