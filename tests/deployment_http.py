"""The routes of deployments, notifications and events over HTTP, with names instead of access tokens."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import httpx
from fastapi import FastAPI

from backend.app.api.errors import install_error_handlers
from backend.app.api.middleware import RequestMiddleware
from backend.app.api.v1 import deployment_logs, deployments, events, notifications
from backend.app.auth.permissions import Principal
from backend.app.schemas.errors import ErrorCode, WindFlowError
from tests.deployment_world import PEOPLE, World, caller


class Names(httpx.Auth):
    """Sends a person's name as the access token."""

    def __init__(self, name: str) -> None:
        self._name = name

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]
        request.headers["Authorization"] = f"Bearer {self._name}"
        yield request


class _Sessions:
    async def authenticate(self, token: str) -> Principal:
        if token not in PEOPLE:
            raise WindFlowError(ErrorCode.NOT_AUTHENTICATED)
        return caller(token).principal


def make_app(world: World) -> FastAPI:
    """Return an application with the routes, the error handlers and the request middleware of the server."""
    app = FastAPI()
    for module in (deployments, deployment_logs, notifications, events):
        app.include_router(module.router, prefix="/api/v1")
    app.add_middleware(RequestMiddleware, max_bytes=world.settings.request_bytes)
    install_error_handlers(app)
    app.state.services = SimpleNamespace(
        settings=world.settings,
        db=world.db,
        sessions=_Sessions(),
        deployments=world.deployments,
        notifications=world.notifications,
        events=world.events,
        request_secret=b"a secret of the tests, 32 bytes or more",
    )
    return app


class Http:
    """Asks the routes as one of the people: `answer = await http("ada", "GET", "/deployments")`."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def __call__(self, name: str, method: str, path: str, body: Any = None, **more: Any) -> httpx.Response:
        """Send one request; `more` goes to httpx (headers, params, content)."""
        if body is not None:
            more["json"] = body
        return await self.client.request(method, f"/api/v1{path}", auth=Names(name), **more)


@asynccontextmanager
async def serving(world: World) -> AsyncIterator[Http]:
    """Give the HTTP side of a world."""
    transport = httpx.ASGITransport(make_app(world))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield Http(client)


def refused(response: httpx.Response, status: int, code: str) -> Any:
    """Check the one shape of errors, and return its details."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"code", "message", "details", "requestId"}
    assert (body["code"], body["requestId"]) == (code, response.headers["x-request-id"])
    return body["details"]
