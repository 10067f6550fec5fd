"""Puts a connection where its client left off: asked once for each connection, before it is registered."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from backend.app.database import Database
from backend.app.realtime import event_log
from backend.app.realtime.bus import Bus
from backend.app.realtime.catch_up import tell_lost
from backend.app.realtime.connection import Connection
from backend.app.realtime.event import stream_of
from backend.app.realtime.event_log import Position
from backend.app.realtime.hub import Hub
from backend.app.realtime.resume import Lost, judge
from backend.app.realtime.topics import Topic


@dataclass(frozen=True, slots=True)
class Resumed:
    """What can be continued and what is lost of what a client came back with."""

    hub: Hub
    cursors: Mapping[str, int] = field(default_factory=dict)
    """The offset to continue after, for each stream where that is possible."""
    lost: Sequence[Lost] = ()
    is_resumed: bool = False

    def begin(self, connection: Connection) -> None:
        """Have a connection, registered in this very step, read on from its cursors, and be told the latest values."""
        for stream, offset in self.cursors.items():
            if offset != self.hub.heads.head(stream):
                connection.follow_from(stream, offset)
        if self.is_resumed:
            connection.owe_latest()

    def tell_lost(self, connection: Connection) -> None:
        """Tell what is lost. What is pushed from now on is after the positions that go with it."""
        for each in self.lost:
            tell_lost(connection, each.stream, each.reason, each.position, self.hub.positions(connection))


class Resumes:
    """Judges what clients come back with. One for all connections of a node."""

    def __init__(self, database: Database, bus: Bus, hub: Hub) -> None:
        self._database = database
        self._bus = bus
        self._hub = hub

    async def judge(
        self, connection: Connection, topics: Iterable[Topic], given: Mapping[str, Position] | None
    ) -> Resumed:
        """Return what becomes of the positions of a client that will have these topics; None: it begins anew.

        Reads the database only for positions, and for streams of which nothing is known here.
        """
        followed = connection.streams().union(stream_of(topic.organization_id) for topic in topics)
        await self._bus.learn(followed)
        if given is None:
            return Resumed(self._hub)
        async with self._database.session() as session:
            standing = await event_log.standing(session, [stream for stream in given if stream in followed])
        cursors, lost = judge(given, standing, followed)
        return Resumed(self._hub, cursors, lost, is_resumed=True)
