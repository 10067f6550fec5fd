"""Leases: whoever reports a deployment holds it, and a runner that falls silent loses it.

The rules are asked by every report, under the row's lock; `LeaseSweeper` is a task that `main`
owns. Only the lease's holder may report while it lasts; a lapsed one ends the deployment.
"""

import asyncio
import logging
import time
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import Row, select, update

from backend.app import metrics
from backend.app.auth.permissions import Caller, system_principal
from backend.app.config import Settings
from backend.app.database import Database, Transaction
from backend.app.models import Deployment
from backend.app.models.columns import now
from backend.app.operations.deployment_rows import ACTIVE, find_locked
from backend.app.operations.deployment_status import RUNNER_LOST, move
from backend.app.schemas.errors import ErrorCode, WindFlowError
from backend.app.schemas.event_spec import EventCatalogue
from backend.app.schemas.times import wire_time

logger = logging.getLogger("windflow.leases")

SWEEP_ROWS = 500
"""Most lapsed leases of one sweep; the next one goes on."""


def runner_of(caller: Caller) -> str | None:
    """Return the caller's runner id in the one spelling that is compared and stored."""
    return caller.runner_id.lower() if caller.runner_id else None


def is_held(row: Row[Any], moment: datetime) -> bool:
    """Tell whether some runner holds the deployment at this moment."""
    return row.lease_until is not None and row.lease_until > moment


def claim(caller: Caller, row: Row[Any], moment: datetime, lease_seconds: float) -> dict[str, Any]:
    """Return the columns that give or renew the caller's lease; raise `lease_held` if another one has it.

    Empty for a caller that is no runner: who reports by hand holds nothing.
    """
    runner = runner_of(caller)
    if is_held(row, moment) and runner != row.runner_id:
        raise WindFlowError(
            ErrorCode.LEASE_HELD,
            f"another runner holds this deployment until {wire_time(row.lease_until)}",
            details={"leaseUntil": wire_time(row.lease_until)},
        )
    return {} if runner is None else lease_columns(runner, moment, lease_seconds)


def lease_columns(runner_id: str, moment: datetime, lease_seconds: float) -> dict[str, Any]:
    """Return the columns of a lease that starts at this moment."""
    return {"runner_id": runner_id, "lease_until": moment + timedelta(seconds=lease_seconds)}


class LeaseSweeper:
    """Ends the deployments whose runners fell silent. One per node; several do no harm."""

    def __init__(self, db: Database, settings: Settings, catalogue: EventCatalogue) -> None:
        self._db = db
        self._settings = settings
        self._status_changed = catalogue["DEPLOYMENT_STATUS_CHANGED"]

    async def run(self) -> None:
        """Sweep every `lease_sweep_seconds` until cancelled; a database that fails is asked again next time.

        A sweep that comes late (the process was stopped, the clock jumped), or after one that the database
        failed, renews every lease instead: nobody could report meanwhile, so nobody's silence says anything.
        """
        interval = self._settings.lease_sweep_seconds
        patience = interval + self._settings.deployment_lease_seconds / 2
        last = (now(), time.monotonic())
        was_open = True
        """Whether runners could report since the last sweep."""
        while True:
            await asyncio.sleep(interval)
            wall, clock = now(), time.monotonic()
            if clock - last[1] > patience or not 0 <= (wall - last[0]).total_seconds() <= patience:
                was_open = False
            last = (wall, clock)
            try:
                await (self.sweep_once(wall) if was_open else self.renew_all())
                was_open = True
            except WindFlowError as error:
                was_open = was_open and error.code is not ErrorCode.STORAGE_UNAVAILABLE
                # Why is logged already where it was found out.
                logger.warning("could not look for lapsed leases; it is tried again: %s", error)
            except Exception:
                # Whatever failed, the next sweep must come: without it no lost runner would ever be noticed.
                logger.exception("could not look for lapsed leases; it is tried again")

    async def sweep_once(self, moment: datetime | None = None) -> list[str]:
        """End what has a lapsed lease as `failed`, reason `runner lost`; return the ids of what was ended.

        Judged by one moment, `now()` if none is given: a stop or a jump of the clock in between ends nothing.
        """
        at = moment or now()
        async with self._db.session() as session:
            found = await session.execute(
                select(Deployment.id)
                .where(Deployment.lease_until <= at, Deployment.status.in_(ACTIVE))
                .order_by(Deployment.lease_until)
                .limit(SWEEP_ROWS)
            )
            lapsed = [row.id for row in found]
        lost = []
        for deployment_id in lapsed:
            if await self._db.write(partial(self._lose, deployment_id, at)):
                lost.append(deployment_id)
                metrics.LEASES_LAPSED.inc()
                logger.info("runner lost", extra={"deployment_id": deployment_id})
        return lost

    async def renew_all(self) -> int:
        """Renew every lease once and return how many there are: a server that starts knows of nobody's silence."""

        def unit(tx: Transaction) -> int:
            until = now() + timedelta(seconds=self._settings.deployment_lease_seconds)
            held = update(Deployment).where(Deployment.lease_until.is_not(None), Deployment.status.in_(ACTIVE))
            return tx.conn.execute(held.values(lease_until=until)).rowcount

        return await self._db.write(unit)

    def _lose(self, deployment_id: str, at: datetime, tx: Transaction) -> bool:
        """End one deployment, unless it was reported, ended or deleted since it was looked at."""
        row = find_locked(tx, deployment_id)
        if row is None or row.status not in ACTIVE or row.lease_until is None or row.lease_until > at:
            return False
        caller = Caller(system_principal(row.organization_id))
        move(tx, self._status_changed, caller, row, "failed", moment=now(), reason=RUNNER_LOST)
        return True
