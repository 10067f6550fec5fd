"""What one `db.write(fn)` leaves besides its rows: events and audit entries, numbered together.

Operations call `publish` and `audit` inside `fn`; the closing step stores both in the same
transaction; after the commit the events go to the bus. Nothing is handed on that was not
committed, and nothing that was committed is forgotten by a cancelled caller.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Connection, insert, text

from backend.app.auth.permissions import Caller
from backend.app.database import Transaction, Unit, WriteHooks
from backend.app.models.audit_record import AuditRecord
from backend.app.models.columns import now
from backend.app.realtime.event import Event, stream_of
from backend.app.realtime.event_append import append

_RAISE_CHAIN = text(
    "INSERT INTO audit_heads (chain, head) VALUES (:chain, :count) "
    "ON CONFLICT (chain) DO UPDATE SET head = audit_heads.head + excluded.head RETURNING head"
)


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One audited act, without its number."""

    event: str
    """Name of the act: an event type, or `<thing>.<verb>` such as `user.create`."""
    caller: Caller | None
    target: str | None = None
    outcome: str = "success"
    data: Mapping[str, Any] = field(default_factory=dict)
    organization_id: str | None = None
    """Whose trail it belongs to; default: the caller's."""
    time: datetime = field(default_factory=now)


def publish(tx: Transaction, event: Event) -> Event:
    """Leave an event to be numbered with this unit and handed on after its commit; returns it."""
    tx.records.append(event)
    return event


def audit(
    tx: Transaction,
    event: str,
    caller: Caller | None,
    *,
    target: str | None = None,
    outcome: str = "success",
    organization_id: str | None = None,
    **data: Any,
) -> None:
    """Leave an audit row to be written with this unit. `data` holds the act's own facts, never a secret."""
    tx.records.append(AuditEntry(event, caller, target, outcome, data, organization_id))


def write_hooks(node: str, hand_on: Callable[[Event], None]) -> WriteHooks:
    """Return the hooks that `Database.connect` needs: `hand_on` gets each committed event, in commit order."""

    def close_group(conn: Connection, units: Sequence[Unit]) -> None:
        records = [record for unit in units for record in unit.records]
        _append_audit(conn, [record for record in records if isinstance(record, AuditEntry)])
        append(conn, [record for record in records if isinstance(record, Event)], node)

    def committed(units: Sequence[Unit]) -> None:
        for unit in units:
            for record in unit.records:
                if isinstance(record, Event):
                    hand_on(record)

    return WriteHooks(close_group, committed)


def _append_audit(conn: Connection, entries: Sequence[AuditEntry]) -> None:
    chains: dict[str, list[AuditEntry]] = {}
    for entry in entries:
        organization = entry.organization_id or (entry.caller.principal.organization_id if entry.caller else None)
        chains.setdefault(stream_of(organization or None), []).append(entry)
    rows = []
    for chain in sorted(chains):
        members = chains[chain]
        head: int = conn.execute(_RAISE_CHAIN, {"chain": chain, "count": len(members)}).scalar_one()
        for seq, entry in enumerate(members, start=head - len(members) + 1):
            rows.append(_audit_row(chain, seq, entry))
    if rows:
        conn.execute(insert(AuditRecord), rows)


def _audit_row(chain: str, seq: int, entry: AuditEntry) -> dict[str, Any]:
    caller = entry.caller
    return {
        "chain": chain,
        "seq": seq,
        "time": entry.time,
        "event": entry.event,
        "actor_id": (caller.principal.user_id or None) if caller else None,
        "actor_name": (caller.principal.username or None) if caller else None,
        "target": entry.target,
        "outcome": entry.outcome,
        "address": caller.address if caller else None,
        "request_id": caller.request_id if caller else None,
        "data": orjson.dumps(dict(entry.data), default=str).decode(),
    }
