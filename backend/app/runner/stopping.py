"""Ends a command and everything it started: asks first, then by force.

Called by `process.py`. Invariant: it takes no longer than the time to ask plus `settle_seconds`, whatever the
processes do, and names what it could not end.
"""

import asyncio
import math
import signal

from backend.app.runner.process_tree import ProcessTree


class Stopper:
    """Stops one command; `ended` is set by others when the command itself, the leader, has ended."""

    def __init__(self, tree: ProcessTree, ended: asyncio.Event, *, poll_seconds: float, settle_seconds: float) -> None:
        self._tree = tree
        self._ended = ended
        self._poll_seconds = poll_seconds
        self._settle_seconds = settle_seconds
        self._force_at = math.inf

    def force_after(self, seconds: float) -> None:
        """Sets when to use force, counted from now; a later time than the one set before changes nothing."""
        self._force_at = min(self._force_at, asyncio.get_running_loop().time() + seconds)

    async def run(self) -> tuple[int, ...]:
        """Sends SIGTERM, and SIGKILL when it is time to; returns the pids that live on nevertheless.

        No SIGHUP: servers take it for "read your settings again". What had been suspended is continued, or it could
        not obey. Outside Linux, where only the process group is known, the group gets SIGKILL as soon as the command
        itself has ended. Cancelled, it leaves the processes as they are.
        """
        self._tree.find()
        self._tree.send(signal.SIGTERM)
        self._tree.send(signal.SIGCONT)
        while asyncio.get_running_loop().time() < self._force_at and not self._is_all_gone():  # noqa: ASYNC110
            # Processes that are not our children cannot be waited for.
            await asyncio.sleep(self._poll_seconds)
        return await self._force()

    def _is_all_gone(self) -> bool:
        return self._ended.is_set() and not self._tree.remaining() and not self._tree.find()

    async def _force(self) -> tuple[int, ...]:
        """Repeats until nothing is found any more: a process may fork between being found and being ended."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._settle_seconds
        while True:
            left = self._tree.find()
            self._tree.send(signal.SIGKILL)
            if (not left and self._ended.is_set()) or loop.time() >= give_up_at:
                return left
            await asyncio.sleep(self._poll_seconds)
