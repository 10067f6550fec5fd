"""Routes that decode their JSON bodies strictly; given to every router as `route_class`."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from backend.app.api.services import services_of
from backend.app.schemas.json_codec import parse_json


class _StrictRequest(Request):
    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = parse_json(await self.body(), services_of(self.app).settings.max_json_depth)
        return self._json


class StrictRoute(APIRoute):
    """A route whose request body is decoded strictly."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return strict
