"""Tells whether a thread was kept from running by the machine: on an overloaded one, time that passes is not its own.

Used by the watchdog, which judges a thread by the time that it takes.
"""

from pathlib import Path

_LEAST_SHARE = 0.25
"""Who wanted to run and got less of the time than this was kept waiting."""
_NANOSECONDS = 1e-9


class ThreadShare:
    """Looks at one thread of this process in Linux's /proc. Where there is none nobody was ever kept waiting."""

    def __init__(self, native_id: int) -> None:
        self._folder = Path(f"/proc/self/task/{native_id}")

    def ran_seconds(self) -> float:
        """Return for how long the thread has run on a processor since it began."""
        try:
            return int((self._folder / "schedstat").read_bytes().split()[0]) * _NANOSECONDS
        except (OSError, IndexError, ValueError):
            return 0.0

    def was_kept_waiting(self, ran_before: float, seconds: float) -> bool:
        """Tell whether it wants to run now and had little of the last `seconds`, at whose start it had `ran_before`.

        A thread that sleeps in a call wants nothing: that is no waiting.
        """
        try:
            state = (self._folder / "stat").read_bytes().rpartition(b")")[2].split()[0]
        except (OSError, IndexError):
            return False
        return state == b"R" and self.ran_seconds() - ran_before < _LEAST_SHARE * seconds
