"""Origins: an event that is read from the log is handled as one that was at hand."""

from backend.app.auth.permissions import Principal
from backend.app.realtime.event import Event, new_event
from backend.app.schemas.roles import Role
from backend.app.schemas.websocket_events import core_catalogue
from backend.app.websocket.origins import Origins

SPEC = core_catalogue()["NOTIFICATION_READ"]
ADA = Principal("u", "ada", "o1", Role.VIEWER)


def event_of(connection_id: str | None) -> Event:
    """An event, born on a connection or not."""
    return new_event(SPEC, "o1", {"notificationIds": ["n"]}, actor=ADA, connection_id=connection_id)


def as_read(event: Event) -> Event:
    """The event as the log gives it: nothing of its connection, and nobody who caused it."""
    read = event_of(None)
    read.id, read.actor = event.id, None
    return read


def test_an_event_that_waited_in_the_log_is_handled_by_its_connections_copy() -> None:
    """Events born on a connection are handled by its copy when the connection still exists."""
    origins = Origins(10)
    event = event_of("c1")
    origins.keep(event)
    read = origins.restored(as_read(event))
    assert (read.connection_id, read.actor) == ("c1", ADA)


def test_what_was_not_born_on_one_and_what_is_too_old_is_as_the_log_says() -> None:
    """Bounded; else the registered instance handles it."""
    origins = Origins(1)
    rest, old, new = event_of(None), event_of("c1"), event_of("c2")
    for event in (rest, old, new):
        origins.keep(event)
    assert origins.restored(as_read(rest)).connection_id is None
    assert origins.restored(as_read(old)).connection_id is None
    assert origins.restored(as_read(new)).connection_id == "c2"
