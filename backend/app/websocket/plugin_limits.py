"""The settings that the plugin manager reads: any object that has them will do."""

from collections.abc import Mapping
from typing import Any, Protocol


class PluginLimits(Protocol):
    """Seconds and counts as `config.Settings` explains them."""

    @property
    def plugin_timeout_seconds(self) -> float: ...
    @property
    def plugin_cancel_grace_seconds(self) -> float: ...
    @property
    def plugin_threads(self) -> int: ...
    @property
    def breaker_failures(self) -> int: ...
    @property
    def breaker_open_seconds(self) -> float: ...
    @property
    def plugin(self) -> Mapping[str, Mapping[str, Any]]: ...
