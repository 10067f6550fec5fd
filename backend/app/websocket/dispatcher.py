"""Runs plugins for each event once, after its commit, away from delivery and from publishers.

A listener of the bus. Plugins run side by side; for one plugin, events of one subject keep
their order and different subjects run side by side. What waits for a plugin is bounded: what
a full queue does not take is dropped for that plugin alone, counted and logged.
"""

import asyncio
import logging
from collections import deque

from backend.app import metrics
from backend.app.realtime.event import Event
from backend.app.websocket.contexts import Contexts, handled_hop
from backend.app.websocket.plugin import WebSocketPlugin, WebSocketPluginManager

logger = logging.getLogger("windflow.plugins")


class _PluginQueue:
    """What waits for one plugin: a lane for each subject, worked off by one task each."""

    def __init__(self, plugin: WebSocketPlugin, manager: WebSocketPluginManager, contexts: Contexts, limit: int):
        self._plugin = plugin
        self._manager = manager
        self._contexts = contexts
        self._limit = limit
        self._lanes: dict[str, deque[Event]] = {}
        self._gauge = metrics.PLUGIN_QUEUE.labels(plugin.name)
        self._is_forgotten = False
        self.tasks: set[asyncio.Task[None]] = set()
        self._waiting = 0

    def put(self, event: Event) -> bool:
        """Take an event; False if the queue is full."""
        if self._waiting >= self._limit:
            return False
        self._count(1)
        # An event without subject has nothing to be in order with: its own id is its lane.
        key = event.subject or event.id
        lane = self._lanes.get(key)
        if lane is not None:
            lane.append(event)
            return True
        self._lanes[key] = deque([event])
        task = asyncio.get_running_loop().create_task(self._work_off(key))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return True

    def drop_waiting(self) -> int:
        """Drop what has not begun, for good, and return how much that was; what runs finishes."""
        dropped = sum(len(lane) for lane in self._lanes.values())
        for lane in self._lanes.values():
            lane.clear()
        self._gauge.set(0)
        self._is_forgotten = True
        return dropped

    async def _work_off(self, key: str) -> None:
        lane = self._lanes[key]
        try:
            while lane:
                event = lane.popleft()
                try:
                    context = self._contexts.for_event(event)
                    handled_hop.set(event.hop)
                    await self._manager.call_event(self._plugin, event.spec.name, event.payload, context)
                except Exception:
                    # The supervisor contains the plugin; this is our own failure, and the next event goes on.
                    logger.exception("dispatch failed", extra={"plugin": self._plugin.name, "event_id": event.id})
                finally:
                    self._count(-1)
        finally:
            self._count(-len(lane))
            del self._lanes[key]

    def _count(self, change: int) -> None:
        self._waiting += change
        if not self._is_forgotten:  # A plugin that replaced this one may have the gauge now.
            self._gauge.set(self._waiting)


class Dispatcher:
    """Gives each event to the plugins that listen to it, until it is stopped."""

    def __init__(self, manager: WebSocketPluginManager, contexts: Contexts, queue_limit: int) -> None:
        self._manager = manager
        self._contexts = contexts
        self._queue_limit = queue_limit
        self._queues: dict[int, _PluginQueue] = {}
        """By the plugin's identity, which its queue keeps alive: plugin code decides what is equal and has a hash."""
        self._leaving: set[asyncio.Task[None]] = set()
        """What runs for plugins that were let go of."""
        self._is_stopped = False

    def __call__(self, event: Event) -> None:
        """Queue an event for every plugin that listens to its type."""
        if self._is_stopped:
            metrics.EVENTS_DROPPED.labels("plugin").inc(len(self._manager.listening(event.spec.name)))
            return
        for plugin in self._manager.listening(event.spec.name):
            queue = self._queues.get(id(plugin))
            if queue is None:
                queue = _PluginQueue(plugin, self._manager, self._contexts, self._queue_limit)
                self._queues[id(plugin)] = queue
            if not queue.put(event):
                metrics.EVENTS_DROPPED.labels("plugin").inc()
                logger.warning(
                    "a plugin's queue is full; the event is dropped for it",
                    extra={"plugin": plugin.name, "event_type": event.spec.name, "event_id": event.id},
                )

    def forget(self, plugin: WebSocketPlugin) -> None:
        """Let go of a plugin that was unregistered: what runs for it finishes, what waits is dropped and counted."""
        queue = self._queues.pop(id(plugin), None)
        if queue is None:
            return
        if (dropped := queue.drop_waiting()) > 0:
            metrics.EVENTS_DROPPED.labels("plugin").inc(dropped)
            logger.warning(
                "a plugin was unregistered; %d events that waited for it are dropped",
                dropped,
                extra={"plugin": plugin.name},
            )
        # No callback on the tasks: a plugin may be unregistered from a thread.
        self._leaving = {task for task in self._leaving if not task.done()} | queue.tasks

    async def stop(self, timeout_seconds: float) -> None:
        """Take no more events; wait for what runs and waits, for a bounded time, then cancel it."""
        self._is_stopped = True
        tasks = [*self._leaving, *(task for queue in self._queues.values() for task in queue.tasks)]
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=timeout_seconds)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
