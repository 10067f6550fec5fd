"""What the kernel holds of a client's socket: bytes that were written and that the client's side has not confirmed.

Used where a slow reader has to be told from a dead one. Whether a socket can be written does not tell: the kernel
says so again only once a third of its buffer is free, which at 1 KB/s is minutes.
"""

import fcntl
import struct
import termios
from asyncio import BaseTransport

_REQUEST = getattr(termios, "TIOCOUTQ", None)
"""Linux's SIOCOUTQ, see tcp(7). Systems that have none are judged by what the socket takes."""
_ANSWER = struct.Struct("i")


def unconfirmed_bytes(transport: BaseTransport) -> int:
    """Return how many bytes of this transport are in the kernel's send queue; 0 where that cannot be asked."""
    connection = transport.get_extra_info("socket")
    if connection is None or _REQUEST is None:
        return 0
    try:
        answer = fcntl.ioctl(connection.fileno(), _REQUEST, bytes(_ANSWER.size))
    except (OSError, ValueError):  # closed meanwhile, or not a socket that counts
        return 0
    size: int = _ANSWER.unpack(answer)[0]
    return size
