"""The socket endpoint, in the order of a connection's life: accept, auth phase, command phase, close.

One `Endpoint` serves all connections; what belongs to one connection is in `_Session`. Reading,
writing and plugin dispatch are apart: neither a slow reader nor a slow plugin delays the others.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from json import JSONDecodeError
from typing import Any

from starlette.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from backend.app import metrics
from backend.app.auth.permissions import Caller, Principal
from backend.app.config import Settings
from backend.app.contract.handshake import ServerContract
from backend.app.operations.identity_events import login_payload
from backend.app.realtime.budget import Budget
from backend.app.realtime.connection import Connection
from backend.app.realtime.event_log import Position
from backend.app.realtime.flusher import Flusher
from backend.app.realtime.hub import Hub
from backend.app.realtime.resume import read_positions
from backend.app.realtime.resumes import Resumes
from backend.app.schemas.errors import ErrorCode, WindFlowError
from backend.app.schemas.json_codec import parse_json
from backend.app.schemas.messages import AuthData, ClientMessage, CloseCode, server_message
from backend.app.schemas.websocket_events import WebSocketEventType
from backend.app.websocket.admission import Admission, Full, Place
from backend.app.websocket.authentication import Authenticated, Authentication, Closed
from backend.app.websocket.commands import Client, Commands, Wanted, parse
from backend.app.websocket.connect_records import ConnectRecords
from backend.app.websocket.contexts import Contexts
from backend.app.websocket.expiry import Expiry
from backend.app.websocket.heartbeat import Heartbeat
from backend.app.websocket.plugin import PluginContext, WebSocketPluginManager
from backend.app.websocket.rate import TokenBucket, Window
from backend.app.websocket.socket_outlet import SocketOutlet, outlet_of

logger = logging.getLogger("windflow.socket")

_MINUTE = 60.0
_REFUSED_PER_MINUTE = 100
_MALFORMED_PER_MINUTE = 20


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What every connection needs. `main` makes one and routes `/ws` and `/ws/` to `serve`."""

    settings: Settings
    hub: Hub
    flusher: Flusher
    budget: Budget
    authentication: Authentication
    commands: Commands
    contexts: Contexts
    plugins: WebSocketPluginManager
    admission: Admission
    heartbeat: Heartbeat
    connect_records: ConnectRecords
    resumes: Resumes
    contract: ServerContract

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one connection until it ends."""
        try:
            self.admission.check_request(websocket)
        except WindFlowError as error:
            await _deny(websocket, error)
            return
        await websocket.accept()
        outlet = outlet_of(websocket, self.settings)
        try:
            place = self.admission.enter(websocket.client.host if websocket.client else "")
            try:
                await _Session(self, websocket, outlet, place).run()
            finally:
                place.leave()
        except (Closed, Full) as closed:
            # Before the connection exists; afterwards it closes itself.
            metrics.CONNECTIONS_CLOSED.labels(str(int(closed.code))).inc()
            outlet.close(int(closed.code), closed.reason, self.settings.close_timeout_seconds)
        except WebSocketDisconnect:
            pass
        finally:
            await outlet.stop()


class _Session:
    """One connection, from its acceptance to its end."""

    __slots__ = ("_address", "_bucket", "_endpoint", "_malformed", "_outlet", "_place", "_refused", "_websocket")

    def __init__(self, endpoint: Endpoint, websocket: WebSocket, outlet: SocketOutlet, place: Place) -> None:
        self._endpoint = endpoint
        self._websocket = websocket
        self._outlet = outlet
        self._place = place
        self._address = websocket.client.host if websocket.client else ""
        settings = endpoint.settings
        self._bucket = TokenBucket(settings.inbound_per_minute, settings.inbound_burst, time.monotonic)
        self._refused = Window(_REFUSED_PER_MINUTE, _MINUTE, time.monotonic)
        self._malformed = Window(_MALFORMED_PER_MINUTE, _MINUTE, time.monotonic)

    async def run(self) -> None:
        """Authenticate, then serve commands until one side ends; raise `Closed` only before there is a connection."""
        who = await self._endpoint.authentication.authenticate(self._websocket, self._receive)
        self._place.authenticated(who.principal.user_id)
        connection = self._connection(who.principal)
        context = self._endpoint.contexts.open(connection, self._websocket)
        expiry = Expiry(connection, self._endpoint.hub, self._endpoint.settings.reauth_notice_seconds)
        unwatch = self._outlet.watched_by(self._endpoint.heartbeat, connection)
        try:
            await self._endpoint.plugins.initialize_all(context)
            client = Client(connection, context, expiry.arm)
            await self._welcome(client, who)
            # The first message with its token would stay as long as the connection does.
            del who
            expiry.arm()
            await self._read(client)
        except Closed as closed:
            connection.close(closed.code, closed.reason)
        finally:
            unwatch()
            expiry.cancel()
            await self._end(connection, context)

    def _connection(self, principal: Principal) -> Connection:
        return Connection(
            principal,
            self._outlet,
            self._endpoint.budget,
            self._endpoint.flusher.add,
            self._endpoint.hub.settle,
            address=self._address,
            client=self._websocket.headers.get("user-agent"),
        )

    async def _welcome(self, client: Client, who: Authenticated) -> None:
        """Register the connection and its first subscriptions; the reply is the first message it gets."""
        connection, endpoint, first = client.connection, self._endpoint, who.first
        caller = Caller(connection.principal, address=self._address, connection_id=connection.id)
        refused: list[dict[str, Any]] = []
        wanted: list[Wanted] = []
        for each in first.subscriptions:
            try:
                wanted.append(await endpoint.commands.wanted(caller, each))
            except WindFlowError as error:
                refused.append({**each.model_dump(exclude_none=True), **_told(error)})
        given, problem = _positions(first)
        resumed = await endpoint.resumes.judge(connection, [topic for each in wanted for topic in each.topics], given)
        # From here to the registration nothing is awaited: what is committed meanwhile comes after it.
        endpoint.hub.add(connection)
        try:
            endpoint.commands.add(connection, wanted, resumed.cursors)
        except WindFlowError as error:
            refused.append(_told(error))
        resumed.begin(connection)
        welcome = {
            **login_payload(caller).wire(),
            "positions": endpoint.hub.positions(connection),
            "heartbeatSeconds": endpoint.settings.heartbeat_seconds,
            "refused": refused,
            **endpoint.contract.welcome(first.contract),
        }
        connection.greet(server_message(WebSocketEventType.AUTH_LOGIN_SUCCESS, welcome, who.reply_to))
        if problem is not None:
            self._refuse(connection, problem, None)
        resumed.tell_lost(connection)
        endpoint.connect_records.add(caller)

    # ---- command phase ----------------------------------------------------------------------------------

    async def _read(self, client: Client) -> None:
        """Take messages one by one; what is wrong with one is answered, and the connection lives."""
        while not client.connection.is_over:
            text = await self._receive()
            metrics.MESSAGES_RECEIVED.inc()
            if not self._bucket.take():
                if self._refused.count():
                    raise Closed(CloseCode.RATE_LIMITED, "too many messages")
                self._refuse(client.connection, WindFlowError(ErrorCode.RATE_LIMITED), None)
                continue
            await self._take(client, text)

    async def _take(self, client: Client, text: str) -> None:
        reply_to: str | float | None = None
        try:
            message = _decode(text, self._endpoint.settings.max_json_depth)
            reply_to = message.id
            await self._endpoint.commands.handle(client, message)
        except WindFlowError as error:
            self._refuse(client.connection, error, reply_to)
            if error.code in (ErrorCode.INVALID_JSON, ErrorCode.INVALID_MESSAGE) and self._malformed.count():
                raise Closed(CloseCode.TOO_MANY_BAD_MESSAGES, "too many malformed messages") from None
        except Exception:
            # A failure of ours must not end the connection: it is logged, and told without any detail.
            logger.exception("a message could not be handled", extra={"connection_id": client.connection.id})
            self._refuse(client.connection, WindFlowError(ErrorCode.INTERNAL), reply_to)

    async def _receive(self) -> str:
        """Return the next text message; raise `Closed` for a binary one, WebSocketDisconnect at the end."""
        message = await self._outlet.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        text: str | None = message.get("text")
        if text is None:
            raise Closed(CloseCode.UNSUPPORTED_DATA, "binary messages are not taken")
        limit = self._endpoint.settings.max_message_bytes
        # A character has at most four bytes: most messages need not be encoded to know that they are small.
        if len(text) * 4 > limit and len(text.encode()) > limit:
            raise Closed(CloseCode.MESSAGE_TOO_BIG, f"at most {limit} bytes")
        return text

    @staticmethod
    def _refuse(connection: Connection, error: WindFlowError, reply_to: str | float | None) -> None:
        metrics.MESSAGES_REFUSED.labels(error.code.value).inc()
        data: Mapping[str, Any] = {
            "code": error.code.value,
            "message": error.message,
            "details": error.body_details(),
        }
        connection.push(server_message(WebSocketEventType.WEBSOCKET_ERROR, data, reply_to))

    # ---- the end ----------------------------------------------------------------------------------------

    async def _end(self, connection: Connection, context: PluginContext) -> None:
        """Take the connection out of everything, and clean its plugins up once."""
        self._endpoint.hub.remove(connection)
        self._endpoint.contexts.close(connection)
        connection.end()
        await self._endpoint.plugins.cleanup_all(context)


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


def _told(error: WindFlowError) -> dict[str, Any]:
    return {"code": error.code.value, "message": error.message}


def _positions(first: AuthData) -> tuple[Mapping[str, Position] | None, WindFlowError | None]:
    """Return where a client wants to go on from, or what is wrong with what it sent."""
    try:
        return (None if first.positions is None else read_positions(first.positions)), None
    except WindFlowError as error:
        return None, error


async def _deny(websocket: WebSocket, error: WindFlowError) -> None:
    """Refuse the upgrade with an HTTP answer where the server can give one."""
    if "websocket.http.response" in websocket.scope.get("extensions", {}):
        body = {"code": error.code.value, "message": error.message, "details": None, "requestId": None}
        await websocket.send_denial_response(JSONResponse(body, status_code=error.status))
    else:
        await websocket.close()
