"""The listening socket of `windflow serve`: bound before anything else, so that a taken port costs nothing."""

import errno
import socket

BACKLOG = 4096


def bind(host: str, port: int, *, further_ports: int = 0) -> socket.socket:
    """Return a listening socket on the port or, where that is taken, on one of the next `further_ports`.

    Raises OSError when there is none, or the address is not of this machine.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    for candidate in range(port, min(port + further_ports, 65535) + 1):
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
            listener.bind((address[0], candidate, *address[2:]))
            # Listening at once: with SO_REUSEADDR two sockets may bind one port, but only one may listen.
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRINUSE or candidate >= min(port + further_ports, 65535):
                raise
        else:
            listener.set_inheritable(False)
            return listener
    raise OSError(errno.EADDRINUSE, "no free port")


def free_vanished_peers(listener: socket.socket, seconds: float) -> None:
    """Let the kernel end each accepted connection whose peer acknowledges nothing for so long; nothing but on Linux.

    Accepted connections inherit it. A backstop: everything with a timer of its own is ended earlier.
    """
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(seconds * 1000))
