"""The socket endpoint, in the order of a connection's life: accept, auth phase, command phase, close.

One `Endpoint` serves all connections; what belongs to one connection is in `_Session`. Reading,
writing and plugin dispatch are apart: neither a slow reader nor a slow plugin delays the others.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from json import JSONDecodeError
from typing import Any

from pydantic import ValidationError
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from backend.app import metrics
from backend.app.auth.permissions import Caller, Principal
from backend.app.config import Settings
from backend.app.database import Database
from backend.app.models.columns import now
from backend.app.operations.identity_events import login_payload
from backend.app.operations.principals import UserInactive
from backend.app.operations.sessions import Sessions
from backend.app.realtime import event_log
from backend.app.realtime.connection import Connection
from backend.app.realtime.event import SYSTEM_STREAM, stream_of
from backend.app.realtime.hub import Hub
from backend.app.schemas.errors import ErrorCode, WindFlowError
from backend.app.schemas.json_codec import parse_json
from backend.app.schemas.messages import AuthData, AuthFailure, ClientMessage, CloseCode, server_message
from backend.app.schemas.times import wire_time
from backend.app.schemas.websocket_events import WebSocketEventType
from backend.app.websocket.admission import Admission
from backend.app.websocket.commands import Client, Commands, parse, unsupported_of
from backend.app.websocket.contexts import Contexts
from backend.app.websocket.plugin import PluginContext, WebSocketPluginManager
from backend.app.websocket.rate import TokenBucket, Window

logger = logging.getLogger("windflow.socket")

_MINUTE = 60.0
_REFUSED_PER_MINUTE = 100
_MALFORMED_PER_MINUTE = 20


class _Closed(Exception):
    """Ends a connection with a code, from within its own task."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        self.code = code
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What every connection needs. `main` makes one and routes `/ws` and `/ws/` to `serve`."""

    settings: Settings
    database: Database
    hub: Hub
    sessions: Sessions
    commands: Commands
    contexts: Contexts
    plugins: WebSocketPluginManager
    admission: Admission

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one connection until it ends."""
        try:
            self.admission.check_request(websocket)
        except WindFlowError as error:
            await _deny(websocket, error)
            return
        await websocket.accept()
        session = _Session(self, websocket)
        try:
            await session.run()
        except _Closed as closed:
            await session.close(closed.code, closed.reason)
        except WebSocketDisconnect:
            pass


