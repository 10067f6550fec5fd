"""Durable writes: concurrent publishers beside one, and beside one batch insert of the same rows.

`tests/unit/database/test_durable_writes.py` runs it. It works on a `Database` in this process, without a web
server; a write counts when its caller was answered, which is after the commit. Candidates take turns in rounds.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from typing import Any

from sqlalchemy import Table, insert

from backend.app.database import Database, Transaction
from backend.app.models import EventRecord, IdempotencyKey
from backend.app.models.columns import new_id
from backend.app.realtime.event import Event, new_event
from backend.app.realtime.unit_of_work import publish
from backend.app.schemas.websocket_events import core_catalogue

CREATED = core_catalogue()["DEPLOYMENT_CREATED"]
PAYLOAD = {"deploymentId": "d1", "deploymentName": "n" * 256}
_EVENTS, _ROWS = EventRecord.__table__, IdempotencyKey.__table__
assert isinstance(_EVENTS, Table)
assert isinstance(_ROWS, Table)
_INSERT_ROW, _INSERT_EVENT = insert(_ROWS), insert(_EVENTS)


class Way(StrEnum):
    """How the rows come to the database."""

    ONE = "one publisher"
    MANY = "concurrent publishers"
    BATCH = "one batch insert"


@dataclass(frozen=True, slots=True)
class Rounds:
    """Writes per second of each way, round by round."""

    rates: dict[Way, list[float]]

    def median(self, way: Way) -> float:
        """Return the median of a way's rates."""
        return statistics.median(self.rates[way])

    def ratio(self, beside: Way) -> float:
        """Return the median of the rounds' ratios of concurrent publishers to another way."""
        pairs = zip(self.rates[Way.MANY], self.rates[beside], strict=True)
        return statistics.median(many / other for many, other in pairs)


class DurableWrites:
    """One kind of write: an event alone, or with a business row."""

    def __init__(self, database: Database, *, with_row: bool, publishers: int) -> None:
        self._database = database
        self._with_row = with_row
        self._publishers = publishers
        self._batches = count()

    async def measure(self, writes: int, alone: int, rounds: int) -> Rounds:
        """Write so many rows in every way and round, `alone` of them where one publisher does it."""
        ways: dict[Way, Callable[[], Awaitable[int]]] = {
            Way.ONE: lambda: self._publish(1, alone),
            Way.MANY: lambda: self._publish(self._publishers, writes),
            Way.BATCH: lambda: self._batch(writes),
        }
        for way in ways.values():
            await way()  # statements are compiled, pages are there
        rates: dict[Way, list[float]] = {way: [] for way in ways}
        for number in range(rounds):
            order = list(ways) if number % 2 == 0 else list(ways)[::-1]
            for name in order:
                started = time.perf_counter()
                written = await ways[name]()
                rates[name].append(written / (time.perf_counter() - started))
        return Rounds(rates)

    async def _publish(self, publishers: int, writes: int) -> int:
        each = max(1, writes // publishers)

        async def work() -> None:
            for _ in range(each):
                await self._write()

        await asyncio.gather(*(work() for _ in range(publishers)))
        return each * publishers

    async def _write(self) -> None:
        event = new_event(CREATED, "durable", PAYLOAD)
        if not self._with_row:
            await self._database.append(event)
            return

        def unit(tx: Transaction) -> None:
            tx.conn.execute(_INSERT_ROW, _business_row(event))
            publish(tx, event)

        await self._database.write(unit)

    async def _batch(self, writes: int) -> int:
        stream = f"batch {new_id()} {next(self._batches)}"
        events = [new_event(CREATED, "durable", PAYLOAD) for _ in range(writes)]

        def unit(tx: Transaction) -> None:
            if self._with_row:
                tx.conn.execute(_INSERT_ROW, [_business_row(event) for event in events])
            tx.conn.execute(_INSERT_EVENT, _event_rows(stream, events))

        await self._database.write(unit)
        return writes


def _business_row(event: Event) -> dict[str, Any]:
    return {
        "user_id": "u1",
        "key": event.id,
        "request_hash": "-",
        "answer": None,
        "created_at": event.created_at,
    }


def _event_rows(stream: str, events: Sequence[Event]) -> list[dict[str, Any]]:
    return [
        {
            "stream": stream,
            "offset": offset,
            "id": event.id,
            "type": event.spec.name,
            "payload": event.encoded.decode(),
            "user_id": None,
            "subject": event.subject,
            "actor": None,
            "node": "bench",
            "hop": 0,
            "traceparent": None,
            "created_at": event.created_at,
        }
        for offset, event in enumerate(events, start=1)
    ]
