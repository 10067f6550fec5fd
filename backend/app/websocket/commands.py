"""What a client may say after authentication: one method for each message.

The endpoint gives each decoded message to `handle`, which answers by pushing to the
connection or raises `WindFlowError`, which becomes a WEBSOCKET_ERROR. Silence is never the
answer, and what this server does not offer yet is `unsupported`.
"""

import dataclasses
from collections.abc import Awaitable, Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from backend.app.auth.permissions import Caller, Permission, may_see, may_send
from backend.app.config import Settings
from backend.app.operations.deployments import Deployments
from backend.app.operations.events import Events
from backend.app.operations.sessions import Sessions
from backend.app.realtime.bus import Bus
from backend.app.realtime.connection import Connection
from backend.app.realtime.event import stream_of
from backend.app.realtime.hub import Hub
from backend.app.realtime.marks import LOGS_UPDATE, log_source
from backend.app.realtime.topics import Topic
from backend.app.schemas.errors import ErrorCode, FieldError, WindFlowError, field_error, not_found, refused
from backend.app.schemas.event_spec import EventSpec, Sender
from backend.app.schemas.messages import (
    ClientMessage,
    Command,
    DeploymentLogsData,
    SubscribeData,
    server_message,
)
from backend.app.schemas.times import wire_time
from backend.app.schemas.websocket_events import WebSocketEventType
from backend.app.websocket.plugin import PluginContext, WebSocketPluginManager

M = TypeVar("M", bound=BaseModel)

LEGACY_LOGS = "deployment_logs"
"""As `event_type`: one deployment's logs, status and progress; browsers already deployed send it."""

_OF_DEPLOYMENT = (
    WebSocketEventType.DEPLOYMENT_LOGS_UPDATE.value,
    WebSocketEventType.DEPLOYMENT_STATUS_CHANGED.value,
    WebSocketEventType.DEPLOYMENT_PROGRESS.value,
)

COMMAND_PERMISSIONS: Mapping[Command, Permission] = {
    Command.AUTH: Permission.OWN_ACCOUNT,
    Command.PING: Permission.OWN_ACCOUNT,
    Command.SUBSCRIBE: Permission.EVENTS_SUBSCRIBE,
    Command.UNSUBSCRIBE: Permission.EVENTS_SUBSCRIBE,
    Command.DEPLOYMENT_LOGS: Permission.DEPLOYMENTS_VIEW,
}
"""What each command needs. Complete: a test compares it with the enum."""


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """What a subscription stands for."""

    topics: Sequence[Topic]
    deployment_id: str | None = None
    from_line: int | None = None
    """The line of the deployment's log to begin with; None: what comes from now on."""


@dataclasses.dataclass(slots=True)
class Client:
    """A connection as commands see it."""

    connection: Connection
    context: PluginContext
    rearm: Callable[[], None]
    """Called when the connection got a fresh token: its expiry moved."""

    def caller(self) -> Caller:
        """Return the caller of an act of this client."""
        return Caller(
            self.connection.principal,
            sender=Sender.CLIENT,
            address=self.connection.address,
            connection_id=self.connection.id,
        )


