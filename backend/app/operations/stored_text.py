"""Text on its way into the database, and text that is looked for there.

Called by operations before they store or search what a client or a plugin gave. The invariant:
no NUL reaches the database (PostgreSQL cannot hold one), and a search finds the same rows on both.
"""

from typing import Any

from sqlalchemy import ColumnElement

from backend.app.schemas.errors import ErrorCode, FieldError, WindFlowError, field_error


def is_storable(text: str) -> bool:
    """Tell whether the database can hold a text; what it cannot hold does not exist there either."""
    return "\x00" not in text


def refuse_nul(**fields: str | None) -> None:
    """Raise `invalid_payload` naming every field (in camelCase, as the client spells it) that holds a NUL."""
    broken = [FieldError(name, "holds a NUL character") for name, text in fields.items() if text and "\x00" in text]
    if broken:
        message = "; ".join(f"{error.field}: {error.rule}" for error in broken)
        raise WindFlowError(ErrorCode.INVALID_PAYLOAD, message, fields=broken)


def contains(column: Any, part: str, *, is_sqlite: bool) -> ColumnElement[bool]:
    """Return the condition that a column holds `part`, upper and lower case alike, no character being a wildcard.

    Raises `invalid_payload` (field `q`) for a part that no stored text can hold.
    """
    if not is_storable(part):
        raise field_error(ErrorCode.INVALID_PAYLOAD, "q", "holds a NUL character")
    condition: ColumnElement[bool]
    if is_sqlite:
        # LOWER and LIKE of SQLite know only ASCII; GLOB takes both spellings of any letter.
        condition = column.op("GLOB", is_comparison=True)(f"*{''.join(map(_both_cases, part))}*")
    else:
        condition = column.icontains(part, autoescape=True)
    return condition


def _both_cases(character: str) -> str:
    spellings = {character, character.lower(), character.upper()}
    letters = "".join(sorted(spelling for spelling in spellings if len(spelling) == 1))
    # In brackets, the wildcards mean themselves.
    return f"[{letters}]" if len(letters) > 1 or letters in "*?[" else letters
