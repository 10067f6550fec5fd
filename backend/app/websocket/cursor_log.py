"""The dispatcher's access to the log and the cursors: reads in sessions, writes as units of work."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

from backend.app.database import Database, Transaction
from backend.app.models.columns import now
from backend.app.realtime import event_log, node, plugin_cursors
from backend.app.realtime.event import Event
from backend.app.realtime.node import TakenOver
from backend.app.realtime.plugin_cursors import Backlog, CursorKey
from backend.app.schemas.event_spec import EventSpec

Types = Sequence[str] | None

_MOST_NODES = 20
"""Most dead nodes that one write takes over; the next round goes on."""


class CursorLog:
    """One database as the dispatcher sees it. Every method raises what the database raises."""

    def __init__(self, database: Database, catalogue: Mapping[str, EventSpec]) -> None:
        self._database = database
        self._catalogue = catalogue

    async def heads(self, streams: Sequence[str] | None = None) -> dict[str, int]:
        """Return the head of each stream; None: of all."""
        async with self._database.session() as session:
            return {stream: at.offset for stream, at in (await event_log.heads(session, streams)).items()}

    async def read(self, place: tuple[str, str], span: tuple[int, int], limit: int, types: Types = None) -> list[Event]:
        """Return events of a (node, stream) after and up to the offsets of a span, in order."""
        async with self._database.session() as session:
            return await plugin_cursors.read_born(session, self._catalogue, place, span, limit, types)

    async def oldest(
        self,
        place: tuple[str, str],
        span: tuple[int, int],
        types: Types,
        *,
        before: datetime | None = None,
        count: int | None = None,
    ) -> tuple[int, int]:
        """Return the last offset, and the number, of the oldest events: made before a moment, or so many."""
        async with self._database.session() as session:
            return await plugin_cursors.oldest(session, place, span, types, before=before, count=count)

    async def write(
        self,
        nodes: Mapping[str, int],
        raised: Mapping[CursorKey, int],
        finished: Collection[CursorKey],
        retired: Collection[str],
        own: str,
    ) -> set[str]:
        """Raise cursors, remove finished ones and those of retired plugins; return the nodes that are lost."""

        def unit(tx: Transaction) -> set[str]:
            lost = plugin_cursors.write_cursors(tx, nodes, raised, finished)
            for plugin in sorted(retired):
                plugin_cursors.remove_plugin(tx, nodes, plugin)
            if finished or retired:
                node.remove_finished(tx, own, (own,))
            return lost

        return await self._database.write(unit)

    async def renew(self, own: str, nodes: Mapping[str, int], lease_seconds: float) -> set[str]:
        """Renew the lease on our nodes; return those that are lost."""
        return await self._database.write(lambda tx: node.renew(tx, own, nodes, lease_seconds))

    async def take_over(
        self, own: str, lease_seconds: float, wanted: Mapping[str, Types]
    ) -> tuple[list[TakenOver], list[Backlog]]:
        """Take dead nodes over, with what they left for our plugins (name → event types)."""

        def unit(tx: Transaction) -> tuple[list[TakenOver], list[Backlog]]:
            taken = node.take_over(tx, own, lease_seconds, _MOST_NODES)
            backlogs = plugin_cursors.inherited(tx, [each.id for each in taken], wanted)
            node.remove_finished(tx, own, (own,))
            return taken, backlogs

        return await self._database.write(unit)

    async def inherited(self, nodes: Collection[str], plugin: str, types: Types) -> list[Backlog]:
        """Return what dead nodes of ours left for a plugin that came later."""
        return await self._database.write(lambda tx: plugin_cursors.inherited(tx, nodes, {plugin: types}))

    async def remove_unclaimed(self, own: str, plugins: Collection[str], seconds: float) -> list[Backlog]:
        """Give up what waits for plugins that are not here since so long; return what that was."""
        before = now() - timedelta(seconds=seconds)

        def unit(tx: Transaction) -> list[Backlog]:
            removed = plugin_cursors.remove_unclaimed(tx, own, plugins, before)
            node.remove_finished(tx, own, (own,))
            return removed

        return await self._database.write(unit)

    async def register(self, new: node.Node, lease_seconds: float) -> None:
        """Store a new node."""
        await self._database.write(lambda tx: node.register(tx, new, lease_seconds))

    async def release(self, own: str) -> None:
        """Leave: what is done is removed, the rest may be taken over at once."""

        def unit(tx: Transaction) -> None:
            plugin_cursors.remove_done(tx, own)
            node.release(tx, own)

        await self._database.write(unit)
