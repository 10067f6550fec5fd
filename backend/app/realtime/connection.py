"""One client on this node: who it is, what it wants, and what waits to be written to it.

Holds no I/O: the endpoint takes messages with `take` and is woken through `wake`. What waits
is bounded in bytes and messages; going over the budget ends the connection, for nothing
durable may be skipped in silence. Transient events are dropped instead, and counted.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from backend.app import metrics
from backend.app.auth.permissions import Principal
from backend.app.models.columns import new_id, now
from backend.app.schemas.messages import CloseCode


@dataclass(frozen=True, slots=True)
class Topic:
    """What can be subscribed to: an event type of one organization, of all subjects or of one."""

    organization_id: str
    type: str
    subject: str | None = None


class Connection:
    """One authenticated connection. Made by the endpoint, registered with the hub."""

    def __init__(
        self,
        principal: Principal,
        *,
        max_bytes: int,
        max_messages: int,
        wake: Callable[[], None],
        address: str | None = None,
        client: str | None = None,
    ) -> None:
        self.id = new_id()
        self.principal = principal
        self.address = address
        self.client = client
        self.connected_at: datetime = now()
        self.topics: set[Topic] = set()
        self.queued_bytes = 0
        self.close_code: CloseCode | None = None
        """Set once; the endpoint writes what is still due only for an orderly end, then closes."""
        self.close_reason = ""
        self._max_bytes = max_bytes
        self._max_messages = max_messages
        self._wake = wake
        self._queue: deque[tuple[str, int]] = deque()

    @property
    def queued_messages(self) -> int:
        """How many messages wait."""
        return len(self._queue)

    def push(self, message: str, *, is_droppable: bool = False) -> bool:
        """Queue a message; False if it was not taken, because the connection ends or the budget is full.

        A message larger than the whole budget is taken when nothing else waits.
        """
        if self.close_code is not None:
            return False
        # Not worth encoding twice: the length of the text is the number of bytes but for rare characters.
        size = len(message) if message.isascii() else len(message.encode())
        is_full = bool(self._queue) and (
            self.queued_bytes + size > self._max_bytes or len(self._queue) >= self._max_messages
        )
        if is_full:
            if is_droppable:
                metrics.EVENTS_DROPPED.labels("connection").inc()
            else:
                self.close(CloseCode.WRITE_STALLED, "the client does not take what is due")
            return False
        self._queue.append((message, size))
        self.queued_bytes += size
        self._wake()
        return True

    def greet(self, message: str) -> None:
        """Queue the message that must be the first one, before what plugins sent while they were initialized."""
        size = len(message.encode())
        self._queue.appendleft((message, size))
        self.queued_bytes += size
        self._wake()

    def take(self) -> str | None:
        """Return the next message to write; None if nothing waits."""
        if not self._queue:
            return None
        message, size = self._queue.popleft()
        self.queued_bytes -= size
        return message

    def close(self, code: CloseCode, reason: str) -> None:
        """End the connection with a code. The first call wins; after it nothing more is taken."""
        if self.close_code is not None:
            return
        self.close_code, self.close_reason = code, reason
        if code is CloseCode.WRITE_STALLED:
            self._queue.clear()
            self.queued_bytes = 0
        self._wake()
