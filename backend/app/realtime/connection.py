"""One client on this node: who it is, what it wants, and what waits to be written to it.

Holds no I/O: it is given an outlet and a flusher. What is due is written once, at the end of the
event loop's tick; a paused outlet keeps it waiting here. What waits, here and in the outlet, is
bounded in bytes and messages: going over the budget ends the connection, for nothing durable may
be skipped in silence. Transient events are dropped instead, and counted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from backend.app import metrics
from backend.app.auth.permissions import Principal, sight_of
from backend.app.models.columns import new_id, now
from backend.app.realtime.frames import text_frame
from backend.app.realtime.outlet import Outlet
from backend.app.schemas.messages import CloseCode

_REASON_BYTES = 120
"""A close frame has room for 123 bytes of reason."""


@dataclass(frozen=True, slots=True)
class Topic:
    """What can be subscribed to: an event type of one organization, of all subjects or of one."""

    organization_id: str
    type: str
    subject: str | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """What one connection may hold, and how long its end may take. One object for all connections."""

    max_bytes: int
    max_messages: int
    high_water_bytes: int
    """Above this much in the outlet's own buffer it pauses."""
    close_seconds: float
    """For the closing handshake."""
    stalled_close_seconds: float
    """The same for a client that did not take what was due."""


class Connection:
    """One authenticated connection. Made by the endpoint, registered with the hub; nothing leaves before `greet`."""

    __slots__ = (
        "__weakref__",
        "_budget",
        "_due",
        "_easy_bytes",
        "_is_due",
        "_is_greeted",
        "_principal",
        "_queue",
        "_queued",
        "_settle",
        "address",
        "client",
        "close_code",
        "close_reason",
        "connected_at",
        "id",
        "is_over",
        "is_superuser",
        "organization_id",
        "outlet",
        "sight",
        "topics",
    )

    def __init__(
        self,
        principal: Principal,
        outlet: Outlet,
        budget: Budget,
        due: Callable[["Connection"], None],
        settle: Callable[[], None] = lambda: None,
        *,
        address: str | None = None,
        client: str | None = None,
    ) -> None:
        self.id = new_id()
        self.principal = principal
        self.outlet = outlet
        self.address = address
        self.client = client
        self.connected_at: datetime = now()
        self.topics: set[Topic] = set()
        self.is_over = False
        """Set by the first `close` or by `end`: nothing is taken any more."""
        self.close_code: CloseCode | None = None
        """Set if the server ended it."""
        self.close_reason = ""
        self._budget = budget
        self._due = due
        """Puts this connection on the list that is flushed at the end of the tick."""
        self._settle = settle
        """Hands out the events that the hub collected in this tick: they come before whatever is pushed now."""
        self._queue: list[bytes] = []
        self._queued = 0
        self._is_due = False
        self._is_greeted = False
        # While the outlet is not paused it holds at most its high-water mark: below this nobody needs to ask it.
        self._easy_bytes = budget.max_bytes - budget.high_water_bytes
        outlet.on_resume = self.resume

    @property
    def principal(self) -> Principal:
        """Who this is, with the present rights."""
        return self._principal

    @principal.setter
    def principal(self, principal: Principal) -> None:
        self._principal = principal
        # What delivery asks of every receiver of every event, at hand.
        self.organization_id = principal.organization_id
        self.is_superuser = principal.is_superuser
        self.sight = sight_of(principal)

    @property
    def queued_bytes(self) -> int:
        """How many bytes wait, here and in the outlet."""
        return self._queued + self.outlet.buffered_bytes()

    @property
    def queued_messages(self) -> int:
        """How many messages wait here."""
        return len(self._queue)

    def push(self, message: str, *, is_droppable: bool = False) -> bool:
        """Queue a message; False if it was not taken, because the connection ends or the budget is full."""
        self._settle()
        return self.push_frame(text_frame(message.encode()), is_droppable=is_droppable)

    def write_now(self, frames: bytes) -> bool:
        """Write frames straight to the outlet, at the end of a tick; False where they must be queued instead."""
        if self._queue or self.is_over or self.outlet.is_paused or not self._is_greeted:
            return False
        self.outlet.write(frames)
        return True

    def push_frame(self, frame: bytes, *, is_droppable: bool = False) -> bool:
        """Queue a prepared frame, as `push` does, but after the events of this tick that are not handed out yet.

        One that is larger than the whole budget is taken when nothing else waits.
        """
        if self.is_over:
            return False
        size = len(frame)
        queued = self._queued + size
        if (
            queued > self._easy_bytes or len(self._queue) >= self._budget.max_messages or self.outlet.is_paused
        ) and not self._has_room(size):
            return self._overflow(is_droppable)
        self._queue.append(frame)
        self._queued += size
        if not self._is_due:
            self._is_due = True
            self._due(self)
        return True

    def greet(self, message: str) -> None:
        """Send the message that must be the first one, before what plugins sent while they were initialized."""
        frame = text_frame(message.encode())
        self._queue.insert(0, frame)
        self._queued += len(frame)
        self._is_greeted = True
        self.resume()

    def resume(self) -> None:
        """Write what waits at the end of this tick: the outlet takes something again."""
        if self._queue and not self._is_due:
            self._is_due = True
            self._due(self)

    def flush(self, joined: dict[tuple[bytes, ...], bytes]) -> None:
        """Give all that is due to the outlet in one write. Connections owed the same frames share one bytes object.

        `joined` has what was joined in this tick.
        """
        self._is_due = False
        queue = self._queue
        if not queue or not self._is_greeted or self.is_over or self.outlet.is_paused:
            return
        if len(queue) == 1:
            frames = queue[0]
        else:
            key = tuple(queue)
            found = joined.get(key)
            if found is None:
                found = joined[key] = b"".join(queue)
            frames = found
        queue.clear()
        self._queued = 0
        self.outlet.write(frames)

    def close(self, code: CloseCode, reason: str) -> None:
        """End the connection with a code. The first call wins; what is due is written before, unless it stalled."""
        if code is not CloseCode.WRITE_STALLED:
            self._settle()
        if self.is_over:
            return
        self.close_code, self.close_reason = code, _cut(reason)
        metrics.CONNECTIONS_CLOSED.labels(str(int(code))).inc()
        if self._queue and self._is_greeted and code is not CloseCode.WRITE_STALLED:
            self.outlet.write(b"".join(self._queue))
        self.end()
        is_stalled = code is CloseCode.WRITE_STALLED
        seconds = self._budget.stalled_close_seconds if is_stalled else self._budget.close_seconds
        self.outlet.close(int(code), self.close_reason, seconds)

    def end(self) -> None:
        """Let go of what waits: the socket is gone, or is being closed. Nothing is taken any more."""
        self.is_over = True
        self._queue.clear()
        self._queued = 0

    def _has_room(self, size: int) -> bool:
        budget = self._budget
        if not self.outlet.is_paused and self._queue and self._is_greeted:
            # Only what the socket does not take counts: hand over what was pushed in this tick, then look.
            self.flush({})
        if not self._queue and not self.outlet.is_paused:
            return True
        if len(self._queue) >= budget.max_messages:
            return False
        return self._queued + size + self.outlet.buffered_bytes() <= budget.max_bytes

    def _overflow(self, is_droppable: bool) -> bool:
        if is_droppable:
            metrics.EVENTS_DROPPED.labels("connection").inc()
        else:
            self.close(CloseCode.WRITE_STALLED, "the client does not take what is due")
        return False


def _cut(reason: str) -> str:
    """Return as much of a reason as fits into a close frame."""
    return reason.encode()[:_REASON_BYTES].decode(errors="ignore")
