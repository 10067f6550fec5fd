"""Tells a database that cannot serve at present from a statement that is wrong, and says the first in one way.

`Database` wraps what it runs in `told_as_unavailable`: a full disk, a lock that is not given, a lost or refused
connection become `storage_unavailable` for REST, sockets and plugins alike. Nothing was changed then.
"""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from backend.app import metrics
from backend.app.schemas.errors import ErrorCode, WindFlowError

logger = logging.getLogger("windflow.database")

RETRY_AFTER_SECONDS = 1

_SQLITE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
    }
)
"""Primary result codes. Not INTERRUPT: that is a unit of work that took too long, and its author has to know."""
_POSTGRES_CLASSES = ("08", "53", "57P")
"""SQLSTATE: connection exception, insufficient resources (a full disk), shutdown by an operator."""


def is_unavailable(error: BaseException) -> bool:
    """Tell whether the database could not serve, whatever the statement was."""
    if isinstance(error, PoolTimeoutError | ConnectionError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    cause = error.orig
    primary = getattr(cause, "sqlite_errorcode", 0) & 0xFF
    state = str(getattr(cause, "sqlstate", None) or "")
    return error.connection_invalidated or primary in _SQLITE or state.startswith(_POSTGRES_CLASSES)


@contextmanager
def told_as_unavailable() -> Iterator[None]:
    """Raise `storage_unavailable`, logged and counted, in place of what a database that cannot serve raises."""
    try:
        yield
    except Exception as error:
        if not is_unavailable(error):
            raise
        metrics.STORAGE_FAILURES.inc()
        reason = str(error.orig if isinstance(error, DBAPIError) else error)
        logger.error("storage unavailable: %s", reason)
        raise WindFlowError(ErrorCode.STORAGE_UNAVAILABLE, retry_after_seconds=RETRY_AFTER_SECONDS) from error
