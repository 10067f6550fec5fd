"""Where an event can be read again: its place in a stream or in a log, or which value it is.

What waits for a connection carries its mark, so that it can be withdrawn and read later instead.
"""

from dataclasses import dataclass

from backend.app.schemas.event_spec import Delivery

LOG_PREFIX = "log:"
LOGS_UPDATE = "DEPLOYMENT_LOGS_UPDATE"
"""The event type of class *log*."""
CREATED, DELETED = "DEPLOYMENT_CREATED", "DEPLOYMENT_DELETED"
"""With these a log begins and ends."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One event's place."""

    delivery: Delivery
    source: str
    """A stream's name, `log:<deployment id>`, or the name of a latest value; empty for transient events."""
    number: int = 0
    """Offset in the stream, number of the first line, or version of the value."""


TRANSIENT = Mark(Delivery.TRANSIENT, "")


def log_source(deployment_id: str) -> str:
    """Return the name of a deployment's log among the sources that a connection reads from."""
    return LOG_PREFIX + deployment_id


def deployment_of(source: str) -> str | None:
    """Return the deployment whose log a source is; None for a stream."""
    return source.removeprefix(LOG_PREFIX) if source.startswith(LOG_PREFIX) else None


def latest_source(stream: str, kind: str, subject: str) -> str:
    """Return the name of a latest value: subjects are free text, types and streams hold no line end."""
    return f"{stream}\n{kind}\n{subject}"


def value_of(source: str) -> tuple[str, str, str]:
    """Return stream, type and subject of a latest value's name."""
    stream, kind, subject = source.split("\n", 2)
    return stream, kind, subject
