"""What is asked of an event stream and what it yields: subscriptions in; events and notices out. Plain values."""

from dataclasses import dataclass
from typing import Any

from backend.app.client.socket import Message

LOGS_UPDATE = "DEPLOYMENT_LOGS_UPDATE"
"""The event that carries lines of a log."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """What to listen to: event types (names, `DEPLOYMENT_*` or `*`), all or of one deployment, its log from a line.

    `from_line`: 1 or 0 is the whole log, -n its last n lines; only with a deployment. Superusers may name another
    organization.
    """

    event_types: tuple[str, ...]
    deployment_id: str | None = None
    from_line: int | None = None
    organization_id: str | None = None

    def data(self, from_line: int | None = None) -> Message:
        """Return the `data` of the subscribe command; `from_line` stands for the own one."""
        fields = {
            "deployment_id": self.deployment_id,
            "from_line": self.from_line if from_line is None else from_line,
            "organization_id": self.organization_id,
        }
        return {
            "event_type": list(self.event_types),
            **{name: each for name, each in fields.items() if each is not None},
        }

    @property
    def log(self) -> str | None:
        """The deployment whose log this follows by number; None where it follows none, or those of all."""
        # What a pattern stands for is the server's to know; whether it could stand for lines is enough here.
        has_lines = any(LOGS_UPDATE.startswith(name.partition("*")[0]) for name in self.event_types if "*" in name)
        return self.deployment_id if has_lines or {LOGS_UPDATE, "deployment_logs"} & set(self.event_types) else None


@dataclass(frozen=True, slots=True)
class Event:
    """One push of the server; `stream` and `offset` only on stream events."""

    type: str
    data: dict[str, Any]
    timestamp: str | None = None
    id: str | None = None
    stream: str | None = None
    offset: int | None = None

    @classmethod
    def from_message(cls, message: Message) -> "Event":
        """Make an event of a server message."""
        data = message.get("data")
        return cls(
            type=str(message.get("type")),
            data=data if isinstance(data, dict) else {},
            timestamp=message.get("timestamp"),
            id=message.get("id"),
            stream=message.get("stream"),
            offset=message.get("offset"),
        )


@dataclass(frozen=True, slots=True)
class Reconnected:
    """The connection was away for `seconds`.

    With `is_resumed` everything of that time follows, except for lines of logs that no subscription names and events
    that nothing keeps. Without it, or where more is lost, PositionLost items come next: they say what.
    """

    seconds: float
    is_resumed: bool = True


@dataclass(frozen=True, slots=True)
class PositionLost:
    """What came after a position cannot be had any more: read the state again over REST. It goes on from now.

    `stream` is a stream's name, or `log:<deployment id>` for a followed log. `reason`: `expired` (retention removed
    it), `epoch` (the log began anew), `future` (the log is not that far), `unknown` (you follow no such stream, or
    there was no position yet), `unsupported` (the server cannot resume). `lost` is the position, as the wire has it,
    and `now` the one that stands in its place; each None where there is none.
    """

    stream: str
    reason: str
    lost: dict[str, Any] | None = None
    now: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class CatchingUp:
    """What was missed of a stream, or of a log (`log:<deployment id>`), follows: at most `behind` of it."""

    stream: str
    behind: int


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """Everything that was missed of a stream, or of a log, has come."""

    stream: str


Item = Event | Reconnected | PositionLost | CatchingUp | CaughtUp
"""What iterating over an event stream yields."""
