"""Reloads a plugin when its file changes: `serve --reload-plugins`, for who writes one.

One task per server that looks at the folder of plugin files at an interval. Invariant: a file is taken once it has
looked the same for two looks in a row, so that one that is being written is not taken half.
"""

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path

from backend.app.schemas.errors import WindFlowError
from backend.app.websocket.discovery import Discovered, Outcome, Source, plugin_paths
from backend.app.websocket.plugin_reloads import Reloads

logger = logging.getLogger("windflow.plugins")

Look = Mapping[Path, tuple[tuple[str, int, int], ...]]
"""Each plugin file or folder with the names, times and sizes of its files."""


def look_at(folder: Path) -> Look:
    """Return how the plugin files of a folder look now; nothing for a folder that cannot be read."""
    try:
        places = plugin_paths(folder.absolute())
    except OSError:
        return {}
    found = {}
    for place in places:
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
        found[place] = tuple(each for file in files if (each := _appearance(file)) is not None)
    return found


def _appearance(file: Path) -> tuple[str, int, int] | None:
    try:
        status = file.stat()
    except OSError:  # removed between the two looks
        return None
    return str(file), status.st_mtime_ns, status.st_size


class PluginWatch:
    """The watch over one folder. What disappears stays in service until the server is started again."""

    def __init__(self, reloads: Reloads, folder: Path, seconds: float) -> None:
        self._reloads = reloads
        self._folder = folder
        self._seconds = seconds

    async def run(self) -> None:
        """Watch until cancelled."""
        taken = last = await asyncio.to_thread(look_at, self._folder)
        logger.info("plugin files are watched", extra={"folder": str(self._folder)})
        while True:
            await asyncio.sleep(self._seconds)
            now = await asyncio.to_thread(look_at, self._folder)
            settled = {place for place, look in now.items() if look != taken.get(place) and look == last.get(place)}
            for place in sorted(settled):
                taken = {**taken, place: now[place]}
                await self._take(place)
            last = now

    async def _take(self, place: Path) -> None:
        """Reload what came from a file, or load what is new in it. What is wrong with it is logged and listed."""
        names = self._reloads.at(place)
        if not names:
            self._reloads.load(Discovered(place.stem, Source.FOLDER, str(place), Outcome.FAILED))
            return
        for name in names:
            try:
                await self._reloads.reload(name)
            except WindFlowError:
                continue  # `Reloads` has told of it, and the old generation goes on.
