"""The end of latest values: of deployments that ended, and of subjects that nobody reports any more.

Called by housekeeping. A value that comes again later has a higher version all the same.
"""

from datetime import timedelta

from sqlalchemy import exists, literal

from backend.app.database import Transaction
from backend.app.models import Deployment, LatestValue
from backend.app.models.columns import now
from backend.app.operations.delete_some import delete_some
from backend.app.operations.deployment_rows import ACTIVE


def purge_latest_values(tx: Transaction, seconds: float, most: int) -> int:
    """Delete at most so many values that are older than `seconds` and belong to no active deployment."""
    is_active = exists().where(
        Deployment.id == LatestValue.subject,
        LatestValue.stream == literal("org:") + Deployment.organization_id,
        Deployment.status.in_(ACTIVE),
    )
    is_old = LatestValue.created_at < now() - timedelta(seconds=seconds)
    key = (LatestValue.stream, LatestValue.type, LatestValue.subject)
    return delete_some(tx, LatestValue, key, is_old & ~is_active, most)
