"""Pages of lists, newest first: opaque cursors over (creation time, id).

Used by the reads behind every list of deployments and notifications. A cursor names the last
row a client has, so a page neither repeats nor skips a row when newer ones come meanwhile.
"""

import base64
import binascii
from datetime import UTC, datetime
from typing import Any

import orjson
from sqlalchemy import ColumnElement, literal, tuple_

from backend.app.models.columns import UtcTime
from backend.app.operations.stored_text import is_storable
from backend.app.schemas.errors import ErrorCode, field_error


def encode_cursor(created_at: datetime, row_id: str) -> str:
    """Return the cursor of a row."""
    return base64.urlsafe_b64encode(orjson.dumps([created_at.isoformat(), row_id])).decode().rstrip("=")


def older_than(cursor: str, created_at: Any, row_id: Any) -> ColumnElement[bool]:
    """Return the condition for the rows after a cursor; raise `invalid_payload` for one this server never made."""
    moment, last_id = _decode(cursor)
    condition: ColumnElement[bool] = tuple_(created_at, row_id) < tuple_(literal(moment, UtcTime()), literal(last_id))
    return condition


def _decode(cursor: str) -> tuple[datetime, str]:
    try:
        moment, last_id = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        parsed = datetime.fromisoformat(moment)
        if parsed.tzinfo is not None and isinstance(last_id, str) and is_storable(last_id):
            return parsed.astimezone(UTC), last_id
    except (binascii.Error, ValueError, TypeError, OverflowError):
        pass
    raise field_error(ErrorCode.INVALID_PAYLOAD, "cursor", "give back a nextCursor as it was answered")
