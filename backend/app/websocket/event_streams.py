"""Event streams: the same feed as a socket's, as server-sent events, for one request until its end.

A stream is a `Connection` of the hub with an outlet of its own, so that caps, budget, changed rights, drain and
metrics hold for it unchanged. It says nothing to the server: what it wants stands in the address, and plugins'
`initialize` and `cleanup`, which belong to a socket that they can talk with, do not run for it.
"""

import dataclasses
from collections.abc import Callable, Sequence

from starlette.requests import HTTPConnection
from starlette.types import Receive, Send

from backend.app import metrics
from backend.app.auth.permissions import Caller
from backend.app.operations.deployments import Deployments
from backend.app.operations.identity_events import login_payload
from backend.app.realtime.connection import Connection
from backend.app.realtime.marks import LOGS_UPDATE
from backend.app.schemas.errors import ErrorCode, FieldError, WindFlowError, field_error
from backend.app.schemas.messages import SubscribeData, server_message
from backend.app.schemas.websocket_events import WebSocketEventType
from backend.app.websocket.admission import Full
from backend.app.websocket.commands import LEGACY_LOGS, Wanted, parse
from backend.app.websocket.drain import Drain
from backend.app.websocket.endpoint import Endpoint
from backend.app.websocket.event_stream_outlet import EventStreamOutlet
from backend.app.websocket.expiry import Expiry
from backend.app.websocket.http_protocol import ABORT
from backend.app.websocket.server_sent_events import HEADER, EventStreamFormat, LastEvent

_PARAMETERS = {
    "event_type": "types",
    "deployment_id": "deploymentId",
    "organization_id": "organizationId",
    "from_line": "fromLine",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """What stands in the address of a stream, and in its `Last-Event-ID`."""

    types: Sequence[str] = ()
    """Names and patterns; none: everything, or what a page of one deployment needs."""
    deployment_id: str | None = None
    organization_id: str | None = None
    from_line: int | None = None
    last_event: LastEvent = dataclasses.field(default_factory=LastEvent)


class EventStreams:
    """All streams of this node. `main` makes one, beside the endpoint whose collaborators it shares."""

    def __init__(self, endpoint: Endpoint, drain: Drain, deployments: Deployments) -> None:
        self._endpoint = endpoint
        self._drain = drain
        self._deployments = deployments

    def check_request(self, request: HTTPConnection) -> None:
        """Raise why a stream must be refused before anybody asks who wants it; as the upgrade of a socket."""
        self._endpoint.admission.check_request(request)
        if self._drain.is_draining:
            metrics.CONNECTIONS_REFUSED.labels("draining").inc()
            seconds = self._endpoint.settings.reconnect_after_seconds
            raise WindFlowError(
                ErrorCode.SERVER_RESTARTING,
                details={"retryAfterMs": round(seconds * 1000)},
                retry_after_seconds=seconds,
            )

    async def serve(self, caller: Caller, asked: Asked, request: HTTPConnection, receive: Receive, send: Send) -> None:
        """Send events until one side ends; raise `WindFlowError` while nothing was sent yet."""
        try:
            place = self._endpoint.admission.enter(caller.address or "")
        except Full as full:
            raise _full(full) from None
        try:
            place.authenticated(caller.principal.user_id)
            await self._serve(caller, asked, request, receive, send)
        except Full as full:
            raise _full(full) from None
        finally:
            place.leave()

    async def _serve(self, caller: Caller, asked: Asked, request: HTTPConnection, receive: Receive, send: Send) -> None:
        endpoint = self._endpoint
        wanted = await self._wanted(caller, asked)
        outlet = self._outlet(wanted, request.scope.get("extensions", {}).get(ABORT))
        connection = Connection(
            caller.principal,
            outlet,
            endpoint.budget,
            endpoint.flusher.add,
            endpoint.hub.settle,
            address=caller.address,
            client=request.headers.get("user-agent"),
        )
        expiry = Expiry(connection, endpoint.hub, endpoint.settings.reauth_notice_seconds)
        try:
            await self._begin(connection, dataclasses.replace(caller, connection_id=connection.id), wanted, asked)
            expiry.arm()
            await outlet.run(receive, send)
        finally:
            expiry.cancel()
            endpoint.hub.remove(connection)
            connection.end()

    def _outlet(self, wanted: Wanted, abort: Callable[[], None] | None) -> EventStreamOutlet:
        settings = self._endpoint.settings
        return EventStreamOutlet(
            EventStreamFormat(wanted.deployment_id, wanted.from_line),
            retry_seconds=settings.event_stream_retry_seconds,
            heartbeat_seconds=settings.heartbeat_seconds,
            high_water_bytes=settings.socket_high_water_bytes,
            abort=abort,
        )

    async def _begin(self, connection: Connection, caller: Caller, wanted: Wanted, asked: Asked) -> None:
        """Register the connection with what it wants, where it left off; its first event is the login's."""
        endpoint = self._endpoint
        resumed = await endpoint.resumes.judge(connection, wanted.topics, asked.last_event.positions)
        # From here to the registration nothing is awaited: what is committed meanwhile comes after it.
        endpoint.hub.add(connection)
        endpoint.commands.add(connection, [wanted], resumed.cursors)
        resumed.begin(connection)
        welcome = {
            **login_payload(caller).wire(),
            "positions": endpoint.hub.positions(connection),
            "heartbeatSeconds": endpoint.settings.heartbeat_seconds,
        }
        connection.greet(server_message(WebSocketEventType.AUTH_LOGIN_SUCCESS, welcome))
        resumed.tell_lost(connection)
        endpoint.connect_records.add(caller)

    async def _wanted(self, caller: Caller, asked: Asked) -> Wanted:
        """Return what the address asks for; raise what is wrong with it, in the address' own names."""
        deployment_id = asked.deployment_id
        if set(asked.last_event.lines) - {deployment_id}:
            raise field_error(ErrorCode.INVALID_PAYLOAD, HEADER, "it comes from a stream of another deploymentId")
        from_line = asked.last_event.lines.get(deployment_id or "", asked.from_line)
        data = {
            "event_type": list(asked.types) or [LEGACY_LOGS if deployment_id else "*"],
            "deployment_id": deployment_id,
            "organization_id": asked.organization_id,
            "from_line": from_line,
        }
        try:
            wanted = await self._endpoint.commands.wanted(caller, parse(SubscribeData, data))
        except WindFlowError as error:
            raise _renamed(error) from error
        if deployment_id is None or from_line is not None or all(topic.type != LOGS_UPDATE for topic in wanted.topics):
            return wanted
        # From the next line on: said as a number, so that a client that is cut before any line came goes on there.
        deployment = await self._deployments.get(caller, deployment_id)
        return dataclasses.replace(wanted, from_line=deployment["lastLine"] + 1)


def _full(full: Full) -> WindFlowError:
    return WindFlowError(ErrorCode.RATE_LIMITED, full.reason, retry_after_seconds=1)


def _renamed(error: WindFlowError) -> WindFlowError:
    """Return an error of a subscription with the names that the address has for its fields."""
    message = error.message
    for name, parameter in _PARAMETERS.items():
        message = message.replace(name, parameter)
    fields = [
        FieldError(_PARAMETERS.get(each.field.split(".")[0], each.field), _rule(each.rule)) for each in error.fields
    ]
    return WindFlowError(error.code, message, fields=fields, details=error.details)


def _rule(rule: str) -> str:
    for name, parameter in _PARAMETERS.items():
        rule = rule.replace(name, parameter)
    return rule
