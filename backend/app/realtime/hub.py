"""The connections of this node, by topic, user and session; delivers events to them.

The tenant is part of every topic, so a broadcast never walks over foreign connections.
Rights are asked again at delivery. An event is framed once, the same bytes for all; what is delivered
in one tick of the event loop is handed out at its end, or before anything that changes who gets it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from itertools import groupby
from typing import Any, TypeVar

import orjson

from backend.app import metrics
from backend.app.auth.permissions import Principal
from backend.app.realtime.audience import entitled
from backend.app.realtime.connection import Connection
from backend.app.realtime.event import Event, stream_of
from backend.app.realtime.flusher import Flusher
from backend.app.realtime.frames import text_frame
from backend.app.realtime.heads import Heads, Step
from backend.app.realtime.marks import CREATED, DELETED, LOGS_UPDATE, Mark, log_source
from backend.app.realtime.topics import Topic
from backend.app.schemas.event_spec import Audience, Delivery

K = TypeVar("K")


class Hub:
    """Registry of this node's connections. Every method is plain: nothing interleaves."""

    def __init__(self, flusher: Flusher, join_bytes: int, heads: Heads | None = None) -> None:
        self._flusher = flusher
        flusher.before = self._end_tick
        self._join_bytes = join_bytes
        """Most bytes of one tick that are written without asking each connection's budget."""
        self.heads = heads or Heads()
        """How far everything was handed on; a LIVE connection is exactly there (I5)."""
        self.on_behind: Callable[[Connection], None] | None = None
        """Called with a connection that has fallen behind: somebody has to read the log for it."""
        self._collected: list[Event] = []
        """Events of this tick, in order."""
        self._connections: dict[str, Connection] = {}
        self._by_user: dict[str, set[Connection]] = {}
        self._by_session: dict[str, set[Connection]] = {}
        self._by_topic: dict[Topic, set[Connection]] = {}

    def __len__(self) -> int:
        return len(self._connections)

    def __iter__(self) -> Iterator[Connection]:
        return iter(tuple(self._connections.values()))

    def get(self, connection_id: str) -> Connection | None:
        """Return a connection of this node."""
        return self._connections.get(connection_id)

    def of_user(self, user_id: str) -> tuple[Connection, ...]:
        """Return the connections of a user."""
        return tuple(self._by_user.get(user_id, ()))

    def of_session(self, session_id: str) -> tuple[Connection, ...]:
        """Return the connections of a session."""
        return tuple(self._by_session.get(session_id, ()))

    # ---- who is there, and wants what ----------------------------------------------------------------------

    def add(self, connection: Connection) -> None:
        """Register a connection: from now on it gets what is addressed to its user."""
        self.settle()
        connection.on_behind = self.on_behind
        self._connections[connection.id] = connection
        self._by_user.setdefault(connection.principal.user_id, set()).add(connection)
        if connection.principal.session_id:
            self._by_session.setdefault(connection.principal.session_id, set()).add(connection)
        metrics.CONNECTIONS.set(len(self._connections))

    def remove(self, connection: Connection) -> None:
        """Forget a connection and its subscriptions; no-op if it is not registered."""
        self.settle()
        if self._connections.pop(connection.id, None) is None:
            return
        self.unsubscribe(connection, tuple(connection.topics))
        _discard(self._by_user, connection.principal.user_id, connection)
        if connection.principal.session_id:
            _discard(self._by_session, connection.principal.session_id, connection)
        metrics.CONNECTIONS.set(len(self._connections))

    def update_principal(self, connection: Connection, principal: Principal) -> None:
        """Give a connection the present rights of its user; if they changed, what waits is asked about again (R6)."""
        self.settle()
        before = connection.principal
        connection.principal = principal
        if connection.id not in self._connections:
            return
        _discard(self._by_session, before.session_id or "", connection)
        if principal.session_id:
            self._by_session.setdefault(principal.session_id, set()).add(connection)
        if _reach(principal) != _reach(before):
            connection.withdraw_all()
            if principal.organization_id != before.organization_id:
                connection.forget_source(stream_of(before.organization_id))

    def subscribe(
        self, connection: Connection, topics: Iterable[Topic], since: Mapping[str, int] | None = None
    ) -> None:
        """Add topics to a connection; those it has already stay as they are.

        They begin at the hub's head, or after the offset that `since` has for their stream.
        """
        self.settle()
        starts = since or {}
        for topic in topics:
            if topic not in connection.topics:
                stream = stream_of(topic.organization_id)
                connection.topics[topic] = starts.get(stream, self.heads.head(stream) or 0)
                self._by_topic.setdefault(topic, set()).add(connection)
                metrics.SUBSCRIPTIONS.inc()

    def unsubscribe(self, connection: Connection, topics: Iterable[Topic]) -> None:
        """Take topics from a connection; those it does not have are left alone."""
        self.settle()
        for topic in topics:
            if connection.topics.pop(topic, None) is not None:
                _discard(self._by_topic, topic, connection)
                metrics.SUBSCRIPTIONS.dec()

    # ---- delivery ------------------------------------------------------------------------------------------

    def deliver(self, event: Event) -> None:
        """Have an event reach every connection that may have it and wants it, at the end of this tick.

        Lines with something missing before them are not pushed: who follows them reads the log.
        """
        if event.spec.delivery is Delivery.LOG and event.mark.number:
            step = self._take_lines(event)
        else:
            step = self.heads.take(event)
            if event.spec.name == CREATED and event.subject is not None:
                self.heads.begin_lines(event.subject)
            elif event.spec.name == DELETED and event.subject is not None:
                self.heads.forget_lines(event.subject)
        if step is Step.NEXT and event.spec.is_pushed:
            self._collected.append(event)
            self._flusher.schedule()

    def _take_lines(self, event: Event) -> Step:
        source, first = event.mark.source, event.mark.number
        known = self.heads.head(source) or 0
        step = self.heads.take_lines(event.subject or "", first, first + len(event.payload["logs"]) - 1)
        if step is Step.GAP:
            self._read_lines(source, known, entitled(event, self._receivers(event)))
        return step

    def lines_were_added(self, organization_id: str, deployment_id: str, last: int) -> None:
        """Have everybody who follows a log read it up to a line of which nobody told here (R5)."""
        source = log_source(deployment_id)
        known = self.heads.head(source)
        if known is None or last <= known:
            return
        self.heads.take_lines(deployment_id, known + 1, last)
        of_all = self._by_topic.get(Topic(organization_id, LOGS_UPDATE), set())
        of_this = self._by_topic.get(Topic(organization_id, LOGS_UPDATE, deployment_id), set())
        self._read_lines(source, known, of_all | of_this)

    def _read_lines(self, source: str, known: int, connections: Iterable[Connection]) -> None:
        """Have those that are LIVE on a log read it from its head on."""
        self.settle()
        missed = Mark(Delivery.LOG, source, known + 1)
        for connection in connections:
            if source not in connection.cursors:
                connection.fall_back(missed)

    def settle(self) -> None:
        """Hand out what was collected in this tick, before something else changes who gets it or comes after it."""
        if self._collected:
            for event in self._take_collected():
                self._hand_out((event,), is_tick_over=False)

    def _end_tick(self) -> None:
        """Hand out what was collected. Events of one topic go to the same connections: they are joined once for all."""
        if not self._collected:
            return
        groups = [tuple(group) for _, group in groupby(self._take_collected(), _address)]
        for group in groups:
            self._hand_out(group, is_tick_over=len(groups) == 1)

    def _take_collected(self) -> list[Event]:
        events, self._collected = self._collected, []
        return events

    def _hand_out(self, events: Sequence[Event], *, is_tick_over: bool) -> None:
        """Give events of one address to its connections: written at once where nothing else is due in this tick."""
        first = events[0]
        receivers = entitled(first, self._receivers(first))
        frames = [event.frame() for event in events]
        marks = [event.mark for event in events]
        delivered = 0
        joined = b"".join(frames) if len(frames) > 1 else frames[0]
        can_write = is_tick_over and len(joined) <= self._join_bytes
        for connection in receivers:
            if can_write and connection.write_now(joined):
                delivered += len(frames)
            else:
                for frame, mark in zip(frames, marks, strict=True):
                    delivered += connection.push_event(frame, mark)
        metrics.EVENTS_DELIVERED.inc(delivered)

    def push_raw(self, user_id: str, organization_id: str, message: Mapping[str, Any]) -> None:
        """Send a message that is no event, as it is, to the sockets that a user has open.

        The user is of that organization, or a superuser.
        """
        self.settle()
        frame = text_frame(orjson.dumps(message))
        for connection in self.of_user(user_id):
            if connection.principal.organization_id == organization_id or connection.principal.is_superuser:
                connection.push_frame(frame, is_droppable=True)

    # ---- how far everybody is ------------------------------------------------------------------------------

    def positions(self, connection: Connection) -> dict[str, Any]:
        """Return up to where everything of its streams was written to a connection (R1), as it crosses the wire."""
        self.settle()
        found = {}
        for stream in connection.streams():
            known = self.heads.position(stream)
            if known is not None:
                offset = connection.position(stream, known.offset)
                found[stream] = {"epoch": known.epoch, "offset": offset}
        return found

    def standing(self, streams: Iterable[str]) -> dict[str, Any]:
        """Return how far streams were handed on here, as it crosses the wire; what is not known is left out."""
        self.settle()
        known = {stream: self.heads.position(stream) for stream in streams}
        return {stream: position.wire() for stream, position in known.items() if position is not None}

    def try_live(self, connection: Connection, source: str) -> bool:
        """Turn a connection LIVE on a source if its cursor is the hub's head, in this very step (I5)."""
        self.settle()
        if source not in connection.cursors or connection.cursors[source] != self.heads.head(source):
            return False
        del connection.cursors[source]
        return True

    def most_queued_bytes(self) -> int:
        """Return how many bytes wait for the connection that is furthest behind."""
        return max((connection.queued_bytes for connection in self._connections.values()), default=0)

    def _receivers(self, event: Event) -> Iterable[Connection]:
        if event.spec.audience is Audience.CONNECTION:
            connection = self._connections.get(event.connection_id or "")
            return (connection,) if connection else ()
        if event.session_id is not None:
            return tuple(self._by_session.get(event.session_id, ()))
        if event.user_id is not None:
            return tuple(self._by_user.get(event.user_id, ()))
        if event.organization_id is None:
            return tuple(
                connection
                for connection in self._connections.values()
                if any(topic.type == event.spec.name for topic in connection.topics)
            )
        everything: Set[Connection] = self._by_topic.get(Topic(event.organization_id, event.spec.name), frozenset())
        if event.subject is None:
            return everything
        of_subject: Set[Connection] = self._by_topic.get(
            Topic(event.organization_id, event.spec.name, event.subject), frozenset()
        )
        return everything | of_subject if of_subject else everything


def _reach(principal: Principal) -> tuple[object, ...]:
    """Return what decides which events somebody may have."""
    return principal.organization_id, principal.role, principal.is_superuser


def _address(event: Event) -> tuple[object, ...]:
    """Return what decides who gets an event: events alike in this go to the same connections."""
    return event.spec.name, event.organization_id, event.subject, event.user_id, event.session_id, event.connection_id


def _discard(index: dict[K, set[Connection]], key: K, connection: Connection) -> None:
    members = index.get(key)
    if members is not None:
        members.discard(connection)
        if not members:
            del index[key]
