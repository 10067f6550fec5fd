"""F52: two nodes write into one stream; whoever commits last, no reader skips an event."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from sqlalchemy import Connection, text

from backend.app.config import Settings
from backend.app.database import Database, Transaction, Unit, WriteHooks
from backend.app.realtime import event_log
from backend.app.realtime.event import Event, new_event
from backend.app.realtime.unit_of_work import publish, write_hooks
from backend.app.schemas.websocket_events import core_catalogue
from tests.conftest import clear
from tests.proving import amount, measured

pytestmark = pytest.mark.postgres

STREAM = "org:o1"
CREATED = core_catalogue()["DEPLOYMENT_CREATED"]
BEFORE, AFTER = 52_001, 52_002
"""Gates of a transaction, as keys of advisory locks: before its event is numbered, and after."""


def created(name: str) -> Event:
    return new_event(CREATED, "o1", {"deploymentId": name, "deploymentName": name})


def publishing(name: str, gate: int | None = None) -> Callable[[Transaction], None]:
    """Return a unit that publishes; at a gate that is shut it waits before its event is numbered."""

    def unit(tx: Transaction) -> None:
        if gate is not None:
            tx.conn.execute(text("SELECT pg_advisory_xact_lock_shared(:gate)"), {"gate": gate})
        publish(tx, created(name))

    return unit


class Reader:
    """Asks for what comes after the last event it has, again and again, as every cursor does."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.offsets: list[int] = []
        self.names: list[str] = []

    async def read(self) -> list[str]:
        """Read what is there now, to the end; return all names so far."""
        while True:
            async with self._database.session() as session:
                last = self.offsets[-1] if self.offsets else 0
                page = await event_log.read_page(session, STREAM, last, 50)
            if not page.rows:
                return self.names
            self.offsets += [row.offset for row in page.rows]
            self.names += [event_log.decode(row.payload)["deploymentId"] for row in page.rows]


class Nodes:
    """Two nodes on one database, and the gates that hold their transactions."""

    def __init__(self, first: Database, second: Database, gates: Database) -> None:
        self.first, self.second, self._gates = first, second, gates

    async def waiting(self, count: int = 1) -> None:
        """Return when so many transactions wait for a lock of whatever kind."""
        wanted = text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        async with asyncio.timeout(20):
            while True:
                async with self._gates.session() as session:
                    if await session.scalar(wanted) == count:
                        return
                await asyncio.sleep(0.01)

    def shut(self, gate: int) -> "Shut":
        """Hold a gate shut within a block."""
        return Shut(self._gates, gate)


class Shut:
    def __init__(self, database: Database, gate: int) -> None:
        self._session = database.session(write=True)
        self._gate = gate

    async def __aenter__(self) -> None:
        session = await self._session.__aenter__()
        await session.execute(text("SELECT pg_advisory_xact_lock(:gate)"), {"gate": self._gate})

    async def __aexit__(self, *error: object) -> None:
        await self._session.__aexit__(None, None, None)


def _held_after(node: str) -> WriteHooks:
    """Return hooks of a node that numbers its events and then waits at `AFTER` before it commits."""
    hooks = write_hooks(node, lambda event: None)

    def close(conn: Connection, units: Sequence[Unit]) -> None:
        hooks.close_group(conn, units)
        conn.execute(text("SELECT pg_advisory_xact_lock_shared(:gate)"), {"gate": AFTER})

    return WriteHooks(close, hooks.committed)


@pytest.fixture
async def nodes(postgres_url: str) -> AsyncIterator[Nodes]:
    settings = Settings(database_url=postgres_url, database_timeout_seconds=20, unit_timeout_seconds=20)
    databases = Database(), Database(), Database()
    try:
        for node, database in enumerate(databases):
            await database.connect(settings, _held_after(f"n{node}") if node == 0 else write_hooks(f"n{node}", _nobody))
        await databases[2].create_tables()
        await clear(databases[2])
        yield Nodes(*databases)
    finally:
        for database in databases:
            await database.disconnect()


def _nobody(event: Event) -> None:
    """Take an event that no listener of the test needs."""


@pytest.mark.parametrize("is_grouped", [False, True], ids=["unit", "append"])
async def test_f52_who_started_first_commits_last(nodes: Nodes, is_grouped: bool) -> None:
    """A transaction that began first and commits last comes last in the stream: the reader, who has read, gets it."""
    reader = Reader(nodes.second)
    async with nodes.shut(BEFORE):
        first = asyncio.create_task(nodes.first.write(publishing("started first", BEFORE)))
        await nodes.waiting()
        second = created("started second")
        await (nodes.second.append(second) if is_grouped else nodes.second.write(lambda tx: publish(tx, second)))
        assert await reader.read() == ["started second"]
    await first
    assert await reader.read() == ["started second", "started first"]
    assert reader.offsets == [1, 2]


@pytest.mark.parametrize("is_grouped", [False, True], ids=["unit", "append"])
async def test_f52_a_number_that_is_taken_lets_nobody_pass(nodes: Nodes, is_grouped: bool) -> None:
    """A transaction that has its number and does not commit yet holds the next one back: none is seen before it."""
    reader = Reader(nodes.second)
    async with nodes.shut(AFTER):
        early = created("numbered first")
        first = asyncio.create_task(
            nodes.first.append(early) if is_grouped else nodes.first.write(lambda tx: publish(tx, early))
        )
        await nodes.waiting()
        late = created("numbered second")
        second = asyncio.create_task(
            nodes.second.append(late) if is_grouped else nodes.second.write(lambda tx: publish(tx, late))
        )
        await nodes.waiting(2)
        assert await reader.read() == []
        assert not second.done()
    await asyncio.gather(first, second)
    assert await reader.read() == ["numbered first", "numbered second"]
    assert reader.offsets == [1, 2]


async def test_f52_many_writers_on_two_nodes_leave_no_gap(nodes: Nodes) -> None:
    """Units and grouped publishes of two nodes at once, some of them refused: a polling reader gets every one once."""
    count = amount(120, 4_000)
    names = [f"event {number}" for number in range(count)]
    reader, dice = Reader(nodes.second), random.Random(52)
    refused = 0

    def refusing(name: str) -> Callable[[Transaction], None]:
        def unit(tx: Transaction) -> None:
            publishing(name)(tx)
            raise LookupError(name)

        return unit

    async def write(name: str) -> None:
        nonlocal refused
        node = dice.choice((nodes.first, nodes.second))
        if dice.random() < 0.2:
            refused += 1
            with pytest.raises(LookupError):
                await node.write(refusing(f"refused {name}"))
        if dice.random() < 0.5:
            await node.append(created(name))
        else:
            await node.write(publishing(name))

    async def work(mine: Sequence[str]) -> None:
        for name in mine:
            await write(name)

    writers = asyncio.gather(*(work(names[start::20]) for start in range(20)))
    while not writers.done():
        await reader.read()
        await asyncio.sleep(0)
    await writers
    await reader.read()
    assert reader.offsets == list(range(1, count + 1))
    assert sorted(reader.names) == sorted(names)
    measured(
        "F52: events of 20 writers on two nodes, one reader polling",
        f"{len(reader.names):,} read, each once, no gap",
        f"{count:,} published, {refused:,} rolled back",
    )
