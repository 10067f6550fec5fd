"""Makes text of others safe to print on a terminal. Pure; used for every line and name that came from a server.

A stored line may hold any escape sequence; what would move the cursor, set the title or answer
back is removed, colours may stay.
"""

import re

_SEQUENCE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor moves, modes
    r"|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"  # OSC, DCS: titles, links, queries
    r"|[ -/]*[0-~])?"
)
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1a\x1c-\x1f\x7f-\x9f]")
_RESET = "\x1b[0m"


def safe_line(text: str, *, with_colours: bool) -> str:
    """Return a line without control characters, keeping colours where asked; what it coloured, it resets."""
    if "\x1b" not in text:
        return _CONTROLS.sub("", text)
    kept = _SEQUENCE.sub(lambda found: found[0] if with_colours and _COLOUR.fullmatch(found[0]) else "", text)
    kept = _CONTROLS.sub("", kept)
    return kept + _RESET if "\x1b" in kept else kept


def safe_name(text: object) -> str:
    """Return a name or a sentence of a server as plain text on one line."""
    return safe_line(str(text).replace("\n", " "), with_colours=False)
