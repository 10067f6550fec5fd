"""Who may have an event and wants it: asked at delivery, and again for what is read from the log later. Pure."""

from collections.abc import Iterable

from backend.app.auth.permissions import sight_needed
from backend.app.realtime.connection import Connection
from backend.app.realtime.event import Event
from backend.app.realtime.topics import Topic
from backend.app.schemas.event_spec import EventSpec


def entitled(event: Event, receivers: Iterable[Connection]) -> list[Connection]:
    """Return those of the receivers that may have the event with their present rights."""
    needed = sight_needed(event.spec)
    user_id, organization_id = event.user_id, event.organization_id
    if user_id is not None or event.session_id is not None:
        # Addressed to this very user; a move to another organization is told in the new one's stream.
        return [each for each in receivers if each.sight >= needed and user_id in (None, each.principal.user_id)]
    if organization_id is None:
        return [each for each in receivers if each.sight >= needed]
    return [
        each
        for each in receivers
        if each.sight >= needed and (each.organization_id == organization_id or each.is_superuser)
    ]


def wants(
    connection: Connection,
    spec: EventSpec,
    organization_id: str | None,
    subject: str | None,
    user_id: str | None,
    offset: int | None = None,
) -> bool:
    """Tell whether a connection may have a stored event now and wants it, by offset where its subscription has a start.

    The same answer as the hub's for an event that is just delivered.
    """
    if not spec.is_pushed or connection.sight < sight_needed(spec):
        return False
    if user_id is not None:
        return user_id == connection.principal.user_id
    if organization_id is None:
        starts = [start for topic, start in connection.topics.items() if topic.type == spec.name]
    elif connection.organization_id != organization_id and not connection.is_superuser:
        return False
    else:
        topics = connection.topics
        starts = []
        for topic in (Topic(organization_id, spec.name), Topic(organization_id, spec.name, subject)):
            if topic in topics:
                starts.append(topics[topic])
    if offset is None:
        return bool(starts)
    return any(offset > start for start in starts)
