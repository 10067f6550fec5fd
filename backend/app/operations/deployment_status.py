"""From one status of a deployment to another: what is allowed, and the one way to do it.

Called by `Deployments` and by the lease sweeper, inside a unit of work that holds the row's
lock. Row, audit entry and event always change together.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row

from backend.app.auth.permissions import Caller
from backend.app.database import Transaction
from backend.app.operations.deployment_rows import ACTIVE, change
from backend.app.realtime.event import new_event
from backend.app.realtime.unit_of_work import audit, publish
from backend.app.schemas.errors import ErrorCode, WindFlowError
from backend.app.schemas.event_spec import EventSpec
from backend.app.schemas.websocket_events import DeploymentStatusChanged

RUNNER_LOST = "runner lost"
"""The reason of a deployment whose lease lapsed: its runner may still come back."""

TRANSITIONS: Mapping[str, tuple[str, ...]] = {
    "pending": ("running", "failed", "cancelled"),
    "running": ("success", "failed", "cancelled"),
    "success": (),
    "failed": (),
    "cancelled": (),
}
"""The statuses that each status can go to."""


def is_lost(row: Row[Any]) -> bool:
    """Tell whether the server gave the deployment up because its runner was silent."""
    return row.status == "failed" and row.reason == RUNNER_LOST and row.runner_id is not None


def may_return(row: Row[Any], runner_id: str | None, moment: datetime, return_seconds: float) -> bool:
    """Tell whether this runner may take up the deployment that was given up as lost."""
    return (
        is_lost(row)
        and runner_id == row.runner_id
        and row.finished_at is not None
        and moment <= row.finished_at + timedelta(seconds=return_seconds)
    )


def check(row: Row[Any], status: str, *, is_return: bool) -> None:
    """Raise `invalid_transition` unless the row may go to this status; `is_return`: by the lost runner itself."""
    allowed = ("running",) if is_return else TRANSITIONS[row.status]
    if status not in allowed:
        raise WindFlowError(
            ErrorCode.INVALID_TRANSITION,
            f"status: a deployment cannot go from {row.status} to {status}",
            details={"from": row.status, "to": status, "allowed": list(allowed)},
        )


def move(
    tx: Transaction,
    spec: EventSpec,
    caller: Caller,
    row: Row[Any],
    status: str,
    *,
    moment: datetime,
    reason: str | None = None,
    exit_code: int | None = None,
    columns: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Take a locked row to a status that was checked, with audit entry and event; return all of its columns.

    `columns` are stored with it (a lease, a cancel request). An end releases the lease.
    """
    changed: dict[str, Any] = {**(columns or {}), "status": status, "reason": reason, "exit_code": exit_code}
    if status in ACTIVE:
        changed |= {"started_at": row.started_at or moment, "finished_at": None}
    else:
        changed |= {"finished_at": moment, "lease_until": None}
    after = change(tx, row, changed)
    audit(
        tx,
        "deployment.status",
        caller,
        target=f"deployment/{row.id}",
        organization_id=row.organization_id,
        **{"from": row.status, "to": status, "reason": reason, "exitCode": exit_code},
    )
    payload = DeploymentStatusChanged(
        deployment_id=row.id,
        new_status=status,
        old_status=row.status,
        deployment_name=row.name,
        reason=reason,
        exit_code=exit_code,
    )
    publish(
        tx,
        new_event(
            spec,
            row.organization_id,
            payload,
            actor=caller.principal,
            connection_id=caller.connection_id,
            hop=caller.hop,
        ),
    )
    return after
