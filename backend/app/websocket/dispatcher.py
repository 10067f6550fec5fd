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
from backend.app.websocket.contexts import Contexts
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
        self.tasks: set[asyncio.Task[None]] = set()
        self.waiting = 0

    def put(self, event: Event) -> bool:
        """Take an event; False if the queue is full."""
        if self.waiting >= self._limit:
            return False
        self.waiting += 1
        metrics.PLUGIN_QUEUE.labels(self._plugin.name).set(self.waiting)
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

    async def _work_off(self, key: str) -> None:
        lane = self._lanes[key]
        try:
            while lane:
                event = lane.popleft()
                try:
                    context = self._contexts.for_event(event)
                    await self._manager.call_event(self._plugin, event.spec.name, event.payload, context)
                except Exception:
                    # The supervisor contains the plugin; this is our own failure, and the next event goes on.
                    logger.exception("dispatch failed", extra={"plugin": self._plugin.name, "event_id": event.id})
                finally:
                    self.waiting -= 1
                    metrics.PLUGIN_QUEUE.labels(self._plugin.name).set(self.waiting)
        finally:
            self.waiting -= len(lane)
            del self._lanes[key]


class Dispatcher:
    """Gives each event to the plugins that listen to it."""

    def __init__(self, manager: WebSocketPluginManager, contexts: Contexts, queue_limit: int) -> None:
        self._manager = manager
        self._contexts = contexts
        self._queue_limit = queue_limit
        self._queues: dict[WebSocketPlugin, _PluginQueue] = {}

    def __call__(self, event: Event) -> None:
        """Queue an event for every plugin that listens to its type."""
        for plugin in self._manager.listening(event.spec.name):
            queue = self._queues.get(plugin)
            if queue is None:
                queue = self._queues[plugin] = _PluginQueue(plugin, self._manager, self._contexts, self._queue_limit)
            if not queue.put(event):
                metrics.EVENTS_DROPPED.labels("plugin").inc()
                logger.warning(
                    "a plugin's queue is full; the event is dropped for it",
                    extra={"plugin": plugin.name, "event_type": event.spec.name, "event_id": event.id},
                )

    def forget(self, plugin: WebSocketPlugin) -> None:
        """Let go of a plugin that was unregistered; what runs for it finishes."""
        self._queues.pop(plugin, None)

    async def stop(self, timeout_seconds: float) -> None:
        """Wait for what runs, for a bounded time, then cancel it."""
        tasks = [task for queue in self._queues.values() for task in queue.tasks]
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=timeout_seconds)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
