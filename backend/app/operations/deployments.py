"""What can be done with a deployment, once, for routes, socket commands, plugins and the command line.

Each act is one unit of work: the row under its lock, its audit entry and its events. POSTs are
answered again for the same Idempotency-Key. Reading is in `deployment_reads`, lines in
`deployment_logs`; callers use them through `Deployments`.
"""

import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Row, delete, select

from backend.app.auth.permissions import Caller
from backend.app.config import Settings
from backend.app.database import Database, Transaction
from backend.app.models import Deployment, LatestValue, Organization
from backend.app.models.columns import new_id, now
from backend.app.operations.deployment_logs import DeploymentLogs, LogLine
from backend.app.operations.deployment_reads import DeploymentFilter, DeploymentReads, LogQuery
from backend.app.operations.deployment_reports import DeploymentReports
from backend.app.operations.deployment_rows import ACTIVE, change, closed, find_locked, lock, shown
from backend.app.operations.deployment_status import check, may_return, move
from backend.app.operations.idempotency import once
from backend.app.operations.insert_absent import insert_absent
from backend.app.operations.leases import claim, is_held, lease_columns, runner_of
from backend.app.operations.log_retention import EVERYTHING, Removed, remove_lines
from backend.app.operations.stored_text import refuse_nul
from backend.app.realtime.event import new_event, stream_of
from backend.app.realtime.unit_of_work import audit, publish
from backend.app.schemas.errors import ErrorCode, WindFlowError, field_error, not_found
from backend.app.schemas.event_spec import Delivery, EventCatalogue, Payload
from backend.app.schemas.websocket_events import DeploymentCancelRequested, DeploymentCreated, DeploymentDeleted


@dataclass(frozen=True, slots=True)
class NewDeployment:
    """What a caller says about a deployment to be created."""

    name: str
    deployment_id: str | None = None
    """Made by the client, so that creating can be repeated; None: made here."""
    target: str | None = None
    program: str | None = None
    organization_id: str | None = None
    """Default: the caller's. Another one: superusers only."""


