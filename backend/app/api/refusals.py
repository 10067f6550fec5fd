"""Documents refusals in the OpenAPI page, from the one table of error codes."""

from typing import Any

from backend.app.api.schema import ErrorAnswer
from backend.app.schemas.errors import MEANING, STATUS, ErrorCode

Responses = dict[int | str, dict[str, Any]]


def refusals(*codes: ErrorCode) -> Responses:
    """Return FastAPI's `responses` for error codes, those of one status together."""
    by_status: dict[int, list[ErrorCode]] = {}
    for code in codes:
        by_status.setdefault(STATUS[code], []).append(code)
    return {
        status: {
            "model": ErrorAnswer,
            "description": " ".join(f"`{code.value}`: {MEANING[code]}" for code in members),
        }
        for status, members in sorted(by_status.items())
    }


PUBLIC = refusals(
    ErrorCode.INVALID_JSON, ErrorCode.INVALID_PAYLOAD, ErrorCode.MESSAGE_TOO_LARGE, ErrorCode.STORAGE_UNAVAILABLE
)
"""What any route may answer."""

AUTHENTICATED = {
    **PUBLIC,
    **refusals(ErrorCode.NOT_AUTHENTICATED, ErrorCode.TOKEN_EXPIRED, ErrorCode.FORBIDDEN),
}
"""What any route that needs credentials may answer."""
