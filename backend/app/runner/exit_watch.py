"""Waits for the end of one child process in a thread of its own, under any event loop.

Called by `process.py`. Invariant: where the system can (Linux; macOS from Python 3.13) the ended child stays a zombie
until `release()`, so that its pid, which is also the id of its group and session, means nobody else meanwhile.
"""

import os
import threading
from collections.abc import Callable
from contextlib import suppress

UNKNOWN = 255
"""The exit code when somebody else took it, as where SIGCHLD is ignored; asyncio gives the same."""


class ExitWatch:
    """Calls `notify(code)` once, in its thread, when the child ended: code as Popen has it, -n for signal n."""

    def __init__(self, pid: int, notify: Callable[[int], object]) -> None:
        """Begins to wait."""
        self._pid = pid
        self._notify = notify
        self._released = threading.Event()
        # A daemon: a child that even SIGKILL does not end must not keep us from ending.
        self._thread = threading.Thread(target=self._run, name=f"exit-of-{pid}", daemon=True)
        self._thread.start()

    def release(self, *, wait: bool) -> None:
        """Lets the child's pid go, now or when it ends; `wait` until then (for a child that has ended)."""
        self._released.set()
        if wait:
            self._thread.join()

    def _run(self) -> None:
        with suppress(RuntimeError):  # the loop that wanted to know is closed
            self._notify(self._wait())
        self._released.wait()
        with suppress(ChildProcessError):  # nothing to take: it was taken below, or by others
            os.waitpid(self._pid, 0)

    def _wait(self) -> int:
        try:
            if not hasattr(os, "waitid"):
                return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
            result = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            return UNKNOWN
        if result is None:
            return UNKNOWN
        return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