class Commands:
    """The command phase of every connection."""

    def __init__(
        self,
        settings: Settings,
        bus: Bus,
        catalogue: Mapping[str, EventSpec],
        hub: Hub,
        sessions: Sessions,
        deployments: Deployments,
        events: Events,
        plugins: WebSocketPluginManager,
    ) -> None:
        self._settings = settings
        self._bus = bus
        self._catalogue = catalogue
        self._hub = hub
        self._sessions = sessions
        self._deployments = deployments
        self._events = events
        self._plugins = plugins
        self._handlers: dict[Command, Callable[[Client, ClientMessage], Awaitable[None]]] = {
            Command.AUTH: self._auth,
            Command.SUBSCRIBE: self._subscribe,
            Command.UNSUBSCRIBE: self._unsubscribe,
            Command.DEPLOYMENT_LOGS: self._deployment_logs,
            Command.PING: self._ping,
        }

    async def handle(self, client: Client, message: ClientMessage) -> None:
        """Do what a message asks for and answer it; raise `WindFlowError` where that is refused."""
        if message.type in self._handlers:
            command = Command(message.type)
            client.caller().require(COMMAND_PERMISSIONS[command])
            await self._handlers[command](client, message)
        elif message.type == WebSocketEventType.WEBSOCKET_PING:
            self._reply(client, WebSocketEventType.WEBSOCKET_PONG, message.data, message)
        elif message.type == WebSocketEventType.WEBSOCKET_PONG:
            return  # the answer to a ping of ours; its arrival is all it says
        elif message.type in self._plugins.message_types:
            await self._plugin_message(client, message)
        elif message.type in self._catalogue:
            await self._publish(client, message)
        else:
            raise WindFlowError(ErrorCode.UNKNOWN_TYPE, f"type: no command or event is called {message.type}")

    # ---- one method for each message -----------------------------------------------------------------

    async def _ping(self, client: Client, message: ClientMessage) -> None:
        self._reply(client, "pong", {"positions": self._hub.positions(client.connection)}, message)

    async def _auth(self, client: Client, message: ClientMessage) -> None:
        """A fresh token of the same user: the socket stays, its expiry moves."""
        token = message.data.get("token") or (message.model_extra or {}).get("token")
        if not isinstance(token, str):
            raise field_error(ErrorCode.INVALID_MESSAGE, "token", "a fresh access token is needed")
        principal = await self._sessions.authenticate(token)
        if principal.user_id != client.connection.principal.user_id:
            raise field_error(ErrorCode.FORBIDDEN, "token", "it belongs to another user")
        self._hub.update_principal(client.connection, principal)
        client.rearm()
        data = {
            "userId": principal.user_id,
            "sessionId": principal.session_id,
            "expiresAt": wire_time(principal.expires_at) if principal.expires_at else None,
        }
        self._reply(client, WebSocketEventType.AUTH_TOKEN_REFRESH, _without_none(data), message)

    async def _subscribe(self, client: Client, message: ClientMessage) -> None:
        await self._add(client, "subscribed", parse(SubscribeData, message.data), message)

    async def _unsubscribe(self, client: Client, message: ClientMessage) -> None:
        data = parse(SubscribeData, message.data)
        organization_id = client.caller().organization(data.organization_id)
        names = self._names(client.caller(), data)
        topics = [Topic(organization_id, name, data.deployment_id) for name in names]
        self._hub.unsubscribe(client.connection, topics)
        reply = {"event_types": names, "deployment_id": data.deployment_id}
        self._reply(client, "unsubscribed", _without_none(reply), message)

    async def _deployment_logs(self, client: Client, message: ClientMessage) -> None:
        data = parse(DeploymentLogsData, message.data)
        subscribe = SubscribeData(
            event_type=list(_OF_DEPLOYMENT), deployment_id=data.deployment_id, from_line=data.from_line
        )
        await self._add(client, "logs_subscribed", subscribe, message)

    async def _plugin_message(self, client: Client, message: ClientMessage) -> None:
        result = await self._plugins.handle_message(message.type, message.model_dump(exclude_none=True), client.context)
        if not result.is_ok:
            # The plugin's own trouble stays in the log: its traceback may hold foreign data.
            raise WindFlowError(ErrorCode.INTERNAL, f"the plugin could not answer {message.type}: {result.state}")
        answer: dict[str, Any] = result.value or {}
        if answer or message.id is not None:
            data = answer.get("data", {key: value for key, value in answer.items() if key != "type"})
            kind = str(answer.get("type", message.type))
            self._reply(client, kind, data if isinstance(data, dict) else {"value": data}, message)

    async def _publish(self, client: Client, message: ClientMessage) -> None:
        spec = self._catalogue[message.type]
        if not may_send(spec, Sender.CLIENT):
            raise WindFlowError(ErrorCode.NOT_SENDABLE, f"type: clients do not send {message.type}")
        event = await self._events.publish(client.caller(), message.type, message.data)
        if message.id is not None:
            self._reply(client, "published", event.wire(), message)

    # ---- subscriptions ----------------------------------------------------------------------------------

    async def wanted(self, caller: Caller, data: SubscribeData) -> Wanted:
        """Return what a subscription stands for; raise what is wrong with it."""
        organization_id = caller.organization(data.organization_id)
        names = self._names(caller, data)
        if data.deployment_id is None:
            if data.from_line is not None:
                raise field_error(ErrorCode.INVALID_MESSAGE, "from_line", "only with a deployment_id")
            return Wanted([Topic(organization_id, name) for name in names])
        deployment = await self._deployments.get(caller, data.deployment_id)
        if data.organization_id is not None and deployment["organizationId"] != organization_id:
            raise not_found("deployment")
        topics = [Topic(deployment["organizationId"], name, data.deployment_id) for name in names]
        if data.from_line is None:
            return Wanted(topics, data.deployment_id)
        if LOGS_UPDATE not in names:
            raise field_error(ErrorCode.INVALID_MESSAGE, "from_line", f"only with event_type {LOGS_UPDATE}")
        # -n is the tail of what is there now; lines that are added meanwhile come after it (R14).
        first = data.from_line if data.from_line >= 0 else deployment["lastLine"] + 1 + data.from_line
        return Wanted(topics, data.deployment_id, max(1, first))

    def add(self, connection: Connection, wanted: Sequence[Wanted], since: Mapping[str, int] | None = None) -> None:
        """Add subscriptions to a connection; raise `too_many_subscriptions` and add none where that is over the limit.

        They begin at the head of their streams, or after the offsets of `since`.
        """
        limit = self._settings.max_subscriptions
        topics = [topic for each in wanted for topic in each.topics]
        if len(connection.topics.keys() | set(topics)) > limit:
            raise WindFlowError(ErrorCode.TOO_MANY_SUBSCRIPTIONS, f"at most {limit} subscriptions per connection")
        self._hub.subscribe(connection, topics, since)
        for each in wanted:
            if each.deployment_id is not None and each.from_line is not None:
                connection.follow_from(log_source(each.deployment_id), each.from_line - 1)

    async def _add(self, client: Client, kind: str, data: SubscribeData, message: ClientMessage) -> None:
        wanted = await self.wanted(client.caller(), data)
        streams = {stream_of(topic.organization_id) for topic in wanted.topics}
        await self._bus.learn(streams)
        self.add(client.connection, [wanted])
        reply = {
            "event_types": [topic.type for topic in wanted.topics],
            "deployment_id": wanted.deployment_id,
            "from_line": wanted.from_line,
            "positions": self._hub.standing(streams),
        }
        self._reply(client, kind, _without_none(reply), message)

    def _names(self, caller: Caller, data: SubscribeData) -> list[str]:
        """Return the event types that names, lists and patterns stand for, in catalogue order."""
        asked = [data.event_type] if isinstance(data.event_type, str) else data.event_type
        if asked == [LEGACY_LOGS]:
            if data.deployment_id is None:
                raise field_error(ErrorCode.INVALID_MESSAGE, "deployment_id", f"needed with event_type {LEGACY_LOGS}")
            asked = list(_OF_DEPLOYMENT)
        wanted: set[str] = set()
        for name in asked:
            found = {known for known in self._catalogue if fnmatchcase(known, name)} if "*" in name else {name}
            if not found or not found.issubset(self._catalogue):
                raise WindFlowError(
                    ErrorCode.UNKNOWN_TYPE,
                    f"event_type: no event is called {name}",
                    fields=[FieldError("event_type", f"no event is called {name}")],
                )
            if "*" not in name and not may_see(caller.principal, self._catalogue[name]):
                raise WindFlowError(ErrorCode.FORBIDDEN, f"event_type: your role may not see {name}")
            wanted |= {known for known in found if may_see(caller.principal, self._catalogue[known])}
        return [known for known in self._catalogue if known in wanted]

    @staticmethod
    def _reply(client: Client, kind: str, data: Mapping[str, Any], message: ClientMessage) -> None:
        client.connection.push(server_message(kind, data, message.id))


def parse(model: type[M], data: Mapping[str, Any]) -> M:
    """Return a command's data; raise `invalid_message` naming every field and rule."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise refused(ErrorCode.INVALID_MESSAGE, error) from error


def _without_none(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if value is not None}
