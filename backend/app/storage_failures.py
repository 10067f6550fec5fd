"""Tells a database that cannot serve at present from a statement that is wrong, and says the first in one way.

`Database` wraps what it runs in `told_as_unavailable`: a full disk, a lock that is not given, a lost or refused
connection become `storage_unavailable` for REST, sockets and plugins alike. Nothing was changed then, unless a
commit's answer was lost: who has to know repeats the request with its Idempotency-Key.
"""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.engine import ExceptionContext
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


class DatabaseUnreachable(ConnectionError):
    """The database gave no connection, or no answer in time."""


@contextmanager
def reaching() -> Iterator[None]:
    """Inside, a connection is taken: what the driver raises when it gets none is `DatabaseUnreachable`."""
    try:
        yield
    except OSError as error:  # refused, reset, no such host; a time-out is one, too
        raise DatabaseUnreachable(str(error) or "the database does not answer") from error


def explain_time_out(context: ExceptionContext) -> BaseException | None:
    """Tell a statement without an answer in time as `DatabaseUnreachable`; its connection is not used again.

    A listener of SQLAlchemy's `handle_error`: the driver raises a bare TimeoutError, and would wait for the answer
    before it rolls back.
    """
    if not isinstance(context.original_exception, TimeoutError):
        return None
    context.is_disconnect = True
    # One slow statement says nothing about the others' connections: each is asked before it is used.
    context.invalidate_pool_on_disconnect = False
    return DatabaseUnreachable("the database did not answer in time")


def is_unavailable(error: BaseException) -> bool:
    """Tell whether the database could not serve, whatever the statement was."""
    if isinstance(error, PoolTimeoutError | ConnectionError):
        return True
    if isinstance(error, sqlite3.Error):  # of a statement that went straight to the driver
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in _SQLITE
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


def log_failure(logger: logging.Logger, sentence: str, error: Exception, **extra: object) -> None:
    """Log that something failed and is tried again: in one line where the database cannot serve, else with traceback.

    Why the database cannot serve is logged where that was found out. To be called in the `except` block.
    """
    if isinstance(error, WindFlowError) and error.status == 503:
        logger.warning("%s: %s", sentence, error, extra=extra)
    else:
        logger.exception(sentence, extra=extra)
