"""This process as a node: its id, its lease, and what dead nodes left that it has taken over.

A node's id is new with every start. Its owner holds it by a lease and a generation that every
take-over raises; appends and cursor writes check the generation in their transaction, so that a
process that was stopped and wakes up changes nothing that is another's by now. On SQLite the lock
on the data folder proves every other node dead, and no lease is waited for.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, delete, exists, func, insert, select, true, update

from backend.app.database import Transaction
from backend.app.models.columns import new_id, now
from backend.app.models.node import Node as NodeRow
from backend.app.models.node import PluginCursor
from backend.app.schemas.errors import ErrorCode, WindFlowError

RETRY_AFTER_SECONDS = 1


@dataclass(slots=True)
class Node:
    """Who this process is. One object for everybody who asks: a lost lease gives it another id."""

    id: str = field(default_factory=new_id)
    generation: int = 0
    is_lost: bool = False
    """Another node has taken it over: nothing may be written in its name."""


@dataclass(frozen=True, slots=True)
class TakenOver:
    """A dead node that is this one's to finish."""

    id: str
    generation: int


def database_time(conn: Connection) -> datetime:
    """Return the time that leases are compared by: the database's, where several nodes have to agree on one."""
    if conn.dialect.name == "sqlite":
        return now()
    moment: datetime = conn.execute(select(func.clock_timestamp())).scalar_one()
    return moment


def register(tx: Transaction, node: Node, lease_seconds: float) -> None:
    """Store a new node, its own owner; nothing can be appended in its name before this is committed."""
    moment = database_time(tx.conn)
    tx.conn.execute(
        insert(NodeRow).values(
            id=node.id,
            owner=node.id,
            generation=node.generation,
            lease_until=moment + timedelta(seconds=lease_seconds),
            started_at=moment,
        )
    )


def held(conn: Connection, nodes: Mapping[str, int]) -> set[str]:
    """Return which of some nodes (id → generation) are still ours; none of those is taken over before this commits."""
    if not nodes:
        return set()
    # KEY SHARE: in the way of a take-over, which locks FOR UPDATE, and not of the renewal of a lease.
    found = conn.execute(
        select(NodeRow.id, NodeRow.generation)
        .where(NodeRow.id.in_(sorted(nodes)))
        .order_by(NodeRow.id)
        .with_for_update(read=True, key_share=True)
    )
    return {id_ for id_, generation in found if nodes[id_] == generation}


def require_node(conn: Connection, node: Node) -> None:
    """Refuse to go on in the name of a node that another one has taken over; the caller's transaction ends then."""
    if not node.is_lost and held(conn, {node.id: node.generation}):
        return
    node.is_lost = True
    raise WindFlowError(
        ErrorCode.STORAGE_UNAVAILABLE,
        "this server was taken for dead and is starting again as another node",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )


def renew(tx: Transaction, owner: str, nodes: Mapping[str, int], lease_seconds: float) -> set[str]:
    """Renew the lease on nodes (id → generation), and return those that are lost."""
    until = database_time(tx.conn) + timedelta(seconds=lease_seconds)
    lost = set()
    for id_ in sorted(nodes):
        renewed = tx.conn.execute(
            update(NodeRow)
            .where(NodeRow.id == id_, NodeRow.owner == owner, NodeRow.generation == nodes[id_])
            .values(lease_until=until)
        )
        if renewed.rowcount == 0:
            lost.add(id_)
    return lost


def take_over(tx: Transaction, owner: str, lease_seconds: float, most: int) -> list[TakenOver]:
    """Become the owner of at most so many nodes whose lease has ended (on SQLite: of all others)."""
    moment = database_time(tx.conn)
    has_ended: ColumnElement[bool] = true() if tx.conn.dialect.name == "sqlite" else NodeRow.lease_until < moment
    # Locked rows are an append's that still runs, or another node's that takes them over: there is a next round.
    dead = tx.conn.execute(
        select(NodeRow.id, NodeRow.generation)
        .where(NodeRow.owner != owner, has_ended)
        .order_by(NodeRow.id)
        .limit(most)
        .with_for_update(skip_locked=True)
    ).all()
    for id_, generation in dead:
        tx.conn.execute(
            update(NodeRow)
            .where(NodeRow.id == id_, NodeRow.generation == generation)
            .values(
                owner=owner,
                generation=generation + 1,
                lease_until=moment + timedelta(seconds=lease_seconds),
                taken_at=func.coalesce(NodeRow.taken_at, moment),
            )
        )
    return [TakenOver(id_, generation + 1) for id_, generation in dead]


def remove_finished(tx: Transaction, owner: str, but: Collection[str]) -> None:
    """Remove nodes of ours of which no cursor is left, except some."""
    tx.conn.execute(
        delete(NodeRow).where(
            NodeRow.owner == owner,
            NodeRow.id.not_in(sorted(but)),
            ~exists().where(PluginCursor.node == NodeRow.id),
        )
    )


def release(tx: Transaction, owner: str) -> None:
    """End all leases of ours: another node, or the next start, goes on at once."""
    remove_finished(tx, owner, ())
    tx.conn.execute(update(NodeRow).where(NodeRow.owner == owner).values(lease_until=database_time(tx.conn)))
