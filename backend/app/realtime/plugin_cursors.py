"""The table of plugin cursors: opened with a node's first append to a stream, raised in groups, inherited.

Called inside units of work, and by the dispatcher for reading. Invariants: a cursor's row is
committed no later than its node's first append to that stream, and its offset never falls.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, exists, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from backend.app.auth.permissions import Principal
from backend.app.database import Transaction
from backend.app.models.event_record import EventRecord
from backend.app.models.node import Node as NodeRow
from backend.app.models.node import PluginCursor
from backend.app.models.user import User
from backend.app.realtime import event_log
from backend.app.realtime.event import Event
from backend.app.realtime.node import held
from backend.app.schemas.event_spec import EventSpec
from backend.app.schemas.roles import Role

_OPEN = text(
    'INSERT INTO plugin_cursors (node, stream, plugin, "offset") VALUES (:node, :stream, :plugin, :offset) '
    "ON CONFLICT (node, stream, plugin) DO NOTHING"
)
_RAISE = (
    update(PluginCursor)
    .where(
        PluginCursor.node == bindparam("of_node"),
        PluginCursor.stream == bindparam("of_stream"),
        PluginCursor.plugin == bindparam("of_plugin"),
        PluginCursor.offset < bindparam("raised"),
    )
    .values(offset=bindparam("raised"))
)


@dataclass(frozen=True, slots=True, order=True)
class CursorKey:
    """Which cursor; in this order rows are locked everywhere, so that no two transactions deadlock."""

    node: str
    stream: str
    plugin: str


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits in the log behind a cursor: `count` events, the last one at `last`."""

    key: CursorKey
    offset: int
    last: int
    count: int


def open_cursors(conn: Connection, cursors: Mapping[CursorKey, int]) -> None:
    """Make cursors with the offset before their first event; those that exist stay."""
    rows = [
        {"node": key.node, "stream": key.stream, "plugin": key.plugin, "offset": offset}
        for key, offset in sorted(cursors.items())
    ]
    if rows:
        conn.execute(_OPEN, rows)


def write_cursors(
    tx: Transaction, nodes: Mapping[str, int], raised: Mapping[CursorKey, int], finished: Collection[CursorKey]
) -> set[str]:
    """Raise cursors, and remove those of dead nodes that are finished, in the name of nodes (id → generation).

    Returns the nodes that are no longer ours; nothing of theirs was written.
    """
    ours = held(tx.conn, nodes)
    rows = [
        {"of_node": key.node, "of_stream": key.stream, "of_plugin": key.plugin, "raised": offset}
        for key, offset in sorted(raised.items())
        if key.node in ours
    ]
    if rows:
        tx.conn.execute(_RAISE, rows)
    for key in sorted(finished):
        if key.node in ours:
            tx.conn.execute(delete(PluginCursor).where(_is(key)))
    return set(nodes) - ours


def remove_plugin(tx: Transaction, nodes: Mapping[str, int], plugin: str) -> None:
    """Remove the cursors of a plugin that was unregistered: when it comes back, it starts at the head."""
    for node in sorted(held(tx.conn, nodes)):
        tx.conn.execute(delete(PluginCursor).where(PluginCursor.node == node, PluginCursor.plugin == plugin))


def remove_done(tx: Transaction, node: str) -> None:
    """Remove the cursors of a node behind which there is nothing: at its end."""
    is_left = exists().where(
        EventRecord.stream == PluginCursor.stream,
        EventRecord.offset > PluginCursor.offset,
        EventRecord.node == PluginCursor.node,
    )
    tx.conn.execute(delete(PluginCursor).where(PluginCursor.node == node, ~is_left))


def remove_unclaimed(tx: Transaction, owner: str, plugins: Collection[str], before: datetime) -> list[Backlog]:
    """Remove the cursors of plugins that are not here, in nodes taken over before a moment; return what is skipped."""
    found = tx.conn.execute(
        select(PluginCursor.node, PluginCursor.stream, PluginCursor.plugin, PluginCursor.offset)
        .join(NodeRow, NodeRow.id == PluginCursor.node)
        .where(NodeRow.owner == owner, NodeRow.taken_at < before, PluginCursor.plugin.not_in(sorted(plugins)))
    ).all()
    removed = []
    for node, stream, plugin, offset in found:
        key = CursorKey(node, stream, plugin)
        last, count = _left(tx.conn, key, offset, None)
        removed.append(Backlog(key, offset, last, count))
        tx.conn.execute(delete(PluginCursor).where(_is(key)))
    return removed