class _Session:
    """One connection, from its acceptance to its end."""

    def __init__(self, endpoint: Endpoint, websocket: WebSocket) -> None:
        self._endpoint = endpoint
        self._settings = endpoint.settings
        self._websocket = websocket
        self._address = websocket.client.host if websocket.client else ""
        self._due = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._auth_id: str | float | None = None
        """The `id` of the first message, for its reply."""
        self._bucket = TokenBucket(self._settings.inbound_per_minute, self._settings.inbound_burst, time.monotonic)
        self._refused = Window(_REFUSED_PER_MINUTE, _MINUTE, time.monotonic)
        self._malformed = Window(_MALFORMED_PER_MINUTE, _MINUTE, time.monotonic)

    async def run(self) -> None:
        """Authenticate, then serve commands and events side by side until one side ends."""
        if len(self._endpoint.hub) >= self._settings.max_connections:
            raise _Closed(CloseCode.RATE_LIMITED, "the server has too many connections")
        principal, first = await self._authenticate()
        if len(self._endpoint.hub.of_user(principal.user_id)) >= self._settings.max_connections_per_user:
            raise _Closed(CloseCode.TOO_MANY_CONNECTIONS, "too many connections of this user")
        connection = Connection(
            principal,
            max_bytes=self._settings.outbound_bytes,
            max_messages=self._settings.outbound_messages,
            wake=self._due.set,
            address=self._address,
            client=self._websocket.headers.get("user-agent"),
        )
        context = self._endpoint.contexts.open(connection, self._websocket)
        writer: asyncio.Task[None] | None = None
        try:
            await self._endpoint.plugins.initialize_all(context)
            client = Client(connection, context, lambda: self._arm_expiry(connection))
            await self._welcome(client, first)
            writer = asyncio.create_task(self._write(connection))
            await self._command_phase(client, writer)
        finally:
            await self._end(connection, context, writer)

    # ---- auth phase ------------------------------------------------------------------------------------

    async def _authenticate(self) -> tuple[Principal, AuthData]:
        """Return who this is and what the first message asked for; raise `_Closed` with 1008."""
        try:
            leave = self._endpoint.admission.enter(self._address)
        except WindFlowError as error:
            raise _Closed(CloseCode.RATE_LIMITED, error.message) from error
        try:
            async with asyncio.timeout(self._settings.auth_timeout_seconds):
                scheme, _, header = self._websocket.headers.get("authorization", "").partition(" ")
                first = AuthData() if scheme.lower() == "bearer" else await self._first_message()
                return await self._principal(header if scheme.lower() == "bearer" else first.token), first
        except TimeoutError:
            raise _Closed(CloseCode.AUTHENTICATION_FAILED, AuthFailure.TIMEOUT) from None
        finally:
            leave()

    async def _first_message(self) -> AuthData:
        text = await self._receive()
        try:
            message = ClientMessage.model_validate(parse_json(text, self._settings.max_json_depth))
            data = parse(AuthData, {"token": (message.model_extra or {}).get("token"), **message.data})
        except (JSONDecodeError, ValidationError, WindFlowError):
            raise _Closed(CloseCode.AUTHENTICATION_FAILED, AuthFailure.REQUIRED) from None
        if message.type != "auth":
            raise _Closed(CloseCode.AUTHENTICATION_FAILED, AuthFailure.REQUIRED)
        self._auth_id = message.id
        return data

    async def _principal(self, token: str | None) -> Principal:
        if not token:
            raise _Closed(CloseCode.AUTHENTICATION_FAILED, AuthFailure.INVALID_TOKEN)
        try:
            return await self._endpoint.sessions.authenticate(token)
        except WindFlowError as error:
            if error.status == 503:
                raise _Closed(CloseCode.RATE_LIMITED, error.message) from None
            if error.code is ErrorCode.TOKEN_EXPIRED:
                raise _Closed(CloseCode.TOKEN_EXPIRED, error.message) from None
            reason = AuthFailure.INACTIVE if isinstance(error, UserInactive) else AuthFailure.INVALID_TOKEN
            raise _Closed(CloseCode.AUTHENTICATION_FAILED, reason) from None

    async def _welcome(self, client: Client, first: AuthData) -> None:
        """Register the connection and its first subscriptions; the reply is the first message it gets."""
        connection = client.connection
        caller = Caller(connection.principal, address=self._address, connection_id=connection.id)
        refused = []
        topics = []
        for wanted in first.subscriptions:
            try:
                topics += await self._endpoint.commands.topics(caller, wanted)
            except WindFlowError as error:
                asked = wanted.model_dump(exclude_none=True)
                refused.append({**asked, "code": error.code.value, "message": error.message})
        async with self._endpoint.database.session() as session:
            streams = {SYSTEM_STREAM, stream_of(connection.principal.organization_id)}
            positions = await event_log.positions(session, streams | {stream_of(t.organization_id) for t in topics})
        try:
            self._endpoint.commands.add_topics(connection, topics)
        except WindFlowError as error:
            refused.append({"code": error.code.value, "message": error.message})
        welcome = {
            **login_payload(caller).wire(),
            "positions": positions,
            "heartbeatSeconds": self._settings.heartbeat_seconds,
            "refused": refused,
        }
        connection.greet(server_message(WebSocketEventType.AUTH_LOGIN_SUCCESS, welcome, self._auth_id))
        for name in unsupported_of(first):
            self._refuse(connection, WindFlowError(ErrorCode.UNSUPPORTED, f"{name}: not offered yet"), None)
        self._endpoint.hub.add(connection)
        self._arm_expiry(connection)
        await self._endpoint.sessions.socket_authenticated(caller)

    # ---- command phase ----------------------------------------------------------------------------------

    async def _command_phase(self, client: Client, writer: "asyncio.Task[None]") -> None:
        """Read and write until either ends; then raise how."""
        reader = asyncio.create_task(self._read(client))
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not reader.done():
                reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
        if not reader.cancelled() and (error := reader.exception()) is not None:
            if isinstance(error, _Closed):
                client.connection.close(error.code, error.reason)
            elif not isinstance(error, WebSocketDisconnect):
                raise error

    async def _read(self, client: Client) -> None:
        """Take messages one by one; what is wrong with one is answered, and the connection lives."""
        while client.connection.close_code is None:
            text = await self._receive()
            metrics.MESSAGES_RECEIVED.inc()
            if not self._bucket.take():
                if self._refused.count():
                    raise _Closed(CloseCode.RATE_LIMITED, "too many messages")
                self._refuse(client.connection, WindFlowError(ErrorCode.RATE_LIMITED), None)
                continue
            await self._take(client, text)

    async def _take(self, client: Client, text: str) -> None:
        reply_to: str | float | None = None
        try:
            message = _decode(text, self._settings.max_json_depth)
            reply_to = message.id
            await self._endpoint.commands.handle(client, message)
        except WindFlowError as error:
            self._refuse(client.connection, error, reply_to)
            if error.code in (ErrorCode.INVALID_JSON, ErrorCode.INVALID_MESSAGE) and self._malformed.count():
                raise _Closed(CloseCode.TOO_MANY_BAD_MESSAGES, "too many malformed messages") from None
        except Exception:
            # A failure of ours must not end the connection: it is logged, and told without any detail.
            logger.exception("a message could not be handled", extra={"connection_id": client.connection.id})
            self._refuse(client.connection, WindFlowError(ErrorCode.INTERNAL), reply_to)

    async def _receive(self) -> str:
        """Return the next text message; raise `_Closed` for a binary one, WebSocketDisconnect at the end."""
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        text: str | None = message.get("text")
        if text is None:
            raise _Closed(CloseCode.UNSUPPORTED_DATA, "binary messages are not taken")
        if len(text.encode()) > self._settings.max_message_bytes:
            raise _Closed(CloseCode.MESSAGE_TOO_BIG, f"at most {self._settings.max_message_bytes} bytes")
        return text

    async def _write(self, connection: Connection) -> None:
        """Write what is due, in order; end when the connection is to be closed and nothing is due any more."""
        while True:
            self._due.clear()
            while (message := connection.take()) is not None:
                try:
                    async with asyncio.timeout(self._settings.send_timeout_seconds):
                        await self._websocket.send_text(message)
                except TimeoutError:
                    connection.close(CloseCode.WRITE_STALLED, "the client takes no messages")
                except (WebSocketDisconnect, RuntimeError, OSError):
                    return  # gone: the reader notices, too
            if connection.close_code is not None:
                return
            await self._due.wait()

    @staticmethod
    def _refuse(connection: Connection, error: WindFlowError, reply_to: str | float | None) -> None:
        metrics.MESSAGES_REFUSED.labels(error.code.value).inc()
        data: Mapping[str, Any] = {
            "code": error.code.value,
            "message": error.message,
            "details": error.body_details(),
        }
        connection.push(server_message(WebSocketEventType.WEBSOCKET_ERROR, data, reply_to))

    # ---- expiry and end ------------------------------------------------------------------------------------

    def _arm_expiry(self, connection: Connection) -> None:
        """Set the timer for the notice before the token ends, then for the end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        expires_at = connection.principal.expires_at
        if expires_at is None:
            return
        left = (expires_at - now()).total_seconds()
        notice = left - self._settings.reauth_notice_seconds
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(0.0, notice), self._notice, connection, min(left, left - max(0.0, notice)))

    def _notice(self, connection: Connection, grace_seconds: float) -> None:
        data = {
            "reason": "the token runs out",
            "expiresAt": wire_time(connection.principal.expires_at) if connection.principal.expires_at else None,
            "graceSeconds": round(max(0.0, grace_seconds), 3),
        }
        connection.push(server_message(WebSocketEventType.SESSION_AUTH_REQUIRED, data))
        self._timer = asyncio.get_running_loop().call_later(max(0.0, grace_seconds), self._expire, connection)

    def _expire(self, connection: Connection) -> None:
        principal = connection.principal
        data = {
            "sessionId": principal.session_id or principal.token_id or "",
            "reason": "the token ran out",
            "expiredAt": wire_time(now()),
        }
        connection.push(server_message(WebSocketEventType.SESSION_EXPIRED, data))
        self._endpoint.hub.remove(connection)
        connection.close(CloseCode.TOKEN_EXPIRED, "the token ran out")

    async def _end(self, connection: Connection, context: PluginContext, writer: "asyncio.Task[None] | None") -> None:
        """Take the connection out of everything, clean its plugins up once, write the rest and close."""
        if self._timer is not None:
            self._timer.cancel()
        self._endpoint.hub.remove(connection)
        self._endpoint.contexts.close(connection)
        code = connection.close_code
        try:
            if writer is not None:
                if code is None:
                    writer.cancel()
                await asyncio.gather(writer, return_exceptions=True)
            if code is not None:
                await self.close(code, connection.close_reason)
        finally:
            await self._endpoint.plugins.cleanup_all(context)

    async def close(self, code: CloseCode, reason: str) -> None:
        """Send the close frame, within a bounded time; no-op when the client is gone."""
        if self._websocket.application_state is not WebSocketState.CONNECTED:
            return
        metrics.CONNECTIONS_CLOSED.labels(str(int(code))).inc()
        try:
            async with asyncio.timeout(self._settings.close_timeout_seconds):
                await self._websocket.close(int(code), str(reason)[:120])
        except (TimeoutError, RuntimeError, WebSocketDisconnect, OSError):
            logger.debug("the client was gone before the close frame", extra={"code": int(code)})


def _decode(text: str, max_depth: int) -> ClientMessage:
    if text.strip() == "ping":
        return ClientMessage(type="ping")
    try:
        value = parse_json(text, max_depth)
    except JSONDecodeError as error:
        raise WindFlowError(ErrorCode.INVALID_JSON, f"the message is not valid JSON: {error.msg}") from error
    if not isinstance(value, dict):
        raise WindFlowError(ErrorCode.INVALID_MESSAGE, 'a message is an object with a "type"')
    return parse(ClientMessage, value)


async def _deny(websocket: WebSocket, error: WindFlowError) -> None:
    """Refuse the upgrade with an HTTP answer where the server can give one."""
    if "websocket.http.response" in websocket.scope.get("extensions", {}):
        body = {"code": error.code.value, "message": error.message, "details": None, "requestId": None}
        await websocket.send_denial_response(JSONResponse(body, status_code=error.status))
    else:
        await websocket.close()
