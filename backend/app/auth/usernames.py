"""User names: one spelling for each, so that `Ada` and `ada` are the same person."""

import unicodedata

from backend.app.schemas.errors import ErrorCode, field_error

MAX_LENGTH = 128


def spell(username: str) -> str | None:
    """Return the stored spelling (composed, lower case), or None for what cannot be a user name."""
    # Composed once more at the end: some letters have a composed form only in lower case.
    name = unicodedata.normalize("NFC", unicodedata.normalize("NFC", username).lower())
    # isprintable() refuses control, format and separator characters, all but the ASCII space.
    return name if 1 <= len(name) <= MAX_LENGTH and name.isprintable() and " " not in name else None


def check_username(username: str, field: str = "username") -> str:
    """Return the stored spelling of a new name; raise `invalid_payload` naming the field and the rule."""
    name = spell(username)
    if name is None:
        raise field_error(ErrorCode.INVALID_PAYLOAD, field, f"1 to {MAX_LENGTH} visible characters without spaces")
    return name
