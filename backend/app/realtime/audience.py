"""Who may have an event and wants it: asked at delivery, and again for what is read from the log later. Pure."""

from collections.abc import Iterable

from backend.app.auth.permissions import sight_needed
from backend.app.realtime.connection import Connection
from backend.app.realtime.event import Event
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


class Wish:
    """What one connection may have and wants of the events of one organization, asked at this moment.

    The same answers as the hub's for an event that is just delivered. Made anew after every await: rights and
    subscriptions change (R6).
    """

    __slots__ = ("_all", "_can_reach", "_connection", "_some")

    def __init__(self, connection: Connection, organization_id: str | None) -> None:
        self._connection = connection
        self._can_reach = organization_id in (None, connection.organization_id) or connection.is_superuser
        self._all: dict[str, int] = {}
        """The types of which it wants every event, with the offset after which."""
        self._some: dict[tuple[str, str], int] = {}
        """The same for single subjects."""
        for topic, start in connection.topics.items():
            if organization_id is None:
                self._all[topic.type] = min(start, self._all.get(topic.type, start))
            elif topic.organization_id != organization_id:
                continue
            elif topic.subject is None:
                self._all[topic.type] = start
            else:
                self._some[topic.type, topic.subject] = start

    def has(self, spec: EventSpec, subject: str | None, user_id: str | None = None, offset: int | None = None) -> bool:
        """Tell whether it may have a stored event and wants it; an offset must be above its subscription's start."""
        connection = self._connection
        if not spec.is_pushed or connection.sight < sight_needed(spec):
            return False
        if user_id is not None:
            return user_id == connection.principal.user_id
        if not self._can_reach:
            return False
        start = self._all.get(spec.name)
        if start is not None and (offset is None or offset > start):
            return True
        if subject is None or not self._some:
            return False
        start = self._some.get((spec.name, subject))
        return start is not None and (offset is None or offset > start)
