"""Client commands, server replies and close codes: everything on the socket that is not an event.

`CLOSE_CODES` tells for each code what it means and what the client has to do; the endpoint
closes with nothing else, and the reference page is generated from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from backend.app.schemas.times import wire_time


class CloseCode(IntEnum):
    """Why the server ends a connection."""

    UNSUPPORTED_DATA = 1003
    INVALID_UTF8 = 1007
    AUTHENTICATION_FAILED = 1008
    MESSAGE_TOO_BIG = 1009
    SERVER_RESTARTING = 1012
    WRITE_STALLED = 4008
    TOKEN_EXPIRED = 4009
    NO_PONG = 4012
    RATE_LIMITED = 4029
    TOO_MANY_BAD_MESSAGES = 4501
    ACCESS_REVOKED = 4503
    TOO_MANY_CONNECTIONS = 4504


class AuthFailure(StrEnum):
    """The reason text of a close with 1008; deployed browsers rely on these words."""

    TIMEOUT = "Authentication timeout"
    REQUIRED = "Authentication required"
    INVALID_TOKEN = "Invalid token"
    INACTIVE = "User not found or inactive"


@dataclass(frozen=True, slots=True)
class CloseRule:
    """What a close code means, and the duty of a client that gets it."""

    meaning: str
    duty: str


_NO_RETRY = "do not retry: the client is at fault"
_BACK_OFF = "reconnect with back-off"
_STAY_AWAY = "do not reconnect"

CLOSE_CODES: Mapping[CloseCode, CloseRule] = {
    CloseCode.UNSUPPORTED_DATA: CloseRule("a binary message", _NO_RETRY),
    CloseCode.INVALID_UTF8: CloseRule("text that is not UTF-8", _NO_RETRY),
    CloseCode.AUTHENTICATION_FAILED: CloseRule(
        "authentication failed; the reason says how", "log in again, do not retry"
    ),
    CloseCode.MESSAGE_TOO_BIG: CloseRule("a message over the limit", _NO_RETRY),
    CloseCode.SERVER_RESTARTING: CloseRule("the server shuts down", "reconnect after `retryAfterMs` or with back-off"),
    CloseCode.WRITE_STALLED: CloseRule("the client took nothing for too long, or did not take its answers", _BACK_OFF),
    CloseCode.TOKEN_EXPIRED: CloseRule("the token ran out", "refresh the token or log in, then reconnect"),
    CloseCode.NO_PONG: CloseRule("no answer to a ping", _BACK_OFF),
    CloseCode.RATE_LIMITED: CloseRule("too many messages, or a cap of server or address is reached", _BACK_OFF),
    CloseCode.TOO_MANY_BAD_MESSAGES: CloseRule("too many malformed messages", _STAY_AWAY),
    CloseCode.ACCESS_REVOKED: CloseRule("logged out, or access was revoked", _STAY_AWAY),
    CloseCode.TOO_MANY_CONNECTIONS: CloseRule("this user has too many connections", _STAY_AWAY),
}
"""Complete: a test compares it with the enum."""


class ClientMessage(BaseModel):
    """The envelope of everything a client sends."""

    model_config = ConfigDict(extra="allow", hide_input_in_errors=True)

    type: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    data: dict[str, Any] = Field(default_factory=dict)
    id: Annotated[str, StringConstraints(max_length=128)] | int | float | None = None


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


_Id = Annotated[str, StringConstraints(min_length=1, max_length=64)]
_TypeName = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class SubscribeData(_Data):
    """Data of `subscribe` and `unsubscribe`."""

    event_type: _TypeName | Annotated[list[_TypeName], Field(min_length=1, max_length=128)]
    deployment_id: _Id | None = None
    organization_id: _Id | None = None
    from_line: int | None = None


class DeploymentLogsData(_Data):
    """Data of `deployment_logs`: short for subscribing to one deployment's logs."""

    deployment_id: _Id
    from_line: int | None = None


class AuthData(BaseModel):
    """Data of the first message. Unknown keys are left alone: browsers already deployed send some."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    token: str | None = None
    subscriptions: Annotated[list[SubscribeData], Field(max_length=128)] = Field(default_factory=list)
    positions: Any | None = None
    """Where to go on from; read by `realtime.resume`, so that what is wrong with it is answered and costs nothing."""
    contract: dict[str, Any] | None = None
    """The fingerprints of the types that the client was made from, by name: `core`, and plugins."""
    client: Any | None = None


class Command(StrEnum):
    """Client messages that are no events. One function in `websocket/commands.py` for each."""

    AUTH = "auth"
    SUBSCRIBE = "subscribe"
    UNSUBSCRIBE = "unsubscribe"
    DEPLOYMENT_LOGS = "deployment_logs"
    PING = "ping"


def server_message(kind: str, data: Mapping[str, Any] | None = None, reply_to: str | float | None = None) -> str:
    """Return one server message in the envelope. `kind` is an event's name, or a lower-case reply or push."""
    message: dict[str, Any] = {"type": kind, "data": dict(data or {}), "timestamp": wire_time(datetime.now(UTC))}
    if reply_to is not None:
        message["reply_to"] = reply_to
    return orjson.dumps(message).decode()
