"""One call of plugin code while it runs: in a task of its own, with a deadline in the table.

Made by the supervisor. Invariants: whatever the code raises stays in `exception`; who watches is told of the end, or
that the code ignores its cancellation, within time-out and grace time.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from backend.app.websocket.circuit_breaker import CircuitBreaker
from backend.app.websocket.containment import Leash, Owner, current_owner, drive, names_owner
from backend.app.websocket.deadlines import Deadlines


@dataclass(eq=False, slots=True)
class RunningCall:
    """One running call: its code runs in a task of its own, inside which every exception is caught."""

    owner: Owner
    make_awaitable: Callable[[], Any]
    trial: CircuitBreaker | None = None
    """The breaker of a generation that is tried out, in place of the plugin's."""
    leash: Leash = field(default_factory=Leash)
    value: Any = None
    exception: BaseException | None = None
    is_late: bool = False
    """It ran over its time-out and was cancelled for that."""
    _over: asyncio.Future[None] | None = None
    _task: asyncio.Task[None] | None = None
    _deadlines: Deadlines | None = None
    _grace_seconds: float = 0.0

    async def watch(self, task: asyncio.Task[None], deadlines: Deadlines, timeout: float, grace: float) -> None:
        """Return when the task is done or ignores for `grace` seconds that it was cancelled for its time-out."""
        self._task, self._deadlines, self._grace_seconds = task, deadlines, grace
        self._over = deadlines.loop.create_future()
        task.add_done_callback(self._ended)
        deadlines.add(self, timeout)
        try:
            await self._over
        finally:
            deadlines.remove(self, grace if self.is_late else timeout)

    def expired(self) -> None:
        """Cancel the code; at the second time, let go of it."""
        assert self._task is not None
        assert self._deadlines is not None
        if self._task.done():
            return
        if self.is_late:
            self._ended(self._task)
            return
        self.is_late = True
        self._task.cancel()
        self._deadlines.add(self, self._grace_seconds)

    def _ended(self, _: asyncio.Task[None]) -> None:
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    @names_owner
    async def run(self) -> None:
        """Run the code; never raises, since asyncio lets SystemExit and KeyboardInterrupt of a task end the loop."""
        owner = self.owner
        current_owner.set(owner)
        try:
            value = self.make_awaitable()
            if inspect.isawaitable(value):
                value = await drive(value if inspect.iscoroutine(value) else _await(value), self.leash)
            self.value = value
        except BaseException as error:  # noqa: BLE001 - containing it is what this class is for
            self.exception = error


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
