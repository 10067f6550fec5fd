"""Follows one deployment to its end: what it does, each of its lines once, and its end when everything was shown.

Used by `watch ID` and `logs --follow`. Events and lines come from a stream that resumes by itself; the state is read
at the start, when it has ended, and where the stream says that something is lost. A read that no server answers
counts as a lost connection: the stream comes back, and it is read then.
"""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from backend.app.cli.failures import UNREACHABLE, exit_status
from backend.app.client.api import WindFlowClient, path_segment
from backend.app.client.errors import ApiError, ServerUnreachable
from backend.app.client.items import Event, PositionLost, Reconnected
from backend.app.client.positions import LOG_PREFIX
from backend.app.client.stream import EventStream

ENDED = ("success", "failed", "cancelled")
GIVE_UP_SECONDS = 600.0
"""How long a lost connection is tried again before the command ends with status 4."""

Lost = Callable[[str, float], None]

_WHY = {
    "expired": "retention removed them",
    "epoch": "the server's log began anew",
    "future": "the server's log is shorter than it was",
    "unsupported": "this server cannot resume",
}


@dataclass(frozen=True, slots=True)
class State:
    """A deployment as the API describes it."""

    item: dict[str, Any]

    @property
    def has_ended(self) -> bool:
        """Whether its status is a last one."""
        return self.item.get("status") in ENDED


class Reads:
    """Reads over REST beside a stream: one that gets no answer makes the stream come back first."""

    def __init__(self, events: EventStream) -> None:
        self._events = events
        self._failing_since: float | None = None

    async def answered(self, reading: Awaitable[object]) -> bool:
        """Return whether a read was answered; if not, Reconnected comes.

        Raises what the server refuses, and ServerUnreachable or ApiError after GIVE_UP_SECONDS without an answer.
        """
        try:
            await reading
        except (ServerUnreachable, ApiError) as error:
            now = time.monotonic()
            self._failing_since = self._failing_since or now
            if exit_status(error) != UNREACHABLE or now - self._failing_since > GIVE_UP_SECONDS:
                raise
            await self._events.lose(str(error))
            return False
        self._failing_since = None
        return True


async def follow_to_end(
    client: WindFlowClient, events: EventStream, reads: Reads, deployment_id: str
) -> AsyncGenerator[State | Event | PositionLost, None]:
    """Yield what comes of one deployment, whose events and log the stream follows.

    The last item is its state, once it has ended and all its lines were yielded, or the event that it was deleted.
    Raises what the stream and the API raise.
    """
    found: list[State] = []

    async def read() -> None:
        found[:] = [State(await client.get(f"deployments/{path_segment(deployment_id)}"))]

    is_stale = True
    while True:
        if is_stale and await reads.answered(read()):
            is_stale = False
            if not found[0].has_ended:
                yield found[0]
        if not is_stale and found[0].has_ended and _is_complete(events, found[0]):
            yield found[0]
            return
        item = await anext(events)
        if isinstance(item, Reconnected):
            is_stale = is_stale or not item.is_resumed
        elif isinstance(item, PositionLost):
            is_stale = True
            yield item
        elif isinstance(item, Event):
            if item.type == "DEPLOYMENT_STATUS_CHANGED" and item.data.get("newStatus") in ENDED:
                # Lines may still be on their way: the state says how many there are.
                is_stale = True
                continue
            yield item
            if item.type == "DEPLOYMENT_DELETED" and item.data.get("deploymentId") == deployment_id:
                return


def _is_complete(events: EventStream, state: State) -> bool:
    line = events.next_line(state.item["id"])
    return line is None or line > (state.item.get("lastLine") or 0)


def lost_text(item: PositionLost) -> str:
    """Return what to tell people of a lost position."""
    why = _WHY.get(item.reason, item.reason)
    if not item.stream.startswith(LOG_PREFIX):
        return f"events are missing ({why}); reading the state again"
    first, now = (item.lost or {}).get("line"), (item.now or {}).get("line")
    if item.reason == "expired" and isinstance(first, int) and isinstance(now, int):
        return f"lines {first} to {now - 1} were removed by retention"
    if item.reason == "future" and isinstance(now, int):
        return f"the log has no line {first} yet; it goes on with line {now}"
    return f"lines may be missing ({why})"
