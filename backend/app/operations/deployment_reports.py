"""What a runner says while its command runs, besides lines: how far it is, and that it is there.

`Deployments` and `Events` call these inside their units of work. Every report renews the lease
of the runner that sends it; an ended deployment takes none.
"""

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Row

from backend.app.auth.permissions import Caller
from backend.app.config import Settings
from backend.app.database import Transaction
from backend.app.models.columns import now
from backend.app.operations.deployment_rows import ACTIVE, change, closed, lock, reported
from backend.app.operations.leases import claim
from backend.app.operations.stored_text import refuse_nul
from backend.app.realtime.event import Event, check_payload, new_event
from backend.app.realtime.unit_of_work import publish
from backend.app.schemas.event_spec import EventCatalogue, Sender
from backend.app.schemas.websocket_events import DeploymentProgress


class DeploymentReports:
    """Takes reports. Every method is called with a transaction that it takes part in."""

    def __init__(self, settings: Settings, catalogue: EventCatalogue) -> None:
        self._settings = settings
        self._progress = catalogue["DEPLOYMENT_PROGRESS"]

    def progress_in(
        self,
        tx: Transaction,
        caller: Caller,
        deployment_id: str,
        data: Mapping[str, Any],
        can_reach: Callable[[str], bool],
    ) -> tuple[dict[str, Any], Event]:
        """Store and publish progress; return the answer and the event.

        `data` is the payload in wire spelling; `deploymentId` may be absent. Raises `not_found`,
        `lease_held`, `deployment_closed` and `invalid_payload`.
        """
        row = lock(tx, deployment_id, can_reach)
        payload = check_payload(self._progress, {**data, "deploymentId": row.id})
        assert isinstance(payload, DeploymentProgress)
        refuse_nul(step=payload.step)
        after = self._report(tx, caller, row, {"progress": payload.progress, "step": payload.step})
        event = new_event(
            self._progress,
            row.organization_id,
            payload,
            actor=caller.principal,
            connection_id=caller.connection_id,
            hop=caller.hop,
        )
        return reported(after), publish(tx, event)

    def beat_in(
        self, tx: Transaction, caller: Caller, deployment_id: str, can_reach: Callable[[str], bool]
    ) -> dict[str, Any]:
        """Renew the caller's lease and return the answer; raise as `progress_in`."""
        return reported(self._report(tx, caller, lock(tx, deployment_id, can_reach), {}))

    def _report(self, tx: Transaction, caller: Caller, row: Row[Any], columns: Mapping[str, Any]) -> dict[str, Any]:
        # A plugin may estimate the progress of what a runner holds; it gets no lease by that.
        is_plugin = caller.sender is Sender.PLUGIN
        lease = {} if is_plugin else claim(caller, row, now(), self._settings.deployment_lease_seconds)
        if row.status not in ACTIVE:
            raise closed(row)
        return change(tx, row, {**lease, **columns})
