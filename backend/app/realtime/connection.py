"""One client on this node: who it is, what it wants, how far it is, and what waits to be written to it.

Holds no I/O: it is given an outlet and a flusher. What is due is written once, at the end of the
event loop's tick; a paused outlet keeps it waiting here. What waits, here and in the outlet, is
bounded in bytes and messages. Over that budget what can be read again, stream events and lines, is
withdrawn: the connection falls back to reading the log (`catch_up.py`) at the speed of its socket.

For each stream and each log it is LIVE, with everything up to the hub's head queued or written, or
CATCHING UP, with a cursor of its own in `cursors`: the last one that was queued.
"""

from collections.abc import Callable
from datetime import datetime

from backend.app import metrics
from backend.app.auth.permissions import Principal, sight_of
from backend.app.models.columns import new_id, now
from backend.app.realtime.budget import Budget
from backend.app.realtime.event import SYSTEM_STREAM, stream_of
from backend.app.realtime.frames import text_frame
from backend.app.realtime.latest_debt import LatestDebt
from backend.app.realtime.marks import Mark
from backend.app.realtime.outbox import Outbox
from backend.app.realtime.outlet import Outlet
from backend.app.realtime.topics import Topic
from backend.app.schemas.event_spec import Delivery
from backend.app.schemas.messages import CloseCode

_REASON_BYTES = 120
"""A close frame has room for 123 bytes of reason."""
_READABLE = (Delivery.STREAM, Delivery.LOG)