def inherited(tx: Transaction, nodes: Collection[str], wanted: Mapping[str, Sequence[str] | None]) -> list[Backlog]:
    """Return what dead nodes left for plugins (name → event types, None: all), in order; also where that is nothing."""
    if not nodes or not wanted:
        return []
    cursors = tx.conn.execute(
        select(PluginCursor.node, PluginCursor.stream, PluginCursor.plugin, PluginCursor.offset)
        .where(PluginCursor.node.in_(sorted(nodes)), PluginCursor.plugin.in_(sorted(wanted)))
        .order_by(PluginCursor.node, PluginCursor.stream, PluginCursor.plugin)
    ).all()
    backlogs = []
    for node, stream, plugin, offset in cursors:
        key = CursorKey(node, stream, plugin)
        last, count = _left(tx.conn, key, offset, wanted[plugin])
        backlogs.append(Backlog(key, offset, last, count))
    return backlogs


def _left(conn: Connection, key: CursorKey, offset: int, types: Sequence[str] | None) -> tuple[int, int]:
    last, count = conn.execute(
        select(func.coalesce(func.max(EventRecord.offset), offset), func.count()).where(
            _born(key.node, key.stream, types), EventRecord.offset > offset
        )
    ).one()
    return last, count


def _is(key: CursorKey) -> ColumnElement[bool]:
    return and_(PluginCursor.node == key.node, PluginCursor.stream == key.stream, PluginCursor.plugin == key.plugin)


def _born(node: str, stream: str, types: Sequence[str] | None) -> ColumnElement[bool]:
    """Select the events of a stream that were born on a node, of some types or of all."""
    born = and_(EventRecord.stream == stream, EventRecord.node == node)
    return born if types is None else and_(born, EventRecord.type.in_(types))


async def read_born(
    session: AsyncSession,
    catalogue: Mapping[str, EventSpec],
    place: tuple[str, str],
    span: tuple[int, int],
    limit: int,
    types: Sequence[str] | None = None,
) -> list[Event]:
    """Return events of a (node, stream) after and up to the offsets of a span, in order, with who caused them."""
    columns = (User.username, User.role, User.is_superuser, User.organization_id.label("home"))
    found = await session.execute(
        select(EventRecord.__table__, *columns)
        .outerjoin(User, User.id == EventRecord.actor)
        .where(_born(*place, types), EventRecord.offset > span[0], EventRecord.offset <= span[1])
        .order_by(EventRecord.offset)
        .limit(limit)
    )
    events = []
    for row in found:
        event = event_log.event_of(row, catalogue)
        event.actor = _actor(row)
        events.append(event)
    return events


def _actor(row: Any) -> Principal | None:
    """Return who caused an event; the system for itself, and for a user that is deleted."""
    if row.username is None:
        return None
    return Principal(row.actor, row.username, row.home, Role(row.role), is_superuser=row.is_superuser)


async def oldest(
    session: AsyncSession,
    place: tuple[str, str],
    span: tuple[int, int],
    types: Sequence[str] | None,
    *,
    before: datetime | None = None,
    count: int | None = None,
) -> tuple[int, int]:
    """Return the last offset, and the number, of the oldest events in a span: made before a moment, or so many."""
    chosen = select(EventRecord.offset).where(
        _born(*place, types), EventRecord.offset > span[0], EventRecord.offset <= span[1]
    )
    if before is not None:
        chosen = chosen.where(EventRecord.created_at < before)
    if count is not None:
        chosen = chosen.order_by(EventRecord.offset).limit(count)
    part = chosen.subquery()
    last, number = (await session.execute(select(func.max(part.c.offset), func.count()).select_from(part))).one()
    return (span[0] if last is None else last), number
