"""The application from its start to its end: waits for a database that is away, and keeps why a start failed.

Used by `server.py` only. While it waits the server answers: /livez says 200, /readyz 503 with the reason, all else
`storage_unavailable`. Invariant: the application is started at most once, and given nothing before that is done.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from starlette._utils import get_route_path
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.websockets import WebSocket

from backend.app.api.errors import error_response
from backend.app.config import Settings
from backend.app.schemas.errors import ErrorCode, WindFlowError
from backend.app.storage_failures import is_unavailable

logger = logging.getLogger("windflow")

FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 5.0
"""Between two looks for the database; each pause is half to all of its step, and the step doubles."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class WaitingStart:
    """The application as uvicorn sees it. `on_ready` is called once it serves, `on_failure` when it never will."""

    def __init__(
        self,
        application: Application,
        settings: Settings,
        *,
        on_ready: Callable[[], None],
        on_failure: Callable[[], None],
    ) -> None:
        self._application = application
        self._settings = settings
        self._on_ready = on_ready
        self._on_failure = on_failure
        self._reason = "starting"
        self.is_ready = False
        self.failure: BaseException | None = None
        """Why the start failed, in place of a traceback in the log."""

    def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> Awaitable[None]:
        # No coroutine of its own around a request: a socket would keep it for its whole life.
        if scope["type"] == "lifespan":
            return self._lifespan(scope, receive, send)
        serve = self._application if self.is_ready else self._turn_away
        return serve(scope, receive, send)

    async def _lifespan(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass start and stop on; keep what failed."""
        away = await self._away() if self._settings.database_start_seconds else None
        if away is not None:
            await self._start_late(scope, receive, send, away)
            return

        async def listen(message: Message) -> None:
            is_failure = message["type"] == "lifespan.startup.failed"
            self.is_ready = message["type"] == "lifespan.startup.complete"
            await send({**message, "message": ""} if is_failure else message)

        try:
            await self._application(scope, receive, listen)
        except BaseException as error:
            self.failure = error
            raise

    async def _start_late(self, scope: MutableMapping[str, Any], receive: Receive, send: Send, away: Exception) -> None:
        """Serve without the application until its database is there, then start it."""
        startup = await receive()
        await send({"type": "lifespan.startup.complete"})
        shutdown = asyncio.ensure_future(receive())
        try:
            self.failure = await self._wait(shutdown, away)
            if self.failure is None and not shutdown.done():
                await self._run(scope, startup, shutdown)
        finally:
            shutdown.cancel()
        if self.failure is not None:
            self._on_failure()

    async def _run(
        self, scope: MutableMapping[str, Any], startup: Message, shutdown: "asyncio.Future[Message]"
    ) -> None:
        """Run the application with a lifespan of its own: uvicorn was told already that it had started."""
        due = [startup]

        async def receive() -> Message:
            return due.pop() if due else await shutdown

        async def send(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                self.is_ready = True
                self._on_ready()

        try:
            await self._application(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - a start that fails, for whatever reason, is told in one line
            self.failure = error
        finally:
            self.is_ready = False

    async def _wait(self, shutdown: "asyncio.Future[Message]", away: Exception | None) -> Exception | None:
        """Return None when the database is there or the server stops, else what kept it away for all the time."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._settings.database_start_seconds
        pause = FIRST_PAUSE_SECONDS
        while away is not None:
            self._reason = f"database: {type(away.__cause__ or away).__name__}"
            if loop.time() >= until:
                return away
            logger.warning("the database is away, the server waits for it: %s", away or self._reason)
            await asyncio.wait({shutdown}, timeout=pause * random.uniform(0.5, 1))
            if shutdown.done():
                return None
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            away = await self._away()
        logger.info("the database is there")
        self._reason = "starting"
        return None

    async def _away(self) -> Exception | None:
        """Return why PostgreSQL cannot be reached; None also for what waiting does not help, a wrong password."""
        url = self._settings.effective_database_url()
        if url.startswith("sqlite"):
            return None
        engine = create_async_engine(
            url, poolclass=NullPool, connect_args={"timeout": self._settings.database_timeout_seconds}
        )
        try:
            async with engine.connect():
                return None
        except Exception as error:  # noqa: BLE001 - what is not for waiting comes again when the application starts
            return error if isinstance(error, OSError) or is_unavailable(error) else None
        finally:
            await engine.dispose()

    async def _turn_away(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer what comes while there is no application."""
        error = WindFlowError(ErrorCode.STORAGE_UNAVAILABLE, "the server waits for its database", retry_after_seconds=1)
        refusal = error_response(error, None)
        if scope["type"] == "websocket":
            websocket = WebSocket(scope, receive, send)
            if "websocket.http.response" in scope.get("extensions", {}):
                await websocket.send_denial_response(refusal)
            else:
                await websocket.close()
            return
        answers: dict[str, Response] = {
            "/livez": PlainTextResponse("ok"),
            "/readyz": JSONResponse({"ready": False, "reasons": [self._reason]}, status_code=503),
        }
        path = get_route_path(Request(scope).scope)
        await answers.get(path, refusal)(scope, receive, send)
