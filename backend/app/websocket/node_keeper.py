"""Keeps this process a node: renews its lease, takes dead nodes over, and goes on as a new node after a lost lease.

Run by `main`. Nothing is dispatched or appended in the name of a node that was lost (R10).
"""

import asyncio
import logging

from backend.app import metrics
from backend.app.config import Settings
from backend.app.realtime.node import Node
from backend.app.realtime.node_hooks import NodeHooks
from backend.app.storage_failures import log_failure
from backend.app.websocket.cursor_log import CursorLog
from backend.app.websocket.dispatcher import Dispatcher

logger = logging.getLogger("windflow.nodes")

_RENEWALS = 3
"""Rounds within one lease."""


class NodeKeeper:
    """One task: a round at the start, then three within each lease, and one at once when a write was refused."""

    def __init__(self, log: CursorLog, hooks: NodeHooks, dispatcher: Dispatcher, settings: Settings) -> None:
        self._log = log
        self._hooks = hooks
        self._dispatcher = dispatcher
        self._lease_seconds = settings.node_lease_seconds
        self._backlog_seconds = settings.plugin_backlog_seconds
        self._heads: dict[str, int] = {}
        self._is_due = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon_threadsafe(self._is_due.set)  # The database's thread calls it.

        hooks.on_lost = wake

    async def run(self) -> None:
        """Go on until cancelled; a round that fails is followed by the next one."""
        while True:
            try:
                async with asyncio.timeout(self._lease_seconds / _RENEWALS):
                    await self._is_due.wait()
            except TimeoutError:
                pass
            self._is_due.clear()
            try:
                await self.round()
            except Exception as error:  # noqa: BLE001 - log_failure tells of it
                # Whatever failed, a database that is away above all, must not be the end of the work.
                metrics.PERIODIC_FAILURES.labels("node lease").inc()
                log_failure(logger, "the lease of this node cannot be renewed; it is tried again", error)

    async def round(self) -> None:
        """Renew, take over, and look for what was not handed over. Raises what the database raises."""
        lost = await self._log.renew(self._hooks.node.id, self._dispatcher.nodes(), self._lease_seconds)
        self._dispatcher.lose(lost)
        if self._hooks.node.is_lost:
            await self._begin_anew()
        await self._take_over()
        self._heads = await self._dispatcher.look_for_missing(self._heads)

    async def _begin_anew(self) -> None:
        """Take a new id; whoever took the old one over handles what it left."""
        old, new = self._hooks.node.id, Node()
        await self._log.register(new, self._lease_seconds)
        self._dispatcher.lose(tuple(self._dispatcher.nodes()))
        self._hooks.become(new)
        self._is_due.clear()
        metrics.NODE_LOST.inc()
        logger.error("this server was taken for dead, as node %s; it goes on as node %s", old, new.id)

    async def _take_over(self) -> None:
        own, wanted = self._hooks.node.id, self._dispatcher.wanted()
        while True:
            taken, backlogs = await self._log.take_over(own, self._lease_seconds, wanted)
            if not taken:
                break
            metrics.NODES_TAKEN_OVER.inc(len(taken))
            self._dispatcher.inherit(taken, backlogs)
            left = sum(backlog.count for backlog in backlogs)
            logger.info("%d dead nodes are taken over; plugins go on with %d events", len(taken), left)
        for backlog in await self._log.remove_unclaimed(own, tuple(wanted), self._backlog_seconds):
            if backlog.count:
                plugin = backlog.key.plugin
                metrics.PLUGIN_SKIPPED.labels(plugin, "absent").inc(backlog.count)
                logger.error("plugin %s is not here; %d events for it are skipped", plugin, backlog.count)

    async def release(self) -> None:
        """End the leases, as the last write of this process."""
        try:
            await self._log.release(self._hooks.node.id)
        except Exception:
            # The lease ends by itself.
            logger.exception("the lease of this node cannot be ended")
