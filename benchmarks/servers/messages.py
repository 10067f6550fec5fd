"""What the servers of this folder say: the welcome, and an event of 306 bytes with the time it was made."""

import time

WELCOME = '{"type":"AUTH_LOGIN_SUCCESS","data":{}}'
_HEAD = '{"type":"CUSTOM_EVENT","data":{"sent":"'
_MIDDLE = '","padding":"'
_END = '"}}'
_PADDING = "x" * (306 - len(_HEAD) - 20 - len(_MIDDLE) - len(_END))


def event() -> str:
    """Return a new event."""
    return f"{_HEAD}{time.monotonic_ns():020}{_MIDDLE}{_PADDING}{_END}"
