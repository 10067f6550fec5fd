"""Reloads plugins of this server: each from its file, one reload of a plugin at a time, with what came of it.

Asked by the route and by the watch on the files. Invariants: a reload that fails leaves the old generation as it was
and is told to the caller, in the log, in the metrics and in `generation_of`; nothing of it is remembered elsewhere.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from backend.app import metrics
from backend.app.auth.permissions import Caller
from backend.app.models.columns import now
from backend.app.operations.disabled_plugins import DisabledPlugins
from backend.app.schemas.errors import ErrorCode, WindFlowError, not_found
from backend.app.websocket.discovery import Discovered, Outcome, PluginSettings, discover_again
from backend.app.websocket.plugin import ReplacementError, WebSocketPlugin, WebSocketPluginManager
from backend.app.websocket.plugin_checks import PluginError
from backend.app.websocket.plugin_generations import forget_old, load_generation
from backend.app.websocket.plugins import default_plugins

logger = logging.getLogger("windflow.plugins")


@dataclass(slots=True)
class Generation:
    """Which generation of a plugin's code runs here, and what its last reload did."""

    loaded_at: datetime
    number: int = 1
    error: str | None = None
    """Why the last reload failed; None: it did not, or there was none."""


class Reloads:
    """The reloads of one server."""

    def __init__(self, manager: WebSocketPluginManager, records: DisabledPlugins, settings: PluginSettings) -> None:
        self._manager = manager
        self._records = records
        self._settings = settings
        self._generations: dict[str, Generation] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self._started_at = now()
        self.found: list[Discovered] = []
        """What discovery found at the start, and what was loaded since."""

    def generation_of(self, name: str) -> Generation:
        """Return what is known of a plugin's generation."""
        found = self._generations.get(name)
        return found if found is not None else Generation(self._started_at)

    async def reload_for(self, caller: Caller, name: str) -> None:
        """Reload a plugin for somebody, audited; raise `not_found`, and `reload_failed` with the reason."""
        self._check(name)
        await self._records.note_reload(caller, name)
        await self.reload(name)

    async def reload(self, name: str) -> None:
        """Put a new generation of a plugin into the place of the old one; raise as `reload_for` does.

        Of a plugin that is out of service only the code is loaded; one that could not be loaded is loaded again.
        """
        self._check(name)
        async with self._turns.setdefault(name, asyncio.Lock()):
            try:
                await self._reload(name)
            except ReplacementError as error:
                raise self._failed(name, str(error)) from error
            generation = self._generations[name] = Generation(now(), self.generation_of(name).number + 1)
            metrics.PLUGIN_RELOADS.labels(name, "ok").inc()
            extra = {"plugin": name, "generation": generation.number}
            logger.warning("plugin %s: generation %d has taken over", name, generation.number, extra=extra)

    def _failed(self, name: str, reason: str) -> WindFlowError:
        generation = self._generations.setdefault(name, self.generation_of(name))
        generation.error = reason
        metrics.PLUGIN_RELOADS.labels(name, "failed").inc()
        extra = {"plugin": name, "generation": generation.number, "hook": "reload", "event_type": None}
        logger.error("plugin %s: it is not reloaded: %s", name, reason, extra=extra)
        details = {"reason": reason, "generation": generation.number}
        return WindFlowError(ErrorCode.RELOAD_FAILED, f"{name} is not reloaded: {reason}", details=details)

    async def _reload(self, name: str) -> None:
        old, aside = self._manager.get(name), self._manager.aside.get(name)
        if old is None and aside is None:
            await self._load_again(name)
            return
        loaded = load_generation(self._place_of(name), name)
        try:
            if old is not None:
                await self._manager.succeed_by(old, loaded.plugin)
            else:
                self._exchange_aside(name, loaded.plugin)
        except ReplacementError:
            loaded.discard()
            raise
        gone = old or aside
        assert gone is not None
        default_plugins.exchange(gone, loaded.plugin)
        forget_old(gone, (*self._manager.plugins, *self._manager.aside.values()))

    def _exchange_aside(self, name: str, new: WebSocketPlugin) -> None:
        try:
            self._manager.exchange_aside(name, new)
        except PluginError as error:
            raise ReplacementError(str(error)) from error

    async def _load_again(self, name: str) -> None:
        place = self._place_of(name)
        self.load(place)
        await self._manager.settled()
        reason = self._manager.failures.get(name)
        if self._manager.get(name) is None or reason is not None:
            raise ReplacementError(reason or f"there is no plugin {name} any more in {place.location}")

    def load(self, place: Discovered) -> Sequence[Discovered]:
        """Load the plugins of a file that has none in service; what is wrong is listed among the failures."""
        found = discover_again(self._manager, self._settings, place)
        self.found = [each for each in self.found if each.location != place.location] + found
        return found

    def at(self, location: Path) -> list[str]:
        """Return the names of the plugins in service, or out of service, that came from a file or folder."""
        names = [each.name for each in self.found if Path(each.location) == location]
        return [name for name in names if self._manager.get(name) is not None or name in self._manager.aside]

    def _place_of(self, name: str) -> Discovered:
        places = [each for each in self.found if each.name == name]
        # A file that failed may stand beside the one that was registered under the name.
        places.sort(key=lambda each: each.outcome is not Outcome.REGISTERED)
        if not places:
            raise ReplacementError("it was registered by the application, not found in a file: restart that instead")
        return places[0]

    def _check(self, name: str) -> None:
        manager = self._manager
        if manager.get(name) is None and name not in manager.aside and name not in manager.failures:
            raise not_found("plugin")
