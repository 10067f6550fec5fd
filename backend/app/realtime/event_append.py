"""Writes the event log: numbers events, stores those of class *stream* and keeps latest values.

Called by the closing step of a unit of work only. A stream's head rises under its row's lock as
the last step of the transaction, so commit order equals offset order and `offset > last` can
never skip a late commit. Rows are locked in one order everywhere: latest values, then streams,
each by name, so that no two transactions deadlock.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ARRAY, BigInteger, Connection, String, bindparam, text

from backend.app.models.columns import UtcTime, new_id
from backend.app.realtime.event import Event
from backend.app.schemas.event_spec import Delivery

RAISE_HEAD = text(
    "INSERT INTO event_streams (stream, epoch, floor, head) VALUES (:stream, :epoch, 0, :count) "
    "ON CONFLICT (stream) DO UPDATE SET head = event_streams.head + excluded.head RETURNING epoch, head"
)

# Written as the drivers take them: this is the hottest statement there is. (column, PostgreSQL type)
_OF_EACH = (
    ("id", String()),
    ("type", String()),
    ("payload", String()),
    ("user_id", String()),
    ("subject", String()),
    ("actor", String()),
    ("node", String()),
    ("hop", BigInteger()),
    ("traceparent", String()),
    ("created_at", UtcTime()),
)
_NAMES = ", ".join(name for name, _ in _OF_EACH)
_SQLITE = f'INSERT INTO events (stream, "offset", {_NAMES}) VALUES ({", ".join("?" * (len(_OF_EACH) + 2))})'
# Head and rows in one statement: the fewer, the shorter everybody else waits for the head's lock.
_POSTGRESQL = text(
    f"WITH raised AS ({RAISE_HEAD.text}), stored AS ("
    f'INSERT INTO events (stream, "offset", {_NAMES}) '
    f"SELECT :stream, raised.head - :count + given.number, {', '.join(f'given.{name}' for name, _ in _OF_EACH)} "
    f"FROM raised, unnest({', '.join(f':{name}' for name, _ in _OF_EACH)}) "
    f"WITH ORDINALITY AS given({_NAMES}, number)) SELECT epoch, head FROM raised"
).bindparams(
    bindparam("stream", type_=String()),
    bindparam("count", type_=BigInteger()),
    *(bindparam(name, type_=ARRAY(type_)) for name, type_ in _OF_EACH),
)

# A value that comes after its row was removed has a higher version, too: it starts at the time (ms).
_KEEP_LATEST = text(
    "INSERT INTO latest_values (stream, type, subject, version, id, payload, created_at) "
    "VALUES (:stream, :type, :subject, :first_version, :id, :payload, :created_at) "
    "ON CONFLICT (stream, type, subject) DO UPDATE SET version = latest_values.version + 1, "
    "id = excluded.id, payload = excluded.payload, created_at = excluded.created_at RETURNING version"
).bindparams(bindparam("created_at", type_=UtcTime()))


def append(conn: Connection, events: Sequence[Event], node: str) -> None:
    """Number the events and store those that are kept. The last step of a transaction."""
    by_stream: dict[str, list[Event]] = {}
    latest = []
    for event in events:
        if event.spec.delivery is Delivery.STREAM:
            by_stream.setdefault(event.stream, []).append(event)
        elif event.spec.delivery is Delivery.LATEST:
            latest.append(event)
    for event in sorted(latest, key=lambda event: (event.stream, event.spec.name, event.subject or "")):
        _keep_latest(conn, event)
    store = _store_sqlite if conn.dialect.name == "sqlite" else _store_postgresql
    for stream in sorted(by_stream):
        members = by_stream[stream]
        epoch, head = store(conn, {"stream": stream, "epoch": new_id(), "count": len(members)}, members, node)
        for offset, event in enumerate(members, start=head - len(members) + 1):
            event.offset, event.epoch = offset, epoch


def _store_sqlite(conn: Connection, raised: dict[str, Any], events: Sequence[Event], node: str) -> tuple[str, int]:
    epoch, head = conn.execute(RAISE_HEAD, raised).one()
    stream, first = raised["stream"], head - len(events) + 1
    conn.exec_driver_sql(
        _SQLITE,
        [
            (stream, offset, *_values(event, node), _sqlite_time(event.created_at))
            for offset, event in enumerate(events, start=first)
        ],
    )
    return epoch, head


def _store_postgresql(conn: Connection, raised: dict[str, Any], events: Sequence[Event], node: str) -> tuple[str, int]:
    columns = zip(*((*_values(event, node), event.created_at) for event in events), strict=True)
    given = {name: list(column) for (name, _), column in zip(_OF_EACH, columns, strict=True)}
    epoch, head = conn.execute(_POSTGRESQL, {**raised, **given}).one()
    return epoch, head


def _values(event: Event, node: str) -> tuple[Any, ...]:
    """Return the columns `_OF_EACH` but the time."""
    return (
        event.id,
        event.spec.name,
        event.encoded.decode(),
        event.user_id,
        event.subject,
        event.actor.user_id if event.actor else None,
        node,
        event.hop,
        event.traceparent,
    )


def _sqlite_time(moment: datetime) -> str:
    """Return a time as the column type `UtcTime` stores it on SQLite."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")


def _keep_latest(conn: Connection, event: Event) -> None:
    event.version = conn.execute(
        _KEEP_LATEST,
        {
            "stream": event.stream,
            "type": event.spec.name,
            "subject": event.subject,
            "first_version": time.time_ns() // 1_000_000,
            "id": event.id,
            "payload": event.encoded.decode(),
            "created_at": event.created_at,
        },
    ).scalar_one()
