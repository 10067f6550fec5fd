"""The longest log line: where a longer one is cut, and the mark that says so.

Pure; used where lines are stored and where they are made. A cut line, mark included, fits the
limit and says how much of it is left: nothing is shortened in silence.
"""


def cut_line(text: str, limit_bytes: int) -> str:
    """Return the text, or its start and ` … [cut: K of N bytes kept]` when it is over the limit (bytes of UTF-8).

    A limit below the mark's own length leaves the mark alone, so that it is the only thing above the limit.
    """
    encoded = text.encode()
    if len(encoded) <= limit_bytes:
        return text
    room = max(0, limit_bytes - len(_mark(len(encoded), len(encoded)).encode()))
    kept = encoded[:room].decode("utf-8", "ignore")
    return kept + _mark(len(kept.encode()), len(encoded))


def _mark(kept_bytes: int, total_bytes: int) -> str:
    return f" … [cut: {kept_bytes} of {total_bytes} bytes kept]"
