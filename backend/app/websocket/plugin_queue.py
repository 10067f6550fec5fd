"""Runs one plugin for what waits for it: a task per subject, one that reads the log, and one probe while it is down.

Made by the dispatcher for each plugin. Bounded: `limit` events in memory, all others stay in
the log. An event is done when its handler returned, raised or ran out of time (after the
plugin's `retries`); a plugin that cannot be called for now keeps its events waiting.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from datetime import timedelta

from backend.app import metrics
from backend.app.models.columns import now
from backend.app.realtime.event import Event
from backend.app.storage_failures import log_failure
from backend.app.websocket.contexts import Contexts, handled_hop
from backend.app.websocket.cursor_log import CursorLog, Types
from backend.app.websocket.dispatch_limits import DispatchLimits
from backend.app.websocket.origins import Origins
from backend.app.websocket.plugin import CallResult, CallState, WebSocketPlugin, WebSocketPluginManager
from backend.app.websocket.plugin_backlog import Entry, PluginBacklog, Track
from backend.app.websocket.plugin_registry import Undo

logger = logging.getLogger("windflow.plugins")

_PAGE = 500
_RETRIED = (CallState.RAISED, CallState.TIMED_OUT)
"""Not what was abandoned: it still runs."""


class PluginQueue:
    """What waits for one plugin, and the tasks that work it off."""

    def __init__(
        self,
        plugin: WebSocketPlugin,
        manager: WebSocketPluginManager,
        contexts: Contexts,
        log: CursorLog,
        origins: Origins,
        limits: DispatchLimits,
        on_progress: Callable[[], None],
    ) -> None:
        self.plugin = plugin
        self.backlog = PluginBacklog(limits.queue)
        self.types: Types = manager.stream_types(plugin)
        """The types of stream events that it handles; None: all."""
        self.tasks: set[asyncio.Task[None]] = set()
        self._manager = manager
        self._contexts = contexts
        self._log = log
        self._origins = origins
        self._limits = limits
        self._on_progress = on_progress
        self._reader: asyncio.Task[None] | None = None
        self._is_in_service = asyncio.Event()
        self._is_in_service.set()
        self._is_released = asyncio.Event()
        self._is_released.set()
        self._recounts: dict[Track, tuple[int, int, int]] = {}
        """What was counted in the log for types that are not read any more: mark, last event and count of a track."""
        self._turn = asyncio.Lock()
        """Held while the log is read or cut for this plugin."""
        self._is_forgotten = False

    def offer(self, node: str, event: Event, is_wanted: bool) -> None:
        """Tell of a committed event, in its stream's order."""
        before = self.backlog.in_log
        self.backlog.offer(node, event, is_wanted)
        if self.backlog.in_log > before:
            self._origins.keep(event)
        self._went_on()

    def put(self, event: Event) -> bool:
        """Take an event that no log keeps; False if it cannot be handled soon."""
        is_taken = self._is_in_service.is_set() and self.backlog.put(event)
        self._went_on()
        return is_taken

    def inherit(self, place: tuple[str, str], cursor: int, last: int, count: int) -> None:
        """Take over what a dead node left for this plugin."""
        self.backlog.inherit(place, cursor, last, count)
        self._went_on()

    def drop_node(self, node: str) -> None:
        """Leave a node's events to the node that took it over; what runs finishes."""
        self.backlog.drop_node(node)
        self._went_on()

    def hold(self) -> Undo:
        """Begin with nothing until what is returned is called; events go on coming in."""
        self._is_released.clear()
        return self._is_released.set

    def succeed(self, plugin: WebSocketPlugin) -> None:
        """Go on with a new generation of the plugin; what it does not listen to and has not begun counts as done."""
        self.plugin = plugin
        types = self._manager.stream_types(plugin)
        for key, entry in self.backlog.idle():
            if not any(plugin is each for each in self._manager.listening(entry.event.spec.name)):
                self.backlog.skip(key, entry)
        if types != self.types:
            self.types = types
            self._recounts = {each: (each.mark, each.known, each.in_log) for each in self.backlog.behind()}
        self._went_on()

    def let_go(self) -> int:
        """Drop what has not begun, for good, and return how much that was; what runs finishes."""
        dropped = self.backlog.start_at_head()
        self._is_forgotten = True
        self._is_in_service.set()
        metrics.PLUGIN_QUEUE.labels(self.plugin.name).set(0)
        metrics.PLUGIN_LAG.labels(self.plugin.name).set(0)
        return dropped

    def _went_on(self) -> None:
        """Start what there is to do now, and show how it stands."""
        if self._is_forgotten:  # A plugin that replaced this one may have the gauges now.
            return
        backlog = self.backlog
        for key in backlog.new_lanes():
            self._start(self._work_off(key))
        if backlog.in_log and self._reader is None and backlog.room >= max(1, self._limits.queue // 2):
            self._reader = self._start(self._read())
        metrics.PLUGIN_QUEUE.labels(self.plugin.name).set(backlog.in_memory)
        metrics.PLUGIN_LAG.labels(self.plugin.name).set(backlog.waiting)
        self._manager.supervisor.stats_of(self.plugin.name).waiting = backlog.waiting
        if backlog.dirty:
            self._on_progress()

    def _start(self, work: "asyncio._CoroutineLike[None]") -> "asyncio.Task[None]":
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    # ---- working off -----------------------------------------------------------------------------

    async def _work_off(self, key: str) -> None:
        lane = self.backlog.lanes[key]
        while lane:
            entry = lane[0]
            await self._handle(lane, entry)
            # Cancelled before here, at the stop, it is not done: the next start handles it.
            if lane and lane[0] is entry:
                self.backlog.finish(key, entry)
            self._went_on()
        self.backlog.end_lane(key)

    async def _handle(self, lane: deque[Entry], entry: Entry) -> None:
        """Return when the event is done, or was skipped meanwhile."""
        is_probe = False
        attempt = 0
        try:
            while True:
                if not is_probe:
                    await self._is_in_service.wait()
                await self._is_released.wait()
                if not lane or lane[0] is not entry:
                    return
                entry.is_running = True
                result = await self._call(entry.event)
                if result.is_for_now and entry.track is not None and not self._is_forgotten:
                    entry.is_running = False
                    # One lane asks whether the plugin can be called again; the others wait for it.
                    is_probe = is_probe or self._is_in_service.is_set()
                    if is_probe:
                        self._is_in_service.clear()
                        await asyncio.sleep(self._limits.retry_seconds)
                        await self._give_up_oldest()
                elif result.state in _RETRIED and attempt < self.plugin.retries:
                    pause = min(self._limits.retry_seconds * 2**attempt, self._limits.retry_max_seconds)
                    attempt += 1
                    await asyncio.sleep(pause)
                else:
                    return
        finally:
            entry.is_running = False
            if is_probe:
                self._is_in_service.set()

    async def _call(self, event: Event) -> CallResult:
        try:
            context = self._contexts.for_event(event)
            handled_hop.set(event.hop)
            return await self._manager.call_event(self.plugin, event.spec.name, event.payload, context)
        except Exception:
            # The supervisor contains the plugin; this is our own failure, and the next event goes on.
            logger.exception("dispatch failed", extra={"plugin": self.plugin.name, "event_id": event.id})
            return CallResult(CallState.REFUSED, reason="dispatch failed")

    # ---- the log ---------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Read on until nothing waits in the log, or memory is full; who makes room starts this again."""
        try:
            while self.backlog.in_log and self.backlog.room > 0:
                async with self._turn:
                    page = None
                    try:
                        await self._recount()
                        page = self.backlog.next_page(_PAGE)
                        if page is None:
                            self._went_on()
                            break
                        types, span = self.types, (page.start, page.upto)
                        events = await self._log.read(page.track.place, span, page.limit, types)
                        if types is not self.types:
                            continue  # Another generation, which listens to others, has taken over.
                    except Exception as error:  # noqa: BLE001 - log_failure tells of it
                        # The log is the truth: what cannot be read now is read later.
                        log_failure(logger, "the event log cannot be read", error, plugin=self.plugin.name)
                        events = None
                    if events is not None and page is not None:
                        events = [self._origins.restored(event) for event in events]
                        gone = self.backlog.page(page, events, is_last=len(events) < page.limit)
                        self._skipped(gone, "retention")
                if events is None:
                    await asyncio.sleep(self._limits.retry_seconds)
                self._went_on()
        finally:
            self._reader = None

    async def _recount(self) -> None:
        """Count what waits in the log for the new types, after another generation took over. Holds the turn."""
        while self._recounts:
            track, (mark, known, counted) = next(iter(self._recounts.items()))
            types = self.types
            _, count = await self._log.oldest(track.place, (mark, known), types)
            if types is self.types:
                del self._recounts[track]
                self.backlog.recount(track, mark, count - counted)

    async def _give_up_oldest(self) -> None:
        """Skip what waits too long, or is too much, for a plugin that cannot be called."""
        async with self._turn:
            try:
                await self._cut()
            except Exception as error:  # noqa: BLE001 - log_failure tells of it
                # Nothing is lost by waiting longer.
                log_failure(logger, "the event log cannot be read", error, plugin=self.plugin.name)
        self._went_on()

    async def _cut(self) -> None:
        await self._recount()
        backlog, limits = self.backlog, self._limits
        cutoff = now() - timedelta(seconds=limits.backlog_seconds)
        skipped = 0
        for key, entry in backlog.idle():
            if entry.track is not None and (entry.event.created_at < cutoff or backlog.waiting > limits.backlog_events):
                backlog.skip(key, entry)
                skipped += 1
        for track in sorted(backlog.behind(), key=lambda each: each.in_log, reverse=True):
            span = (track.mark, track.known)
            last, count = await self._log.oldest(track.place, span, self.types, before=cutoff)
            excess = backlog.waiting - limits.backlog_events
            if excess > count:
                last, count = await self._log.oldest(track.place, span, self.types, count=excess)
            if count and track.mark == span[0]:
                backlog.skip_in_log(track, last, count)
                skipped += count
        self._skipped(skipped, "waited")

    def _skipped(self, count: int, reason: str) -> None:
        if count <= 0:
            return
        metrics.PLUGIN_SKIPPED.labels(self.plugin.name, reason).inc(count)
        self._manager.supervisor.stats_of(self.plugin.name).skipped += count
        cause = "retention removed them" if reason == "retention" else "the plugin could not be called for too long"
        logger.error(
            "plugin %s: %d events are skipped: %s",
            self.plugin.name,
            count,
            cause,
            extra={"plugin": self.plugin.name, "hook": "handle_event", "event_type": None},
        )
