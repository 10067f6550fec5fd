"""SIGTERM and SIGINT: the first asks for an orderly end, the second ends the process at once.

Owned by `windflow serve` from its start on. Invariant: after the first signal the process ends
within its time, also when code of a plugin blocks the loop or holds a thread: a thread of its own
sees to that. What was committed is safe, and the kernel gives the lock on the data folder back.
"""

import logging
import os
import select
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any

logger = logging.getLogger("windflow")

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Inside `with`: both signals are taken. To be used in the main thread, once per process."""

    def __init__(self, within_seconds: float) -> None:
        self._within_seconds = within_seconds
        self._previous: dict[signal.Signals, Any] = {}
        self._asked_at = 0.0
        self._read_end, self._write_end = os.pipe()
        self.is_stopping = False

    def __enter__(self) -> "StopSignals":
        # Started now: a signal handler must not start threads, it may have interrupted the start of another one.
        threading.Thread(target=self._guard, name="end of the shutdown", daemon=True).start()
        self._previous = {number: signal.signal(number, self._take) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back, unless the process is ending: then it stays guarded to its very end."""
        if not self.is_stopping:
            for number, handler in self._previous.items():
                signal.signal(number, handler)
            os.close(self._write_end)

    def left_seconds(self) -> float:
        """Return how much time is left for the shutdown; all of it before the first signal."""
        if not self.is_stopping:
            return self._within_seconds
        return max(0.0, self._asked_at + self._within_seconds - time.monotonic())

    def _take(self, number: int, _: FrameType | None) -> None:
        if self.is_stopping:
            os._exit(128 + number)
        self._asked_at = time.monotonic()
        self.is_stopping = True
        os.write(self._write_end, b"!")

    def _guard(self) -> None:
        """End the process when its time is over. Neither waits for the loop nor takes a lock."""
        if not os.read(self._read_end, 1):
            os.close(self._read_end)
            return
        time.sleep(self.left_seconds())
        _log_what_is_left()
        os._exit(0)


def _log_what_is_left() -> None:
    """Log where the main thread is; never wait for it, for it may hold the log's lock, nor for a full pipe."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    place = f"{frame.f_code.co_filename}:{frame.f_lineno} ({frame.f_code.co_name})" if frame else "its end"
    message = "the shutdown did not end in time and is cut off at %s"
    record = logger.makeRecord(logger.name, logging.ERROR, __file__, 0, message, (place,), None)
    for handler in logging.getLogger().handlers:
        if select.select([], [sys.stderr.fileno()], [], 0)[1]:
            os.write(sys.stderr.fileno(), f"{handler.format(record)}\n".encode())
