"""Idempotency keys: a POST that is sent again is answered again, and makes nothing twice.

Called by operations inside their `db.write(fn)`, around what they make. The key is claimed
first and stands or falls with the transaction, so a twin that runs at the same time waits on
the key's row, and a refused request leaves its key free. Answers are stored: no secrets in them.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import orjson
from sqlalchemy import bindparam, select, text, update

from backend.app.auth.permissions import Caller
from backend.app.database import Transaction
from backend.app.models.columns import UtcTime, now
from backend.app.models.idempotency import IdempotencyKey
from backend.app.operations.delete_some import delete_some
from backend.app.schemas.errors import ErrorCode, WindFlowError

# PostgreSQL waits here for a twin's transaction; SQLite runs units one after another anyway.
# An expired key is taken over in the same statement.
_CLAIM = text(
    "INSERT INTO idempotency_keys (user_id, key, request_hash, answer, created_at) "
    "VALUES (:user_id, :key, :request_hash, NULL, :created_at) "
    "ON CONFLICT (user_id, key) DO UPDATE SET request_hash = excluded.request_hash, answer = NULL, "
    "created_at = excluded.created_at WHERE idempotency_keys.created_at <= :expired RETURNING key"
).bindparams(bindparam("created_at", type_=UtcTime()), bindparam("expired", type_=UtcTime()))

_PLAIN_JSON = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS


def once(tx: Transaction, caller: Caller, seconds: float, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Call `make` unless this caller's key was used in the last `seconds`; return the first answer either way.

    Without a key it only calls `make`. `make` returns plain JSON values (no datetimes), which are
    stored in this transaction; what it raises is raised and leaves the key free. Raise `key_reused`
    when the key came with another request.
    """
    if caller.idempotency is None:
        return make()
    moment = now()
    key = {"user_id": caller.principal.user_id, "key": caller.idempotency.key}
    claimed = tx.conn.execute(
        _CLAIM,
        {
            **key,
            "request_hash": caller.idempotency.request_hash,
            "created_at": moment,
            "expired": moment - timedelta(seconds=seconds),
        },
    ).first()
    row = (IdempotencyKey.user_id == key["user_id"], IdempotencyKey.key == key["key"])
    if claimed is None:
        used = tx.conn.execute(select(IdempotencyKey.request_hash, IdempotencyKey.answer).where(*row)).one()
        if used.request_hash != caller.idempotency.request_hash:
            raise WindFlowError(ErrorCode.KEY_REUSED)
        stored: dict[str, Any] = orjson.loads(used.answer)
        return stored
    answer = make()
    tx.conn.execute(update(IdempotencyKey).where(*row).values(answer=orjson.dumps(answer, option=_PLAIN_JSON).decode()))
    return answer


def purge_expired(tx: Transaction, seconds: float, most: int) -> int:
    """Delete at most so many of the keys older than `seconds`, and return how many."""
    key = (IdempotencyKey.user_id, IdempotencyKey.key)
    expired = IdempotencyKey.created_at <= now() - timedelta(seconds=seconds)
    return delete_some(tx, IdempotencyKey, key, expired, most)
