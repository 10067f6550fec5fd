"""A deployment's row: found under its lock, changed, and shown as it crosses the wire.

Used by everything that reports or changes a deployment. Who holds the row's lock is alone with
the deployment until the unit of work ends; a row of another organization does not exist.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

from sqlalchemy import Row, Table, bindparam, select, update

from backend.app.database import Transaction
from backend.app.models import Deployment
from backend.app.operations.stored_text import is_storable
from backend.app.schemas.errors import ErrorCode, WindFlowError, not_found
from backend.app.schemas.times import wire_time

ACTIVE = ("pending", "running")
"""The statuses from which a deployment can still go on; all others are its end."""

# Made once: every report runs them. On SQLite the writer is alone and the locking clause is left out.
_DEPLOYMENTS = cast(Table, Deployment.__table__)
_LOCKED = select(_DEPLOYMENTS).where(_DEPLOYMENTS.c.id == bindparam("row_id")).with_for_update()
_CHANGE = update(_DEPLOYMENTS).where(_DEPLOYMENTS.c.id == bindparam("row_id"))


def lock(tx: Transaction, deployment_id: str, can_reach: Callable[[str], bool]) -> Row[Any]:
    """Return the row, locked until the unit ends; raise `not_found` if its organization cannot be reached."""
    row = find_locked(tx, deployment_id)
    if row is None or not can_reach(row.organization_id):
        raise missing()
    return row


def find_locked(tx: Transaction, deployment_id: str) -> Row[Any] | None:
    """Return the row of any organization, locked until the unit ends; None if there is none."""
    if not is_storable(deployment_id):
        return None
    return tx.conn.execute(_LOCKED, {"row_id": deployment_id}).first()


def missing() -> WindFlowError:
    """Make the one answer for a deployment that does not exist or belongs to another organization."""
    return not_found("deployment")


def change(tx: Transaction, row: Row[Any], columns: Mapping[str, Any]) -> dict[str, Any]:
    """Store changed columns of a locked row and return all of its columns as they are now."""
    if columns:
        tx.conn.execute(_CHANGE, {**columns, "row_id": row.id})
    return {**row._mapping, **columns}


def shown(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a deployment as it crosses the wire."""
    return {
        "id": row["id"],
        "organizationId": row["organization_id"],
        "name": row["name"],
        "target": row["target"],
        "program": row["program"],
        "status": row["status"],
        "reason": row["reason"],
        "exitCode": row["exit_code"],
        "progress": row["progress"],
        "step": row["step"],
        "lastLine": row["last_line"],
        "logBytes": row["log_bytes"],
        "createdBy": row["created_by"],
        "createdByName": row["created_by_name"],
        "createdAt": wire_time(row["created_at"]),
        "startedAt": _time(row["started_at"]),
        "finishedAt": _time(row["finished_at"]),
        "cancelRequestedAt": _time(row["cancel_requested_at"]),
        "cancelRequested": row["cancel_requested_at"] is not None,
        "leaseUntil": _time(row["lease_until"]),
    }


def reported(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return what every report of a runner is answered."""
    return {"cancelRequested": row["cancel_requested_at"] is not None, "leaseUntil": _time(row["lease_until"])}


def closed(row: Row[Any]) -> WindFlowError:
    """Make the refusal of a report that comes after a deployment's end; its details tell the end."""
    return WindFlowError(ErrorCode.DEPLOYMENT_CLOSED, details={"status": row.status, "reason": row.reason})


def _time(moment: Any) -> str | None:
    return None if moment is None else wire_time(moment)
