"""Remembers what the log does not keep of an event that was left there: the connection, and who caused it.

So a plugin's copy on that connection handles it also when it is read later. Bounded: of the
oldest it forgets, and of another process's, the registered instance takes care.
"""

from collections import OrderedDict

from backend.app.auth.permissions import Principal
from backend.app.realtime.event import Event


class Origins:
    """The origins of at most `limit` events."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: OrderedDict[str, tuple[str, Principal | None]] = OrderedDict()

    def keep(self, event: Event) -> None:
        """Remember an event that was born on a connection."""
        if event.connection_id is None:
            return
        self._known[event.id] = event.connection_id, event.actor
        if len(self._known) > self._limit:
            self._known.popitem(last=False)

    def restored(self, event: Event) -> Event:
        """Return an event that was read from the log as it was when it was handed over."""
        found = self._known.get(event.id)
        if found is not None:
            event.connection_id, event.actor = found
        return event
