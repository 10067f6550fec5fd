"""Keeps the event log and the logs of deployments within their limits.

`main` calls `run` periodically, often: a burst is cut back before it fills the disk. Several servers
on one database do no harm.
"""

from backend.app.config import Settings
from backend.app.database import Database
from backend.app.models import DeploymentLog, EventRecord
from backend.app.operations.event_retention import EventRetention
from backend.app.operations.log_retention import LogRetention


class Retention:
    """Everything that is kept for a time and up to an amount."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self._events = EventRetention(db, settings)
        self._logs = LogRetention(db, settings)

    async def run(self) -> dict[str, int]:
        """Remove what is too much or too old, and return how many rows of which table.

        Raises what the database raises; what was removed before stays removed, the next run goes on.
        """
        return {
            EventRecord.__tablename__: await self._events.run(),
            DeploymentLog.__tablename__: await self._logs.run(),
        }
