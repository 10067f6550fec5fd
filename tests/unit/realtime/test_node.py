"""Nodes: leases, take-over by a conditional update, and what a lost node may no longer write (R9, R10)."""

import asyncio

import pytest
from sqlalchemy import insert, select, update

from backend.app.config import Settings
from backend.app.database import Database, Transaction, WriteHooks
from backend.app.models import EventRecord, PluginCursor
from backend.app.models import Node as NodeRow
from backend.app.models.columns import now
from backend.app.realtime.event import Event, new_event
from backend.app.realtime.node import Node, register, release, renew, require_node, take_over
from backend.app.realtime.node_hooks import NodeHooks
from backend.app.realtime.plugin_cursors import CursorKey, read_born, remove_unclaimed, write_cursors
from backend.app.realtime.unit_of_work import publish, write_hooks
from backend.app.schemas.errors import ErrorCode, WindFlowError
from backend.app.schemas.websocket_events import core_catalogue

CATALOGUE = core_catalogue()
LEASE_SECONDS = 30.0


def event_of(deployment_id: str = "d1", organization: str = "o1") -> Event:
    payload = {"deploymentId": deployment_id, "newStatus": "running"}
    return new_event(CATALOGUE["DEPLOYMENT_STATUS_CHANGED"], organization, payload)


def hooks_of(node: Node, committed: list[Event], *plugins: str) -> NodeHooks:
    """The hooks of a node with these plugins."""

    def make(id_: str) -> WriteHooks:
        return write_hooks(id_, committed.append)

    hooks = NodeHooks(node, make)
    hooks.plugins = frozenset(plugins)
    return hooks


async def as_node(database: Database, settings: Settings, *plugins: str) -> tuple[Database, NodeHooks, list[Event]]:
    """Another connection to the same database, as a registered node."""
    committed: list[Event] = []
    hooks = hooks_of(Node(), committed, *plugins)
    other = Database()
    await other.connect(settings, hooks.hooks)
    await other.write(lambda tx: register(tx, hooks.node, LEASE_SECONDS))
    return other, hooks, committed


async def cursors(database: Database) -> dict[CursorKey, int]:
    async with database.session() as session:
        rows = await session.execute(select(PluginCursor.__table__))
        return {CursorKey(row.node, row.stream, row.plugin): row.offset for row in rows}


def lapse(node: Node):  # type: ignore[no-untyped-def]
    """End a node's lease."""

    def unit(tx: Transaction) -> None:
        tx.conn.execute(update(NodeRow).where(NodeRow.id == node.id).values(lease_until=now().replace(year=2000)))

    return unit


async def test_a_cursor_is_committed_with_the_first_append(database: Database, settings: Settings) -> None:
    """R9: the cursor's row is committed no later than the node's first append to that stream."""
    await database.write(lambda tx: publish(tx, event_of()))
    other, hooks, _ = await as_node(database, settings, "bell", "mail")
    try:
        for _ in range(2):
            await other.write(lambda tx: publish(tx, event_of()))
        node = hooks.node.id
        assert await cursors(database) == {CursorKey(node, "org:o1", name): 1 for name in ("bell", "mail")}
        # A plugin that comes later starts with the next event; the others keep theirs.
        hooks.plugins = frozenset({"bell", "late"})
        await other.write(lambda tx: publish(tx, event_of()))
        assert (await cursors(database))[CursorKey(node, "org:o1", "late")] == 3
        assert (await cursors(database))[CursorKey(node, "org:o1", "bell")] == 1
    finally:
        await other.disconnect()


async def test_a_rolled_back_append_opens_nothing(database: Database, settings: Settings) -> None:
    """What was not committed is made again by the next append."""
    other, hooks, _ = await as_node(database, settings, "bell")

    def refused(tx: Transaction) -> None:
        publish(tx, event)
        tx.conn.execute(insert(EventRecord).values(**row))

    try:
        event = await other.write(lambda tx: publish(tx, event_of("d1", "o2")))
        row = {
            "stream": "org:o1", "offset": 1, "id": "0", "type": "X", "payload": "{}", "node": "n", "hop": 0,
            "created_at": now(),
        }  # fmt: skip
        event = event_of()
        # Its number is taken in the same transaction: the append fails when it is stored.
        with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
            await other.write(refused)
        assert CursorKey(hooks.node.id, "org:o1", "bell") not in await cursors(database)
        await other.write(lambda tx: publish(tx, event_of()))
        assert (await cursors(database))[CursorKey(hooks.node.id, "org:o1", "bell")] == 0
    finally:
        await other.disconnect()


async def test_a_lost_node_appends_nothing_and_moves_no_cursor(database: Database, settings: Settings) -> None:
    """R10: take-over raises the generation; appends and cursor writes check it in their transaction."""
    other, hooks, committed = await as_node(database, settings, "bell")
    told: list[bool] = []
    hooks.on_lost = lambda: told.append(True)
    try:
        await other.write(lambda tx: publish(tx, event_of()))
        old = hooks.node.id
        await database.write(lapse(hooks.node))
        (taken,) = await database.write(lambda tx: take_over(tx, "heir", LEASE_SECONDS, 10))
        assert (taken.id, taken.generation) == (old, 1)
        with pytest.raises(WindFlowError) as refusal:
            await other.write(lambda tx: publish(tx, event_of()))
        assert refusal.value.code is ErrorCode.STORAGE_UNAVAILABLE
        assert (len(committed), told) == (1, [True])
        key = CursorKey(old, "org:o1", "bell")
        assert await other.write(lambda tx: write_cursors(tx, {old: 0}, {key: 1}, ())) == {old}
        assert (await cursors(database))[key] == 0
        assert await other.write(lambda tx: renew(tx, old, {old: 0}, LEASE_SECONDS)) == {old}
        assert await database.write(lambda tx: write_cursors(tx, {old: 1}, {key: 1}, ())) == set()
        # It goes on as a new node.
        new = Node()
        await other.write(lambda tx: register(tx, new, LEASE_SECONDS))
        hooks.become(new)
        event = await other.write(lambda tx: publish(tx, event_of()))
        assert event.node == new.id != old
        assert (await cursors(database))[CursorKey(new.id, "org:o1", "bell")] == 1
    finally:
        await other.disconnect()


