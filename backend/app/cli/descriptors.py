"""File descriptors of `windflow serve`: every connection takes one, so their limit is the server's size.

The usual soft limit of 1,024 is nobody's decision: it is kept so low for programs that use `select()`, which
this one does not. It is raised to the hard limit, but not above what one process can serve.
"""

import logging
import sys

from backend.app.config import Settings, descriptor_limit

logger = logging.getLogger("windflow")

MOST = 65_536


def raise_descriptor_limit() -> None:
    """Raise the soft limit of this process to its hard limit, at most to `MOST`; never lower it."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def log_limits(settings: Settings) -> None:
    """Log how many connections there may be; warn where the descriptors do not suffice."""
    limit = descriptor_limit()
    numbers = {
        "max_connections": settings.max_connections,
        "max_tcp_connections": settings.max_tcp_connections,
        "descriptors": limit,
    }
    if max(settings.max_connections, settings.max_tcp_connections) >= limit:
        logger.warning("more connections are allowed than there are file descriptors (ulimit -n)", extra=numbers)
    else:
        logger.info("room for connections", extra=numbers)
