"""What a connection can subscribe to."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Topic:
    """An event type of one organization, of all subjects or of one."""

    organization_id: str
    type: str
    subject: str | None = None
