"""Gives plugins each event once, after its commit, away from delivery and from publishers.

A listener of the bus. For stream events a plugin is a cursor on the log: handing over after
the commit is only a wake-up, and whatever does not fit into memory, or whose hand-over was lost,
is read from the log, in order. Other events that a full queue does not take are dropped for
that plugin alone, counted and logged.
"""

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence

from backend.app import metrics
from backend.app.realtime.event import Event
from backend.app.realtime.node import TakenOver
from backend.app.realtime.node_hooks import NodeHooks
from backend.app.realtime.plugin_cursors import Backlog
from backend.app.storage_failures import log_failure
from backend.app.websocket.contexts import Contexts
from backend.app.websocket.cursor_log import CursorLog, Types
from backend.app.websocket.cursor_writer import CursorWriter
from backend.app.websocket.dispatch_limits import DispatchLimits
from backend.app.websocket.origins import Origins
from backend.app.websocket.plugin import WebSocketPlugin, WebSocketPluginManager
from backend.app.websocket.plugin_backlog import PluginBacklog
from backend.app.websocket.plugin_queue import PluginQueue
from backend.app.websocket.plugin_registry import Undo

logger = logging.getLogger("windflow.plugins")

_PAGE = 500


class Dispatcher:
    """Gives each event to the plugins that listen to it, until it is stopped."""

    def __init__(
        self,
        manager: WebSocketPluginManager,
        contexts: Contexts,
        log: CursorLog,
        hooks: NodeHooks,
        limits: DispatchLimits,
    ) -> None:
        self._manager = manager
        self._contexts = contexts
        self._log = log
        self._hooks = hooks
        self._limits = limits
        self._origins = Origins(limits.backlog_events)
        self._queues: dict[int, PluginQueue] = {}
        """By the plugin's identity, which its queue keeps alive: plugin code decides what is equal and has a hash."""
        self._inherited: dict[str, int] = {}
        """Dead nodes that are ours to finish, with their generations."""
        self._seen: dict[str, int] = {}
        """By stream: all events up to there were given to the plugins, or are not this node's."""
        self._looking: dict[str, int] = {}
        """By stream: up to where the log is being read, since a hand-over is missing."""
        self._claims: set[asyncio.Task[None]] = set()
        self._leaving: set[asyncio.Task[None]] = set()
        """What runs for plugins that were let go of."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_stopped = False
        self._writer = CursorWriter(log, hooks, limits, self._backlogs, self.nodes, self.lose)

    def _backlogs(self) -> Iterator[tuple[str, PluginBacklog]]:
        return iter([(queue.plugin.name, queue.backlog) for queue in self._queues.values()])

    def nodes(self) -> dict[str, int]:
        """Return the nodes that are ours, with their generations: this one and dead ones."""
        return {**self._inherited, self._hooks.node.id: self._hooks.node.generation}

    def wanted(self) -> dict[str, Types]:
        """Return the plugins that have cursors, with their event types; None: all."""
        return {
            queue.plugin.name: queue.types
            for queue in self._queues.values()
            if queue.types is None or len(queue.types) > 0
        }

    async def learn(self) -> None:
        """Learn where the streams stand. To be called before the first event: what is older is nobody's here."""
        self._loop = asyncio.get_running_loop()
        self._seen = await self._log.heads()

    def __call__(self, event: Event) -> None:
        """Take an event that was committed, in its stream's order, or that no log keeps."""
        if event.offset is not None:
            self._take_in(event)
            return
        listening = self._manager.listening(event.spec.name)
        if self._is_stopped:
            metrics.EVENTS_DROPPED.labels("plugin").inc(len(listening))
            return
        for plugin in listening:
            if not self._queue_of(plugin).put(event):
                metrics.EVENTS_DROPPED.labels("plugin").inc()
                logger.warning(
                    "a plugin's queue is full; the event is dropped for it",
                    extra={"plugin": plugin.name, "event_type": event.spec.name, "event_id": event.id},
                )

    # ---- the events of the log that are born here ------------------------------------------------

    def _take_in(self, event: Event) -> None:
        assert event.offset is not None
        stream, seen = event.stream, self._seen.get(event.stream, 0)
        if self._is_stopped or event.offset <= seen:
            return  # After the stop it stays in the log; below, the log was read up to there.
        if event.offset > seen + 1 or stream in self._looking:
            self._look(stream, event.offset)
            return
        self._seen[stream] = event.offset
        if event.node is None or event.node == self._hooks.node.id:
            self._offer(event)

    def _offer(self, event: Event) -> None:
        listening = self._manager.listening(event.spec.name)
        for plugin in listening:
            self._queue_of(plugin)
        for queue in tuple(self._queues.values()):
            is_wanted = any(queue.plugin is plugin for plugin in listening)
            queue.offer(self._hooks.node.id, event, is_wanted)

    def _look(self, stream: str, upto: int) -> None:
        """Read this node's events of a stream from the log, up to an offset: some were not handed over."""
        is_running = stream in self._looking
        self._looking[stream] = max(upto, self._looking.get(stream, 0))
        if not is_running:
            self._begin(self._look_until_seen(stream))

    def _begin(self, work: "asyncio._CoroutineLike[None]") -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._claims.add(task)
        task.add_done_callback(self._claims.discard)

    async def _look_until_seen(self, stream: str) -> None:
        try:
            while (upto := self._looking[stream]) > (seen := self._seen.get(stream, 0)):
                node = self._hooks.node.id
                try:
                    events = await self._log.read((node, stream), (seen, upto), _PAGE)
                except Exception as error:  # noqa: BLE001 - log_failure tells of it
                    # The log is the truth: what cannot be read now is read in the next round.
                    log_failure(logger, "the event log cannot be read", error, stream=stream)
                    await asyncio.sleep(self._limits.retry_seconds)
                    continue
                if node != self._hooks.node.id:
                    continue
                for event in events:
                    self._offer(event)
                last = upto if len(events) < _PAGE else events[-1].offset
                assert last is not None
                self._seen[stream] = last
        finally:
            del self._looking[stream]

    async def look_for_missing(self, heads_before: dict[str, int]) -> dict[str, int]:
        """Read what stood in the log at the last look and was not handed over since; return how the streams stand now.

        For the last event of a stream: the next one, which would show the gap, may never come.
        """
        for stream, head in heads_before.items():
            if head > self._seen.get(stream, 0):
                self._look(stream, head)
        return await self._log.heads(sorted(self._hooks.streams()))

    # ---- nodes -----------------------------------------------------------------------------------

    def inherit(self, nodes: Iterable[TakenOver], backlogs: Iterable[Backlog]) -> None:
        """Go on with what dead nodes left."""
        self._inherited.update({node.id: node.generation for node in nodes})
        by_name = {queue.plugin.name: queue for queue in self._queues.values()}
        for left in backlogs:
            queue = by_name.get(left.key.plugin)
            place = (left.key.node, left.key.stream)
            if queue is not None and place not in queue.backlog.tracks:
                queue.inherit(place, left.offset, left.last, left.count)

    def lose(self, nodes: Iterable[str]) -> None:
        """Leave nodes to the one that took them over: nothing of theirs is begun or written any more."""
        for node in nodes:
            self._inherited.pop(node, None)
            if node == self._hooks.node.id:
                self._hooks.node.is_lost = True
                self._hooks.on_lost()
            for queue in self._queues.values():
                queue.drop_node(node)

    async def _claim(self, queue: PluginQueue) -> None:
        """Give a plugin that came later what dead nodes left for it."""
        try:
            left = await self._log.inherited(tuple(self._inherited), queue.plugin.name, queue.types)
        except Exception as error:  # noqa: BLE001 - log_failure tells of it
            # It is still there for the next start.
            log_failure(logger, "the cursors of a plugin cannot be read", error, plugin=queue.plugin.name)
            return
        if self._queues.get(id(queue.plugin)) is queue:
            self.inherit((), left)

    # ---- plugins ---------------------------------------------------------------------------------

    def start(self, plugins: Sequence[WebSocketPlugin]) -> None:
        """Make the cursors of plugins: those that are new start at the head."""
        for plugin in plugins:
            self._queue_of(plugin)

    def welcome(self, plugin: WebSocketPlugin) -> None:
        """Make the cursors of a plugin that was registered while the server runs."""
        self._queue_of(plugin)

    def _queue_of(self, plugin: WebSocketPlugin) -> PluginQueue:
        queue = self._queues.get(id(plugin))
        if queue is None:
            queue = PluginQueue(
                plugin, self._manager, self._contexts, self._log, self._origins, self._limits, self._writer.note
            )
            self._queues[id(plugin)] = queue
            self._hooks.plugins = frozenset(self.wanted())
            if self._inherited and plugin.name in self._hooks.plugins and self._loop is not None:
                # A plugin may be registered from a thread.
                self._loop.call_soon_threadsafe(lambda: self._begin(self._claim(queue)))
        return queue

    def hold(self, plugin: WebSocketPlugin) -> Undo:
        """Have a plugin's events wait until what is returned is called; what runs goes on."""
        return self._queue_of(plugin).hold()

    def succeed(self, old: WebSocketPlugin, new: WebSocketPlugin) -> None:
        """Give a new generation what waits for the old one, and its cursors."""
        queue = self._queues.pop(id(old), None)
        if queue is None:
            return
        self._queues[id(new)] = queue
        queue.succeed(new)
        self._hooks.plugins = frozenset(self.wanted())

    def forget(self, plugin: WebSocketPlugin) -> None:
        """Let go of a plugin that was unregistered: what runs for it finishes, what waits is dropped and counted."""
        queue = self._queues.pop(id(plugin), None)
        if queue is None:
            return
        if not self._is_stopped:  # At the stop every plugin leaves, and its cursors are what the next start needs.
            self._hooks.plugins = frozenset(self.wanted())
            self._writer.retire(plugin.name)
        if (dropped := queue.let_go()) > 0:
            metrics.EVENTS_DROPPED.labels("plugin").inc(dropped)
            logger.warning(
                "a plugin was unregistered; %d events that waited for it are dropped",
                dropped,
                extra={"plugin": plugin.name},
            )
        # No callback on the tasks: a plugin may be unregistered from a thread.
        self._leaving = {task for task in self._leaving if not task.done()} | queue.tasks

    async def stop(self, timeout_seconds: float) -> None:
        """Take no more events; wait for what runs and waits, for a bounded time, then cancel it.

        What the log keeps and was not handled is left to the next start.
        """
        self._is_stopped = True
        claims = tuple(self._claims)
        for task in claims:
            task.cancel()
        await asyncio.gather(*claims, return_exceptions=True)
        tasks = [*self._leaving, *(task for queue in self._queues.values() for task in queue.tasks)]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout_seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._writer.stop()
