"""What a close code asks of a client: the table of `docs/protocol.md` as one function. Pure."""

from enum import Enum


class Duty(Enum):
    """What to do after the socket closed."""

    RECONNECT = "reconnect with back-off"
    REFRESH = "get a fresh token, then reconnect"
    LOG_IN = "log in again"
    STOP = "do not come back"


_STOP = frozenset({1002, 1003, 1007, 1009, 1010})
"""The codec's own codes: the same message would break the next connection as well."""


def duty(code: int) -> Duty:
    """Return what a client does after `code`; 1006 (and everything unknown) is a lost connection."""
    if code == 1008:
        return Duty.LOG_IN
    if code == 4009:
        return Duty.REFRESH
    if code in _STOP or 4500 <= code <= 4999:
        return Duty.STOP
    return Duty.RECONNECT
