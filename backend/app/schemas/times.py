"""Times as they cross the wire: RFC 3339, UTC, milliseconds and `Z`, everywhere the same."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import PlainSerializer


def wire_time(moment: datetime) -> str:
    """Return a moment as it crosses the wire; one without a zone is taken as UTC."""
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return aware.isoformat(timespec="milliseconds").replace("+00:00", "Z")


WireTime = Annotated[datetime, PlainSerializer(wire_time, return_type=str, when_used="json")]
"""A moment in a payload or an answer."""
