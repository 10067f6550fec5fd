"""The bounds of dispatch, as the settings give them."""

from dataclasses import dataclass

from backend.app.config import Settings


@dataclass(frozen=True, slots=True)
class DispatchLimits:
    """What waits how long, and how much of it."""

    queue: int
    """Events in memory per plugin."""
    backlog_events: int
    """Events of the log that may wait for a plugin that cannot be called."""
    backlog_seconds: float
    """How long they may."""
    retry_seconds: float
    """Pause before a plugin that cannot be called, or failed and has `retries`, is tried again."""
    retry_max_seconds: float
    """Longest such pause: it doubles with each retry."""
    cursor_seconds: float
    """Longest time a cursor waits to be written."""
    cursor_events: int
    """Handled events after which cursors are written at once."""

    @classmethod
    def of(cls, settings: Settings) -> "DispatchLimits":
        """Return those of the settings."""
        return cls(
            queue=settings.plugin_queue,
            backlog_events=settings.plugin_backlog_events,
            backlog_seconds=settings.plugin_backlog_seconds,
            retry_seconds=settings.plugin_retry_seconds,
            retry_max_seconds=settings.plugin_retry_max_seconds,
            cursor_seconds=settings.plugin_cursor_seconds,
            cursor_events=settings.plugin_cursor_events,
        )
