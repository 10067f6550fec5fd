"""Removes from the database what is over: idempotency keys, tickets, sessions and tokens, values nobody follows.

`main` calls `run` periodically. Invariant: each write removes a bounded number of rows, and
between two of them everybody else has a turn; several servers on one database do no harm.
"""

from collections.abc import Callable

from backend.app import metrics
from backend.app.config import Settings
from backend.app.database import Database, Transaction
from backend.app.models import ApiToken, IdempotencyKey, LatestValue, RefreshToken, Session, Ticket
from backend.app.operations.idempotency import purge_expired
from backend.app.operations.latest_values import purge_latest_values
from backend.app.operations.session_ends import purge_api_tokens, purge_refresh_tokens, purge_sessions
from backend.app.operations.tickets import purge_tickets

Purge = Callable[[Transaction], int]


class Housekeeping:
    """What is removed, and after which time."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self._db = db
        self._most = most = settings.housekeeping_rows
        kept, life, keys = (
            settings.session_retention_seconds,
            settings.refresh_token_seconds,
            settings.idempotency_seconds,
        )
        self._purges: dict[str, Purge] = {
            IdempotencyKey.__tablename__: lambda tx: purge_expired(tx, keys, most),
            Ticket.__tablename__: lambda tx: purge_tickets(tx, most),
            # Before their sessions, which otherwise would take all of them along in one write.
            RefreshToken.__tablename__: lambda tx: purge_refresh_tokens(tx, kept, life, most),
            Session.__tablename__: lambda tx: purge_sessions(tx, kept, most),
            ApiToken.__tablename__: lambda tx: purge_api_tokens(tx, kept, most),
            LatestValue.__tablename__: lambda tx: purge_latest_values(tx, settings.latest_retention_seconds, most),
        }

    async def run(self) -> dict[str, int]:
        """Remove everything that is over and return how many rows of which table.

        Raises what the database raises; what was removed before stays removed, the next run goes on.
        """
        removed = dict.fromkeys(self._purges, 0)
        for table, purge in self._purges.items():
            is_more = True
            while is_more:
                count = await self._db.write(purge)
                removed[table] += count
                metrics.ROWS_REMOVED.labels(table).inc(count)
                is_more = count >= self._most
        return removed