class Connection:
    """One authenticated connection. Made by the endpoint, registered with the hub; nothing leaves before `greet`."""

    __slots__ = (
        "__weakref__", "_budget", "_due", "_easy_bytes", "_is_due", "_is_greeted", "_outbox", "_principal",
        "_settle", "address", "client", "close_code", "close_reason", "connected_at", "cursors", "id",
        "is_over", "is_superuser", "latest_debt", "on_behind", "on_room", "organization_id", "outlet", "sight",
        "told_positions", "topics",
    )  # fmt: skip

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
        self.topics: dict[Topic, int] = {}
        """What it subscribed to, each with the offset of its stream after which it wants events."""
        self.cursors: dict[str, int] = {}
        """The sources it is catching up on: number of the last offset or line that was queued."""
        self.latest_debt: LatestDebt | None = None
        """Latest values that it has to be told again; None: none."""
        self.told_positions = 0
        """Hash of what `positions` last told it, so that nothing is told twice."""
        self.on_behind: Callable[[Connection], None] | None = None
        """Called when it has fallen behind: somebody has to read the log for it."""
        self.on_room: Callable[[], None] | None = None
        """Called once there is room again, or it is over; set by who waits for that."""
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
        self._outbox = Outbox()
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
        return self._outbox.size + self.outlet.buffered_bytes()

    @property
    def queued_messages(self) -> int:
        """How many messages wait here."""
        return len(self._outbox)

    @property
    def is_behind(self) -> bool:
        """Whether something of the log, or a latest value, has still to be read for it."""
        return bool(self.cursors) or self.latest_debt is not None

    def streams(self) -> set[str]:
        """Return the streams it follows: its own, everybody's, and those of its subscriptions."""
        own = {SYSTEM_STREAM, stream_of(self.organization_id)}
        return own.union(stream_of(topic.organization_id) for topic in self.topics)

    def position(self, source: str, head: int) -> int:
        """Return the number up to which everything of a source was written (R1); `head`: the hub's."""
        first = self._outbox.first_of(source)
        return first - 1 if first is not None else self.cursors.get(source, head)

    # ---- what is pushed ------------------------------------------------------------------------------------

    def push(self, message: str, *, is_droppable: bool = False) -> bool:
        """Queue a message; False if it was not taken, because the connection ends or the budget is full."""
        self._settle()
        return self.push_frame(text_frame(message.encode()), is_droppable=is_droppable)

    def write_now(self, frames: bytes) -> bool:
        """Write frames straight to the outlet, at the end of a tick; False where they must be pushed instead."""
        if (
            self._outbox.frames
            or self.cursors
            or self.is_over
            or self.latest_debt is not None
            or self.outlet.is_paused
            or not self._is_greeted
        ):
            return False
        self.outlet.write(frames)
        return True

    def push_frame(self, frame: bytes, *, is_droppable: bool = False) -> bool:
        """Queue a prepared frame, as `push` does, but after the events of this tick that are not handed out yet.

        One that is larger than the whole budget is taken when nothing else waits.
        """
        if self.is_over:
            return False
        if self._has_room(len(frame)) or (not is_droppable and self._make_room(len(frame))):
            self._queue(frame, None)
            return True
        if is_droppable:
            metrics.EVENTS_DROPPED.labels("connection").inc()
        else:
            self.close(CloseCode.WRITE_STALLED, "the client does not take what is due")
        return False

    def push_event(self, frame: bytes, mark: Mark) -> bool:
        """Queue an event; False if it was not taken: it is read from the log later, or dropped and counted."""
        if self.is_over or mark.source in self.cursors:
            return False
        if mark.delivery is Delivery.LATEST:
            return self._push_latest(frame, mark)
        if self._has_room(len(frame)):
            self._queue(frame, mark)
            return True
        if mark.delivery is Delivery.TRANSIENT:
            metrics.EVENTS_DROPPED.labels("connection").inc()
        else:
            self.fall_back(mark)
        return False

    def _push_latest(self, frame: bytes, mark: Mark) -> bool:
        if self.outlet.is_paused and self._outbox.replace(frame, mark):
            metrics.LATEST_REPLACED.inc()
        elif self._has_room(len(frame)) or self._make_room(len(frame)):
            self._queue(frame, mark)
        else:
            self.owe_latest(mark.source)
            return False
        if self.latest_debt is not None:
            self.latest_debt.paid(mark.source)
        return True

    def push_page(self, frames: bytes, mark: Mark, last: int) -> None:
        """Queue what was read from the log for a source that is catching up, from `mark` on up to the number `last`."""
        self.cursors[mark.source] = last
        if frames:
            self._queue(frames, mark)

    def _queue(self, frame: bytes, mark: Mark | None) -> None:
        self._outbox.append(frame, mark)
        if not self._is_due:
            self._is_due = True
            self._due(self)

    # ---- falling behind ------------------------------------------------------------------------------------

    def fall_back(self, missed: Mark | None = None) -> None:
        """Withdraw everything that can be read again, and have it read; `missed` is one that was not even queued."""
        marks = self._outbox.withdraw(_READABLE)
        if missed is not None:
            marks.append(missed)
        for mark in marks:
            before = mark.number - 1
            self.cursors[mark.source] = min(self.cursors.get(mark.source, before), before)
        if marks:
            metrics.FALLS_BEHIND.inc()
            self._behind()

    def follow_from(self, source: str, number: int) -> None:
        """Have a source read from after a number, whatever of it was queued or written before."""
        self._outbox.withdraw(_READABLE, source)
        self.cursors[source] = number
        self._behind()

    def forget_source(self, source: str) -> None:
        """Let go of a source: what waits of it is withdrawn, and nothing of it is read any more."""
        self._outbox.withdraw(_READABLE, source)
        self.cursors.pop(source, None)

    def owe_latest(self, source: str | None = None) -> None:
        """Have one latest value read and told again, or those of all subscriptions."""
        if self.latest_debt is None:
            self.latest_debt = LatestDebt()
        self.latest_debt.add(source)
        self._behind()

    def withdraw_all(self) -> None:
        """Take back every event that waits: the rights changed, and what may still be had is read again (R6)."""
        for mark in self._outbox.withdraw((Delivery.LATEST, Delivery.TRANSIENT)):
            if mark.delivery is Delivery.LATEST:
                self.owe_latest(mark.source)
            else:
                metrics.EVENTS_DROPPED.labels("connection").inc()
        self.fall_back()

    def _behind(self) -> None:
        if self.on_behind is not None:
            self.on_behind(self)

    # ---- writing -------------------------------------------------------------------------------------------

    def greet(self, message: str) -> None:
        """Send the message that must be the first one, before what plugins sent while they were initialized."""
        self._outbox.insert_first(text_frame(message.encode()))
        self._is_greeted = True
        self.resume()

    def resume(self) -> None:
        """Write what waits at the end of this tick: the outlet takes something again."""
        if self._outbox.frames and not self._is_due:
            self._is_due = True
            self._due(self)
        self._tell_room()

    def flush(self, joined: dict[tuple[bytes, ...], bytes]) -> None:
        """Give all that is due to the outlet in one write. Connections owed the same frames share one bytes object.

        `joined` has what was joined in this tick.
        """
        self._is_due = False
        queue = self._outbox.frames
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
        self._outbox.clear()
        self.outlet.write(frames)
        self._tell_room()

    def close(self, code: CloseCode, reason: str) -> None:
        """End the connection with a code. The first call wins; what is due is written before, unless it stalled."""
        if code is not CloseCode.WRITE_STALLED:
            self._settle()
        if self.is_over:
            return
        self.close_code, self.close_reason = code, _cut(reason)
        metrics.CONNECTIONS_CLOSED.labels(str(int(code))).inc()
        if self._outbox.frames and self._is_greeted and code is not CloseCode.WRITE_STALLED:
            self.outlet.write(b"".join(self._outbox.frames))
        self.end()
        is_stalled = code is CloseCode.WRITE_STALLED
        seconds = self._budget.stalled_close_seconds if is_stalled else self._budget.close_seconds
        self.outlet.close(int(code), self.close_reason, seconds)

    def end(self) -> None:
        """Let go of what waits: the socket is gone, or is being closed. Nothing is taken any more."""
        self.is_over = True
        self._outbox.clear()
        self.cursors.clear()
        self.latest_debt = None
        self._tell_room()

    # ---- the budget ----------------------------------------------------------------------------------------

    def has_page_room(self) -> bool:
        """Tell whether more may be read from the log for it: half the budget stays free for what is pushed."""
        budget = self._budget
        return (
            self._is_greeted
            and not self.outlet.is_paused
            and self.queued_bytes <= budget.max_bytes // 2
            and self.queued_messages <= budget.max_messages // 2
        )

    def _tell_room(self) -> None:
        if self.on_room is not None and (self.is_over or self.has_page_room()):
            told, self.on_room = self.on_room, None
            told()

    def _has_room(self, size: int) -> bool:
        outbox, budget, outlet = self._outbox, self._budget, self.outlet
        if outbox.size + size <= self._easy_bytes and len(outbox.frames) < budget.max_messages and not outlet.is_paused:
            return True
        if not outlet.is_paused and outbox.frames and self._is_greeted:
            # Only what the socket does not take counts: hand over what was pushed in this tick, then look.
            self.flush({})
        if not outbox.frames and not outlet.is_paused:
            return True
        if len(outbox.frames) >= budget.max_messages:
            return False
        return outbox.size + size + outlet.buffered_bytes() <= budget.max_bytes

    def _make_room(self, size: int) -> bool:
        """Fall back to the log, so that what cannot be read again has room; False if that does not suffice."""
        self.fall_back()
        return self._has_room(size)


def _cut(reason: str) -> str:
    """Return as much of a reason as fits into a close frame."""
    return reason.encode()[:_REASON_BYTES].decode(errors="ignore")
