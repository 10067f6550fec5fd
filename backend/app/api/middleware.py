"""What happens around every HTTP request: an id, a size limit, and the metrics.

Plain ASGI, because the framework's own kind buffers answers and skips WebSockets.
"""

import re
import time

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.app import metrics
from backend.app.api.errors import error_response
from backend.app.models.columns import new_id
from backend.app.schemas.errors import ErrorCode, WindFlowError

_ID = re.compile(r"^[A-Za-z0-9._-]{1,64}$")


class RequestMiddleware:
    """Gives each request an id (the client's own, if it sent a sane one) and bounds its body."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _ID.match(given) else new_id()
        scope["windflow.request_id"] = request_id
        started = time.perf_counter()
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (b"x-request-id", request_id.encode())]}
            await send(message)

        try:
            if _length(headers) > self._max_bytes:
                await self._too_large(request_id)(scope, receive, send_with_id)
            else:
                await self._app(scope, self._bounded(receive), send_with_id)
        finally:
            # The route's template, never the path: an id must not become a label.
            route = getattr(scope.get("route"), "path", "other")
            metrics.REQUESTS.labels(route, scope["method"], str(status)).inc()
            if "windflow.is_stream" not in scope:
                # How long somebody follows events says nothing about the server.
                metrics.REQUEST_SECONDS.labels(route).observe(time.perf_counter() - started)

    def _too_large(self, request_id: str) -> ASGIApp:
        return error_response(
            WindFlowError(ErrorCode.MESSAGE_TOO_LARGE, f"a body has at most {self._max_bytes} bytes"), request_id
        )

    def _bounded(self, receive: Receive) -> Receive:
        """Count what comes without a stated length, too."""
        taken = 0

        async def bounded() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._max_bytes:
                # The framework lets only its own kind of error pass while it reads a body.
                raise HTTPException(413, f"a body has at most {self._max_bytes} bytes")
            return message

        return bounded


def _length(headers: dict[bytes, bytes]) -> int:
    stated = headers.get(b"content-length", b"0")
    return int(stated) if stated.isdigit() else 0
