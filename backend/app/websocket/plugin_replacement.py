"""Puts a new generation of a plugin into the place of the old one while connections stay open.

A part of the plugin manager. Order: `startup` of the new one, `initialize` for every connection, `carry_over`; the
switch, in one step of the loop; then the old one's handlers are waited for, its copies cleaned up, and it is shut
down. Invariants: whatever fails before the switch leaves the old generation as it was and undoes what the new one
began; from the switch on no event is given to the old one.
"""

import asyncio
import math
from collections.abc import Callable

from backend.app.websocket.call_result import CallResult
from backend.app.websocket.circuit_breaker import CircuitBreaker
from backend.app.websocket.plugin_base import WebSocketPlugin, is_per_connection, overrides
from backend.app.websocket.plugin_checks import PluginError, error_text
from backend.app.websocket.plugin_context import ConnectionPlugins, CopyState
from backend.app.websocket.plugin_lifecycle import PluginLifecycle, why_not
from backend.app.websocket.plugin_registry import Undo
from backend.app.websocket.plugin_settings import PluginValues

Hold = Callable[[WebSocketPlugin], Undo]


class ReplacementError(Exception):
    """A new generation did not take over; the text says why."""


class PluginReplacement(PluginLifecycle):
    """Live replacement: `succeed_by`."""

    hold: Hold | None = None
    """Has the events of a plugin wait until what it returns is called. Set by the server."""

    async def succeed_by(self, old: WebSocketPlugin, new: WebSocketPlugin) -> None:
        """Put `new` into the place of `old`, which is stopped then; raise ReplacementError if it cannot work.

        Goes on to its end, or back to the beginning, also when the caller is cancelled.
        """
        task = asyncio.get_running_loop().create_task(self._replace(old, new))
        self._late.add(task)
        task.add_done_callback(self._late.discard)
        await asyncio.shield(task)

    async def _replace(self, old: WebSocketPlugin, new: WebSocketPlugin) -> None:
        before = self._standing(old)
        async with before.turn:
            self._check_in_service(old)
            try:
                self.check_successor(old, new)
                settings = (self._values or PluginValues({})).read(new)
            except BaseException as error:  # checking looks at attributes that plugin code computes
                raise ReplacementError(str(error) if isinstance(error, PluginError) else error_text(error)) from error
            standing = self._standing(new)
            standing.settings = settings
            standing.trial = self._trial_breaker()
            releases: list[Undo] = []
            try:
                await self._make_ready(old, new, releases)
                self._check_in_service(old)
                # From here to the end of the block nothing waits: who asks finds the one or the other.
                self._coming.remove(new)
                standing.trial, before.trial = None, self._trial_breaker()
                self.supervisor.breakers.pop(new.name, None)  # What the old one did is not the new one's.
                self._succeed(old, new)
            except BaseException:
                self._coming[:] = [each for each in self._coming if each is not new]
                await self._undo(new)
                raise
            finally:
                for release in releases:
                    release()
        await self.stop(old)

    def _check_in_service(self, old: WebSocketPlugin) -> None:
        if not any(old is known for known in self._plugins):
            raise ReplacementError("it was taken out of service meanwhile")

    def _trial_breaker(self) -> CircuitBreaker:
        """Return a breaker that never opens: while a plugin comes or goes it is called for that alone."""
        return CircuitBreaker(failures=1 << 62, open_seconds=math.inf)

    async def _make_ready(self, old: WebSocketPlugin, new: WebSocketPlugin, releases: list[Undo]) -> None:
        standing = self._standing(new)
        standing.down = "it is starting"
        if self._server is not None and overrides(new, "startup"):
            context = self.context_for(new, self._server[1](new))
            self._demand("startup", await self._call(new, new, "startup", context))
        standing.down = None
        self._coming.append(new)
        await self._initialize_everywhere(old, new)
        if overrides(new, "carry_over"):
            if self.hold is not None:
                releases.append(self.hold(old))
            await self._wait_for_handlers(old)
            self._demand("carry_over", await self._call(new, new, "carry_over", old))
            await asyncio.gather(*(self._carry_over(old, new, connection) for connection in tuple(self._connections)))

    async def _initialize_everywhere(self, old: WebSocketPlugin, new: WebSocketPlugin) -> None:
        """Give every open connection its copy of the new generation; one that comes meanwhile does that itself."""
        if not is_per_connection(new):
            return
        contexts = [each.context for each in self._connections if each.context is not None]
        await asyncio.gather(*(self.initialize_plugin(new, context) for context in contexts))
        for connection in tuple(self._connections):
            found, before = connection.find(new), connection.find(old)
            # A connection that the old one failed for as well says nothing about the new one.
            is_news = before is None or before.state is not CopyState.FAILED
            if found is not None and found.state is CopyState.FAILED and is_news:
                raise ReplacementError(f"initialize {found.failure}")

    async def _carry_over(self, old: WebSocketPlugin, new: WebSocketPlugin, connection: ConnectionPlugins) -> None:
        found, before = connection.find(new), connection.find(old)
        if found is None or before is None:
            return
        if running := found.calls | before.calls:
            await asyncio.wait(tuple(running))
        ready = [each.instance for each in (found, before) if each.state is CopyState.READY and each.instance]
        if len(ready) < 2 or connection.find(new) is not found:  # The connection may have ended meanwhile.
            return
        result = await self._call(new, ready[0], "carry_over", ready[1], scope=found.scope)
        if connection.find(new) is found:
            self._demand("carry_over", result)

    async def _wait_for_handlers(self, plugin: WebSocketPlugin) -> None:
        """Return when the handlers that run now have ended; each ends within its time-out."""
        running = set(self._standing(plugin).calls)
        for connection in self._connections:
            found = connection.find(plugin)
            running |= found.calls if found is not None else set()
        if running:
            await asyncio.wait(running)

    def _demand(self, hook: str, result: CallResult) -> None:
        if not result.is_ok:
            raise ReplacementError(f"{hook} {why_not(result)}")

    async def _undo(self, new: WebSocketPlugin) -> None:
        """Clean up what the new generation began: its copies, `shutdown` if it was started, its tasks."""
        standing = self._standing(new)
        if standing.down is not None:
            standing.down = "it was not started"
        await self.stop(new)
