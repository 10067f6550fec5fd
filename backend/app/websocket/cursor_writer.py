"""Writes how far plugins are: in groups, not per event, and at the stop.

Owned by the dispatcher. Invariant: what a failed write did not store is written by the next one.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping

from backend.app import kill_points
from backend.app.realtime.node_hooks import NodeHooks
from backend.app.realtime.plugin_cursors import CursorKey
from backend.app.storage_failures import log_failure
from backend.app.websocket.cursor_log import CursorLog
from backend.app.websocket.dispatch_limits import DispatchLimits
from backend.app.websocket.plugin_backlog import PluginBacklog, Track

logger = logging.getLogger("windflow.plugins")

Backlogs = Callable[[], Iterable[tuple[str, PluginBacklog]]]


class CursorWriter:
    """One task that is there while cursors wait to be written."""

    def __init__(
        self,
        log: CursorLog,
        hooks: NodeHooks,
        limits: DispatchLimits,
        backlogs: Backlogs,
        nodes: Callable[[], Mapping[str, int]],
        on_lost: Callable[[set[str]], None],
    ) -> None:
        self._log = log
        self._hooks = hooks
        self._limits = limits
        self._backlogs = backlogs
        """Plugin's name and what waits for it."""
        self._nodes = nodes
        """Our nodes with their generations."""
        self._on_lost = on_lost
        self._retired: set[str] = set()
        self._progress = 0
        self._is_due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    def note(self) -> None:
        """Have cursors that rose written soon."""
        self._progress += 1
        if self._progress >= self._limits.cursor_events:
            self._is_due.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def retire(self, plugin: str) -> None:
        """Have the cursors of a plugin that was unregistered removed."""
        self._retired.add(plugin)

    async def _run(self) -> None:
        try:
            while self._is_needed():
                try:
                    async with asyncio.timeout(self._limits.cursor_seconds):
                        await self._is_due.wait()
                except TimeoutError:
                    pass
                self._is_due.clear()
                self._progress = 0
                try:
                    await self.write()
                except Exception as error:  # noqa: BLE001 - log_failure tells of it
                    # They stay due. What was handled is handled again if the process dies before.
                    log_failure(logger, "the cursors of plugins cannot be written; it is tried again", error)
                    await asyncio.sleep(self._limits.retry_seconds)
        finally:
            self._task = None

    def _is_needed(self) -> bool:
        return bool(self._retired) or any(backlog.dirty for _, backlog in self._backlogs())

    async def write(self) -> None:
        """Write what is due now. Raises what the database raises; it stays due then."""
        async with self._turn:
            due = [(name, backlog, track) for name, backlog in self._backlogs() for track in backlog.dirty]
            retired = self._retired - {name for name, _ in self._backlogs()}
            if not due and not retired:
                self._retired.clear()
                return
            raised = {_key(name, track): track.cursor for name, _, track in due}
            finished = {_key(name, track) for name, _, track in due if track.is_finished}
            kill_points.reached("before_plugin_cursor")
            lost = await self._log.write(self._nodes(), raised, finished, retired, self._hooks.node.id)
            self._retired.clear()
            for plugin in retired:
                self._hooks.forget(plugin)
            if lost:
                self._on_lost(lost)
            for name, backlog, track in due:
                key = _key(name, track)
                track.written = max(track.written, raised[key])
                if key in finished:
                    backlog.end(track)
                elif track.cursor <= track.written and not track.is_finished:
                    backlog.dirty.discard(track)

    async def stop(self) -> None:
        """Write everything that is known for the last time."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for _, backlog in self._backlogs():
            backlog.touch_all()
        try:
            await self.write()
        except Exception as error:  # noqa: BLE001 - log_failure tells of it
            log_failure(logger, "the cursors of plugins cannot be written; the next start handles events again", error)


def _key(plugin: str, track: Track) -> CursorKey:
    return CursorKey(*track.place, plugin)
