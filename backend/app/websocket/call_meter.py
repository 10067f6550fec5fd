"""The metrics of one plugin's calls of one hook with one outcome: looked up once, and not with every call."""

from backend.app import metrics
from backend.app.websocket.call_result import CallState


class CallMeter:
    """Counts calls that ended alike."""

    __slots__ = ("_calls", "_seconds")

    def __init__(self, plugin: str, hook: str, state: CallState) -> None:
        self._calls = metrics.PLUGIN_CALLS.labels(plugin, hook, state.value)
        self._seconds = metrics.PLUGIN_SECONDS.labels(plugin)

    def count(self, seconds: float) -> None:
        """Count one call that took so long."""
        self._calls.inc()
        self._seconds.observe(seconds)
