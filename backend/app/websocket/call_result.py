"""What is known of calls of plugin code: how one ended, and what happened in a plugin since the start."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


class CallState(StrEnum):
    """How a call of plugin code ended."""

    OK = "ok"
    RAISED = "raised"
    TIMED_OUT = "timed out"
    """Cancelled after its time-out."""
    ABANDONED = "abandoned"
    """It ignored its cancellation and still runs, or holds a thread."""
    REFUSED = "refused"
    """Not called: not admitted, too many abandoned calls, or not initialized on that connection."""


@dataclass(frozen=True, slots=True)
class CallResult:
    """The outcome of one call; `value` is what the code returned, `reason` says why a call was refused."""

    state: CallState
    value: Any = None
    exception: BaseException | None = None
    duration_seconds: float = 0.0
    reason: str | None = None
    is_for_now: bool = False
    """Refused for a cause that passes: the same call may be made later."""

    @property
    def is_ok(self) -> bool:
        """Whether the code ran to its end."""
        return self.state is CallState.OK


@dataclass(slots=True)
class PluginStats:
    """What happened in one plugin since the process started. `failures` counts every call or task that failed."""

    calls: int = 0
    failures: int = 0
    consecutive_failures: int = 0
    timeouts: int = 0
    """Calls that ended when they were cancelled for running too long; those that did not are `abandoned`."""
    abandoned: int = 0
    abandoned_now: int = 0
    refused: int = 0
    waiting: int = 0
    """Events of the log that it has not handled yet."""
    skipped: int = 0
    """Events that it will not be given any more: they waited too long, or retention removed them."""
    task_failures: int = 0
    loop_blocks: int = 0
    """Times that it blocked the event loop."""
    tasks_left_behind: int = 0
    last_error: str | None = None
    last_error_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure, as `on_failure` gets it: for metrics and the breaker. `hook` is `task` for a plugin's own task."""

    plugin: str
    hook: str
    event_type: str | None
    state: CallState
    exception: BaseException | None
