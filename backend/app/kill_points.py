"""Named points at which a crash test has the process killed; on a server that nobody tests they do nothing.

`WINDFLOW_FAULT=after_commit` names a point, `after_commit:3` its third time. Honoured only with
`WINDFLOW_TEST_FAULTS=1`. Read once, when this module is imported, and not a setting: nobody who
runs a server shall meet it.
"""

import os
import signal
import threading
from collections.abc import Mapping

POINTS = ("after_commit", "before_plugin_cursor", "during_replay")
"""After a COMMIT, before anybody hears of it; when plugins have handled events, before their cursors are written;
when a page of a stream or of a log was queued for a connection that is behind."""


class KillPoint:
    """The point that an environment names, and how often it is still to be passed."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._name: str | None = None
        self._left = 1
        self._lock = threading.Lock()
        fault = environment.get("WINDFLOW_FAULT", "")
        if not fault or environment.get("WINDFLOW_TEST_FAULTS") != "1":
            return
        name, _, times = fault.partition(":")
        if name not in POINTS or (times and not (times.isdecimal() and int(times) > 0)):
            raise ValueError(f"WINDFLOW_FAULT: {fault!r} is not one of {', '.join(POINTS)}, or that and :1, :2, …")
        self._name, self._left = name, int(times or 1)

    def is_due(self, name: str) -> bool:
        """Count a point that was reached, in any thread; True when it is the one that was asked for."""
        if name != self._name:
            return False
        with self._lock:
            self._left -= 1
            return self._left == 0


_point = KillPoint(os.environ)


def reached(name: str) -> None:
    """Kill the process with SIGKILL if a test asked for it at this point."""
    if _point.is_due(name):
        os.kill(os.getpid(), signal.SIGKILL)