class Deployments:
    """The operations on deployments."""

    def __init__(self, db: Database, settings: Settings, catalogue: EventCatalogue) -> None:
        self._db = db
        self._settings = settings
        self._catalogue = catalogue
        self._reads = DeploymentReads(db, settings)
        self.logs = DeploymentLogs(settings, catalogue)
        """For units of work that append lines along with something else."""
        self.reports = DeploymentReports(settings, catalogue)
        """For units of work that report progress along with something else."""

    # ---- acts of people and runners -------------------------------------------------------------

    async def create(self, caller: Caller, new: NewDeployment) -> tuple[dict[str, Any], bool]:
        """Create a deployment and return it, with True if it is new and False if id and content were there already.

        A runner that creates one holds its lease. Raises `id_taken`, `forbidden` and `not_found`
        (the organization).
        """
        refuse_nul(
            deploymentId=new.deployment_id, name=new.name, target=new.target, program=new.program,
            organizationId=new.organization_id,
        )  # fmt: skip
        organization_id = caller.organization(new.organization_id)

        answer = await self._once(caller, lambda tx: self._create(tx, caller, new, organization_id))
        return answer["deployment"], answer["isNew"]

    def _create(self, tx: Transaction, caller: Caller, new: NewDeployment, organization_id: str) -> dict[str, Any]:
        known = tx.conn.scalar(select(Organization.id).where(Organization.id == organization_id))
        if known is None:
            raise not_found("organization")
        content = [organization_id, new.name, new.target, new.program]
        moment, runner = now(), runner_of(caller)
        row = {
            "id": new.deployment_id or new_id(),
            "organization_id": organization_id,
            "name": new.name,
            "target": new.target,
            "program": new.program,
            "status": "pending",
            "last_line": 0,
            "log_bytes": 0,
            "created_by": caller.principal.user_id,
            "created_by_name": caller.principal.username,
            "created_at": moment,
            "request_hash": hashlib.sha256(orjson.dumps(content)).hexdigest(),
            **(lease_columns(runner, moment, self._settings.deployment_lease_seconds) if runner else {}),
        }
        is_new = bool(insert_absent(tx.conn, Deployment, [row], Deployment.id))
        stored = find_locked(tx, str(row["id"]))
        if stored is None or stored.request_hash != row["request_hash"] or not caller.can_reach(stored.organization_id):
            raise WindFlowError(ErrorCode.ID_TAKEN, "deploymentId: this id belongs to another deployment")
        if is_new:
            payload = DeploymentCreated(
                deployment_id=stored.id,
                deployment_name=stored.name,
                target=stored.target,
                status="pending",
                created_by=stored.created_by,
            )
            self._publish(tx, caller, organization_id, "DEPLOYMENT_CREATED", payload)
            _audit(tx, caller, "deployment.create", stored, name=stored.name, runsOn=stored.target)
        return {"deployment": shown(stored._mapping), "isNew": is_new}

    async def change_status(
        self, caller: Caller, deployment_id: str, status: str, reason: str | None = None, exit_code: int | None = None
    ) -> dict[str, Any]:
        """Take a deployment to a status and return it; the status it has already changes nothing.

        A lost runner may take its deployment up again (`failed` → `running`) for
        `runner_return_seconds`. Raises `not_found`, `lease_held`, `invalid_transition`.
        """
        refuse_nul(reason=reason)
        if exit_code is not None and status in ACTIVE:
            raise field_error(ErrorCode.INVALID_PAYLOAD, "exitCode", "only with success, failed or cancelled")

        def unit(tx: Transaction) -> dict[str, Any]:
            row = lock(tx, deployment_id, caller.can_reach)
            moment = now()
            lease = claim(caller, row, moment, self._settings.deployment_lease_seconds)
            is_return = may_return(row, runner_of(caller), moment, self._settings.runner_return_seconds)
            # What a lost runner says of the end is news, although the server called it failed, too.
            if row.status == status and not is_return:
                return shown(change(tx, row, lease if status in ACTIVE else {}))
            check(row, status, is_return=is_return)
            spec = self._catalogue["DEPLOYMENT_STATUS_CHANGED"]
            after = move(
                tx, spec, caller, row, status, moment=moment, reason=reason, exit_code=exit_code, columns=lease
            )
            return shown(after)

        return await self._db.write(unit)

    async def cancel(
        self, caller: Caller, deployment_id: str, reason: str | None = None
    ) -> tuple[dict[str, Any], bool]:
        """Ask the runner to stop, or end the deployment where no runner holds it.

        Returns the deployment, with True if a runner was asked and False if it is cancelled already.
        Asking again changes nothing. Raises `not_found` and `deployment_closed`.
        """
        refuse_nul(reason=reason)
        answer = await self._once(caller, lambda tx: self._cancel(tx, caller, deployment_id, reason))
        return answer["deployment"], answer["isAsked"]

    def _cancel(self, tx: Transaction, caller: Caller, deployment_id: str, reason: str | None) -> dict[str, Any]:
        row = lock(tx, deployment_id, caller.can_reach)
        moment = now()
        if row.status not in ACTIVE:
            raise closed(row)
        asked = {"cancel_requested_at": row.cancel_requested_at or moment}
        if not is_held(row, moment):
            spec = self._catalogue["DEPLOYMENT_STATUS_CHANGED"]
            after = move(tx, spec, caller, row, "cancelled", moment=moment, reason=reason, columns=asked)
            return {"deployment": shown(after), "isAsked": False}
        if row.cancel_requested_at is not None:
            return {"deployment": shown(row._mapping), "isAsked": True}
        payload = DeploymentCancelRequested(deployment_id=row.id, requested_by=caller.principal.user_id, reason=reason)
        self._publish(tx, caller, row.organization_id, "DEPLOYMENT_CANCEL_REQUESTED", payload)
        _audit(tx, caller, "deployment.cancel", row, reason=reason)
        return {"deployment": shown(change(tx, row, asked)), "isAsked": True}

    async def delete(self, caller: Caller, deployment_id: str) -> None:
        """Delete an ended deployment with its lines; raise `not_found` or `deployment_active`.

        Its lines go first, in bounded steps: a failure between two of them leaves it with a shorter log.
        """

        def ended(tx: Transaction) -> Row[Any]:
            row = lock(tx, deployment_id, caller.can_reach)
            if row.status in ACTIVE:
                raise WindFlowError(ErrorCode.DEPLOYMENT_ACTIVE, details={"status": row.status})
            return row

        def step(tx: Transaction) -> Removed:
            row, most = ended(tx), self._settings.housekeeping_rows
            return remove_lines(tx, row, EVERYTHING, most) if row.log_bytes else Removed()

        def unit(tx: Transaction) -> None:
            row = ended(tx)
            of_deployments = [
                name
                for name, spec in self._catalogue.items()
                if spec.delivery is Delivery.LATEST and spec.subject_field == "deploymentId"
            ]
            tx.conn.execute(
                delete(LatestValue).where(
                    LatestValue.stream == stream_of(row.organization_id), LatestValue.subject == row.id,
                    LatestValue.type.in_(of_deployments),
                )
            )  # fmt: skip
            tx.conn.execute(delete(Deployment).where(Deployment.id == row.id))
            payload = DeploymentDeleted(deployment_id=row.id, deleted_by=caller.principal.user_id)
            self._publish(tx, caller, row.organization_id, "DEPLOYMENT_DELETED", payload)
            _audit(tx, caller, "deployment.delete", row, name=row.name)

        while not (await self._db.write(step)).is_last:
            pass
        await self._db.write(unit)

    # ---- reports of runners ---------------------------------------------------------------------

    async def append_logs(
        self, caller: Caller, deployment_id: str, first_line: int, lines: Sequence[LogLine]
    ) -> dict[str, Any]:
        """Append lines and return `{nextLine, cancelRequested, leaseUntil}`; see `DeploymentLogs.append_in`."""
        return await self._once(
            caller, lambda tx: self.logs.append_in(tx, caller, deployment_id, first_line, lines, caller.can_reach)[0]
        )

    async def report_progress(self, caller: Caller, deployment_id: str, data: Mapping[str, Any]) -> dict[str, Any]:
        """Store and publish progress; return `{cancelRequested, leaseUntil}`; see `DeploymentReports.progress_in`."""
        return await self._db.write(
            lambda tx: self.reports.progress_in(tx, caller, deployment_id, data, caller.can_reach)[0]
        )

    async def heartbeat(self, caller: Caller, deployment_id: str) -> dict[str, Any]:
        """Renew the caller's lease and return `{cancelRequested, leaseUntil}`; see `DeploymentReports.beat_in`."""
        return await self._once(caller, lambda tx: self.reports.beat_in(tx, caller, deployment_id, caller.can_reach))

    # ---- reading --------------------------------------------------------------------------------

    async def list(
        self, caller: Caller, wanted: DeploymentFilter, limit: int | None = None, cursor: str | None = None
    ) -> dict[str, Any]:
        """Return a page of deployments; see `DeploymentReads.page`."""
        return await self._reads.page(caller, wanted, limit, cursor)

    async def get(self, caller: Caller, deployment_id: str) -> dict[str, Any]:
        """Return one deployment with positions; raise `not_found`."""
        return await self._reads.get(caller, deployment_id)

    async def read_logs(self, caller: Caller, deployment_id: str, query: LogQuery) -> dict[str, Any]:
        """Return a page of lines; see `DeploymentReads.log_page`."""
        return await self._reads.log_page(caller, deployment_id, query)

    async def log_text(self, caller: Caller, deployment_id: str, query: LogQuery) -> AsyncIterator[str]:
        """Return the log as text, page by page; see `DeploymentReads.log_text`."""
        return await self._reads.log_text(caller, deployment_id, query)

    # ---- shared ---------------------------------------------------------------------------------

    async def _once(self, caller: Caller, make: Callable[[Transaction], dict[str, Any]]) -> dict[str, Any]:
        """Run a POST's unit of work, or answer its Idempotency-Key again."""
        seconds = self._settings.idempotency_seconds
        return await self._db.write(lambda tx: once(tx, caller, seconds, lambda: make(tx)))

    def _publish(self, tx: Transaction, caller: Caller, organization_id: str, name: str, payload: Payload) -> None:
        event = new_event(
            self._catalogue[name],
            organization_id,
            payload,
            actor=caller.principal,
            connection_id=caller.connection_id,
            hop=caller.hop,
        )
        publish(tx, event)


def _audit(tx: Transaction, caller: Caller, act: str, row: Row[Any], **data: Any) -> None:
    audit(tx, act, caller, target=f"deployment/{row.id}", organization_id=row.organization_id, **data)
