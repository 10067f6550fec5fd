"""Reads the latest values that a connection is owed, and pushes those that nothing newer has paid meanwhile (R15)."""

from collections.abc import Awaitable, Callable, Mapping

from backend.app.realtime.audience import Wish
from backend.app.realtime.connection import Connection
from backend.app.realtime.event import stream_of
from backend.app.realtime.hub import Hub
from backend.app.realtime.latest_debt import LatestDebt
from backend.app.realtime.log_reader import Reader, StoredValue
from backend.app.realtime.marks import Mark, latest_source
from backend.app.schemas.event_spec import Delivery, EventSpec

_VALUES_AT_ONCE = 100


class LatestPayments:
    """Pays debts. One for all connections of a node."""

    def __init__(
        self,
        hub: Hub,
        reader: Reader,
        catalogue: Mapping[str, EventSpec],
        room: Callable[[Connection], Awaitable[None]],
    ) -> None:
        self._hub = hub
        self._reader = reader
        self._catalogue = catalogue
        self._room = room
        """Waits until a connection takes more."""

    async def pay(self, connection: Connection, debt: LatestDebt) -> None:
        """Pay a part of a debt; raises what the database raises, and then it is owed still."""
        if debt.is_all:
            begun = debt.begin_all()
            for stream, kind, subject in self._followed(connection):
                await self._pay_all_of(connection, debt, stream, kind, subject)
            debt.end_all(begun)
        else:
            names = sorted(debt.sources)[:_VALUES_AT_ONCE]
            found = {value.source: value for value in await self._reader.values(names)}
            for name in names:
                if name in found:
                    self._push(connection, debt, found[name])
                else:
                    debt.sources.discard(name)
        if debt.is_paid and connection.latest_debt is debt:
            connection.latest_debt = None

    def _followed(self, connection: Connection) -> list[tuple[str, str, str | None]]:
        return [
            (stream_of(topic.organization_id), topic.type, topic.subject)
            for topic in connection.topics
            if topic.type in self._catalogue and self._catalogue[topic.type].delivery is Delivery.LATEST
        ]

    async def _pay_all_of(
        self, connection: Connection, debt: LatestDebt, stream: str, kind: str, subject: str | None
    ) -> None:
        after = ""
        while not connection.is_over:
            await self._room(connection)
            if subject is None:
                page = await self._reader.values_of(stream, kind, after)
            else:
                page = await self._reader.values([latest_source(stream, kind, subject)])
            for value in page:
                self._push(connection, debt, value)
            if not page or subject is not None:
                return
            after = page[-1].subject

    def _push(self, connection: Connection, debt: LatestDebt, value: StoredValue) -> None:
        if not debt.is_owed(value.source):
            return  # A newer one was pushed meanwhile.
        if value.version < self._hub.heads.version(value.source):
            debt.add(value.source)  # A newer one was handed on meanwhile: it is read again.
        elif Wish(connection, value.organization_id).has(value.spec, value.subject):
            connection.push_event(value.frame, Mark(Delivery.LATEST, value.source, value.version))
        else:
            debt.sources.discard(value.source)