async def test_a_cursor_never_falls(database: Database, settings: Settings) -> None:
    """I8: a plugin cursor never falls."""
    other, hooks, _ = await as_node(database, settings, "bell")
    try:
        for _ in range(5):
            await other.write(lambda tx: publish(tx, event_of()))
        key, nodes = CursorKey(hooks.node.id, "org:o1", "bell"), {hooks.node.id: 0}
        for offset in (4, 2):
            await other.write(lambda tx, offset=offset: write_cursors(tx, nodes, {key: offset}, ()))  # type: ignore[misc]
        assert (await cursors(database))[key] == 4
    finally:
        await other.disconnect()


async def test_a_lease_that_lasts_is_respected_where_nodes_share_a_database(
    database: Database, settings: Settings
) -> None:
    """On PostgreSQL by lease; on SQLite at once, since the lock on the data folder proves the others dead."""
    node = Node()
    await database.write(lambda tx: register(tx, node, LEASE_SECONDS))
    taken = await database.write(lambda tx: take_over(tx, "heir", LEASE_SECONDS, 10))
    assert [each.id for each in taken] == ([node.id] if database.is_sqlite else [])
    await database.write(lapse(node))
    if not database.is_sqlite:
        assert await database.write(lambda tx: renew(tx, node.id, {node.id: 0}, LEASE_SECONDS)) == set()
        assert not await database.write(lambda tx: take_over(tx, "heir", LEASE_SECONDS, 10))
        await database.write(lambda tx: release(tx, node.id))  # Without cursors nothing is left of it.
        async with database.session() as session:
            assert (await session.execute(select(NodeRow.id))).all() == []


async def test_of_two_heirs_one_takes_over(database: Database) -> None:
    """Take-over is a conditional update: everything has one owner."""
    nodes = [Node() for _ in range(5)]
    for node in nodes:
        await database.write(lambda tx, node=node: register(tx, node, LEASE_SECONDS))  # type: ignore[misc]
        await database.write(lapse(node))
    heirs = ("a", "b") if not database.is_sqlite else ("a",)
    found = await asyncio.gather(
        *(database.write(lambda tx, heir=heir: take_over(tx, heir, LEASE_SECONDS, 10)) for heir in heirs)  # type: ignore[misc]
    )
    taken = [each.id for part in found for each in part]
    rest = await database.write(lambda tx: take_over(tx, heirs[0], LEASE_SECONDS, 10))
    assert sorted(taken + [each.id for each in rest if each.id not in taken]) == sorted(node.id for node in nodes)
    assert len(taken) == len(set(taken))


async def test_an_append_that_runs_is_waited_for_by_the_take_over(database: Database, settings: Settings) -> None:
    """No append of a node comes after its take-over: one that checked before commits before."""
    if database.is_sqlite:
        return  # One writer: transactions do not overlap.
    node = Node()
    await database.write(lambda tx: register(tx, node, LEASE_SECONDS))
    await database.write(lapse(node))
    async with database.session(write=True) as session:
        await session.run_sync(lambda sync: require_node(sync.connection(), node))
        assert not await database.write(lambda tx: take_over(tx, "heir", LEASE_SECONDS, 10))
        # Its lease can be renewed beside.
        assert await database.write(lambda tx: renew(tx, node.id, {node.id: 0}, LEASE_SECONDS)) == set()
    await database.write(lapse(node))
    assert len(await database.write(lambda tx: take_over(tx, "heir", LEASE_SECONDS, 10))) == 1


async def test_what_waits_for_a_plugin_that_is_gone_is_given_up(database: Database, settings: Settings) -> None:
    """Housekeeping: cursors of dead nodes for plugins that are not here are removed after their time, and counted."""
    other, hooks, _ = await as_node(database, settings, "gone")
    try:
        for _ in range(3):
            await other.write(lambda tx: publish(tx, event_of()))
    finally:
        await other.disconnect()
    await database.write(lapse(hooks.node))
    await database.write(lambda tx: take_over(tx, "heir", LEASE_SECONDS, 10))
    moment = now()
    early = moment.replace(year=moment.year - 1)
    late = moment.replace(year=moment.year + 1)
    assert await database.write(lambda tx: remove_unclaimed(tx, "heir", (), early)) == []
    assert await database.write(lambda tx: remove_unclaimed(tx, "heir", ("gone",), late)) == []
    (left,) = await database.write(lambda tx: remove_unclaimed(tx, "heir", (), late))
    assert (left.key.plugin, left.count) == ("gone", 3)
    assert await cursors(database) == {}


async def test_only_what_was_born_on_a_node_is_read(database: Database, settings: Settings) -> None:
    """R7: the dispatcher reads `node = me AND offset > mark` in offset order."""
    other, hooks, _ = await as_node(database, settings)
    try:
        for writer in (other, database, other, other):
            await writer.write(lambda tx: publish(tx, event_of()))
        async with database.session() as session:
            place = (hooks.node.id, "org:o1")
            events = await read_born(session, CATALOGUE, place, (1, 4), 10)
            none = await read_born(session, CATALOGUE, place, (1, 4), 10, ("AUTH_LOGOUT",))
        assert [event.offset for event in events] == [3, 4]
        assert none == []
    finally:
        await other.disconnect()
