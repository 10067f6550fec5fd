"""Threads for the plain `def` hooks of one plugin, so that blocking code does not block the server.

Called by the supervisor. A thread cannot be cancelled: a call whose caller gave up holds its
thread until it returns, and counts as stuck. Invariant: never more than `limit` threads.
"""

import asyncio
import contextvars
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any


class _Job:
    """One call of a function, from the queue to its outcome."""

    def __init__(self, function: Callable[[], Any], loop: asyncio.AbstractEventLoop) -> None:
        self.function = function
        self.loop = loop
        self.ended: asyncio.Future[None] = loop.create_future()
        self.context = contextvars.copy_context()
        self.value: Any = None
        self.error: BaseException | None = None
        self.has_returned = False
        self.thread_id: int | None = None

    def run(self) -> None:
        self.thread_id = threading.get_ident()
        try:
            self.value = self.context.run(self.function)
        except BaseException as error:  # noqa: BLE001 - sys.exit() in a plugin's thread is a failure like any other
            self.error = error

    def tell(self) -> None:
        """Wake the caller; its loop may be closed by now, then nobody waits."""
        try:
            self.loop.call_soon_threadsafe(self._wake)
        except RuntimeError:
            return

    def _wake(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


class PluginThreads:
    """At most `limit` daemon threads, started when there is work and ended when there is none."""

    def __init__(self, plugin: str, limit: int) -> None:
        self.plugin = plugin
        self.limit = limit
        self._lock = threading.Lock()
        self._waiting: deque[_Job] = deque()
        self._threads = 0
        self._stuck: list[_Job] = []

    @property
    def is_exhausted(self) -> bool:
        """Whether all threads are held by calls that nobody waits for any more."""
        return len(self._stuck) >= self.limit

    def position(self) -> str | None:
        """Return `file:line in function` of the call that got stuck last, None if there is none."""
        with self._lock:
            thread_id = self._stuck[-1].thread_id if self._stuck else None
        frame = sys._current_frames().get(thread_id) if thread_id is not None else None
        if frame is None:
            return None
        return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name} (thread)"

    async def run(self, function: Callable[[], Any]) -> Any:
        """Call the function in a thread and return its value, or raise what it raised.

        Cancelled while it waits for a thread, it is not called at all. Cancelled while it runs, the
        function goes on: CancelledError is raised when it has returned, and until then it is stuck.
        """
        job = _Job(function, asyncio.get_running_loop())
        self._submit(job)
        cancelled: asyncio.CancelledError | None = None
        while not job.ended.done():
            try:
                await asyncio.wait([job.ended])
            except asyncio.CancelledError as error:
                if self._withdraw(job):
                    raise
                cancelled = error
        if cancelled is not None:
            raise cancelled
        if job.error is not None:
            raise job.error
        return job.value

    def _submit(self, job: _Job) -> None:
        with self._lock:
            self._waiting.append(job)
            if self._threads >= self.limit:
                return
            self._threads += 1
        try:
            threading.Thread(target=self._work, name=f"plugin-{self.plugin}", daemon=True).start()
        except BaseException:
            with self._lock:
                self._threads -= 1
                if job in self._waiting:
                    self._waiting.remove(job)
            raise

    def _withdraw(self, job: _Job) -> bool:
        """Take a job back that no thread has begun, and tell whether that was possible; else it is stuck."""
        with self._lock:
            if job in self._waiting:
                self._waiting.remove(job)
                return True
            if job not in self._stuck and not job.has_returned:
                self._stuck.append(job)
            return False

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads -= 1
                    return
                job = self._waiting.popleft()
            job.run()
            with self._lock:
                job.has_returned = True
                if job in self._stuck:
                    self._stuck.remove(job)
            job.tell()
