"""Starting and stopping plugins with the process, and their copies with each connection.

The middle part of the plugin manager. The one rule for state: a plugin that overrides
`initialize` or `cleanup` works, per connection, on a shallow copy made before `initialize`.
Invariants: `cleanup` runs exactly once for each `initialize` that succeeded, and no task of
a connection's plugins outlives it.
"""

import asyncio
import copy
import inspect
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any

from pydantic import BaseModel

from backend.app.schemas.event_spec import EventCatalogue
from backend.app.websocket import containment
from backend.app.websocket.call_result import CallResult, CallState
from backend.app.websocket.plugin_base import WebSocketPlugin, is_per_connection, overrides
from backend.app.websocket.plugin_checks import PluginError, error_text
from backend.app.websocket.plugin_context import ConnectionPlugins, CopyState, PluginContext, PluginCopy
from backend.app.websocket.plugin_hints import assigned_in_initialize
from backend.app.websocket.plugin_limits import PluginLimits
from backend.app.websocket.plugin_registry import PluginRegistry, Undo
from backend.app.websocket.plugin_settings import PluginValues
from backend.app.websocket.plugin_standing import Standing
from backend.app.websocket.supervisor import Supervisor

ContextFactory = Callable[[WebSocketPlugin], PluginContext]


class PluginLifecycle(PluginRegistry):
    """The hooks that run once per process and once per connection."""

    def __init__(self, supervisor: Supervisor | None = None, catalogue: EventCatalogue | None = None) -> None:
        super().__init__(catalogue)
        self.supervisor = supervisor or Supervisor()
        self.supervisor.on_closed = self._back_in_service
        self._connections: weakref.WeakSet[ConnectionPlugins] = weakref.WeakSet()
        self._standings: dict[int, Standing] = {}
        self._coming: list[WebSocketPlugin] = []
        """New generations that are being made ready: connections initialize them, nothing else calls them."""
        self._server: tuple[asyncio.AbstractEventLoop, ContextFactory] | None = None
        """Set from `startup_all` to `shutdown_all`."""
        self._undo_containment: Undo = lambda: None
        self._late: set[asyncio.Task[Any]] = set()
        """Starts and stops of plugins that were registered or unregistered while the server runs."""

    def configure(self, limits: PluginLimits) -> None:
        """Take time-outs, breakers, the number of threads and the plugins' own values from the settings."""
        self._values = PluginValues(limits.plugin)
        self.supervisor.default_timeout_seconds = limits.plugin_timeout_seconds
        self.supervisor.cancel_grace_seconds = limits.plugin_cancel_grace_seconds
        self.supervisor.max_threads = limits.plugin_threads
        self.supervisor.breaker_failures = limits.breaker_failures
        self.supervisor.breaker_open_seconds = limits.breaker_open_seconds

    # ---- the process -----------------------------------------------------------------------------

    async def startup_all(self, context: PluginContext | ContextFactory) -> None:
        """Run every plugin's `startup`, in parallel, with the context (or what the factory makes for each plugin).

        From now on plugins that are registered start by themselves, and the tasks that plugins make
        on this event loop are contained, until `shutdown_all`.
        """
        make_context = (lambda _: context) if isinstance(context, PluginContext) else context
        self._server = asyncio.get_running_loop(), make_context
        self._undo_containment = containment.install(asyncio.get_running_loop())
        await asyncio.gather(*(self.start(plugin) for plugin in self.plugins))

    async def shutdown_all(self) -> None:
        """Run the `shutdown` of every plugin that was started, in parallel, and end all tasks that plugins made."""
        if self._server is None:
            return
        try:
            if self._late:
                await asyncio.wait(self._late)
            await asyncio.gather(*(self.stop(plugin) for plugin in self.plugins))
        finally:
            self._server = None
            self._undo_containment()

    async def settled(self) -> None:
        """Wait until every plugin that was registered or unregistered up to now is started or stopped."""
        await asyncio.sleep(0)  # A start or stop begins with the loop's next step.
        while self._late:
            await asyncio.wait(tuple(self._late))

    async def start(self, plugin: WebSocketPlugin) -> CallResult:
        """Run a plugin's `startup`, then its `initialize` for every open connection.

        Until `startup` has succeeded the plugin is called for nothing else; a failure is shown in `failures`.
        """
        standing = self._standing(plugin)
        async with standing.turn:
            standing.down = "it is starting"
            standing.scope.reopen()
            try:
                standing.settings = (self._values or PluginValues({})).read(plugin)
            except PluginError as error:
                standing.down = str(error)
                self.list_failure(plugin.name, standing.down)
                return CallResult(CallState.REFUSED, reason=standing.down)
            result = CallResult(CallState.OK)
            if self._server is not None and overrides(plugin, "startup"):
                context = self.context_for(plugin, self._server[1](plugin))
                result = await self._call(plugin, plugin, "startup", context)
            if not result.is_ok:
                standing.down = f"startup {why_not(result)}"
                self.list_failure(plugin.name, standing.down)
                await self.supervisor.close_scope(plugin.name, standing.scope)
                return result
            standing.down = None
            self._failures.pop(plugin.name, None)
            contexts = [connection.context for connection in self._connections]
            await asyncio.gather(*(self.initialize_plugin(plugin, each) for each in contexts if each is not None))
            return result

    async def stop(self, plugin: WebSocketPlugin) -> None:
        """Clean a plugin up on every open connection, run its `shutdown` if it was started, and end its tasks.

        Handlers that run are waited for; each ends within its time-out.
        """
        standing = self._standing(plugin)
        async with standing.turn:
            copies = [
                (found, connection.context)
                for connection in tuple(self._connections)
                if connection.context is not None
                for found in connection.take(plugin)
            ]
            await asyncio.gather(*(self._cleanup(found, context) for found, context in copies))
            if standing.calls:
                await asyncio.wait(tuple(standing.calls))
            if self._server is not None and standing.down is None and overrides(plugin, "shutdown"):
                context = self.context_for(plugin, self._server[1](plugin))
                await self._call(plugin, plugin, "shutdown", context)
            await self.supervisor.close_scope(plugin.name, standing.scope)
        if not standing.scope.tasks and not standing.turn.locked():
            self._standings.pop(id(plugin), None)

    def context_for(self, plugin: WebSocketPlugin, context: PluginContext) -> PluginContext:
        """Return the context with the plugin's settings, unless whoever made it gave it some."""
        settings = self._standing(plugin).settings
        if settings is None or context.settings is not None:
            return context
        return replace(context, settings=settings)

    def _standing(self, plugin: WebSocketPlugin) -> Standing:
        """Return how a plugin stands; a new entry for one that was not seen yet."""
        standing = self._standings.get(id(plugin))
        if standing is None:
            standing = self._standings[id(plugin)] = Standing(plugin, settings=self._settings_of(plugin))
        return standing

    def _settings_of(self, plugin: WebSocketPlugin) -> BaseModel | None:
        """Return what the plugin was registered with; without a server, that is its defaults where it has them."""
        try:
            return (self._values or PluginValues({})).read(plugin)
        except PluginError:
            return None

    def _why_down(self, plugin: WebSocketPlugin) -> str | None:
        standing = self._standings.get(id(plugin))
        if standing is not None and standing.down is not None:
            return standing.down
        if self._server is not None and not any(plugin is known for known in (*self._plugins, *self._coming)):
            return "it is not registered"
        return None

    def _back_in_service(self, name: str) -> None:
        plugin = self.get(name)
        if plugin is not None and self._server is not None and is_per_connection(plugin):
            self._later(self._initialize_refused, plugin)

    async def _initialize_refused(self, plugin: WebSocketPlugin) -> None:
        """Initialize a plugin for the connections that came while its breaker was open."""
        for connection in tuple(self._connections):
            found, context = connection.find(plugin), connection.context
            if found is not None and found.is_refused and context is not None:
                connection.take(plugin)
                await self.initialize_plugin(plugin, context)

    def _added(self, plugin: WebSocketPlugin) -> None:
        self.supervisor.breakers.pop(plugin.name, None)  # What another one of that name did is not this one's.
        if self._server is not None:
            self._standing(plugin).down = "it is starting"
            self._later(self.start, plugin)
        super()._added(plugin)

    def _remove(self, plugin: WebSocketPlugin) -> None:
        super()._remove(plugin)
        if self._server is not None:
            self._later(self.stop, plugin)
        else:
            self._standings.pop(id(plugin), None)

    def _later(self, act: Callable[[WebSocketPlugin], Coroutine[Any, Any, Any]], plugin: WebSocketPlugin) -> None:
        """Start or stop a plugin in a task of the server's loop, also when asked from a thread or by a plugin."""
        assert self._server is not None
        loop = self._server[0]

        def begin() -> None:
            if self._server is None:
                return  # The server stopped meanwhile, and every plugin with it.
            task = loop.create_task(act(plugin))
            self._late.add(task)
            task.add_done_callback(self._late.discard)

        loop.call_soon_threadsafe(begin)

    # ---- a connection ----------------------------------------------------------------------------

    async def initialize_all(self, context: PluginContext) -> None:
        """Run every plugin's `initialize` for a connection, in parallel; takes at most the longest time-out.

        A plugin whose `initialize` fails is not called for this connection; the others and the connection live.
        """
        connection = context._connection_plugins
        connection.context = context
        self._connections.add(connection)
        # Most connections need none: what a restart does for every one of them at once must be next to nothing.
        needed = [plugin for plugin in (*self._plugins, *self._coming) if is_per_connection(plugin)]
        if needed:
            await asyncio.gather(*(self.initialize_plugin(plugin, context) for plugin in needed))

    async def initialize_plugin(self, plugin: WebSocketPlugin, context: PluginContext) -> None:
        """Run one plugin's `initialize` for a connection, on a copy; nothing if that was done or it needs no copy."""
        connection = context._connection_plugins
        if not is_per_connection(plugin) or self._why_down(plugin) or connection.find(plugin) is not None:
            return
        scope = containment.TaskScope(parent=self._standing(plugin).scope)
        found = PluginCopy(plugin, plugin.name, scope)
        starting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        found.calls.add(starting)
        connection.add(found)

        def make() -> Awaitable[Any] | None:
            found.instance = copy.copy(plugin)
            if not overrides(plugin, "initialize"):
                return None
            return self._run(found.name, found.instance.initialize, self.context_for(plugin, context))

        try:
            result = await self.supervisor.call(
                found.name,
                "initialize",
                make,
                plugin.timeout_seconds,
                scope=found.scope,
                trial=self._standing(plugin).trial,
            )
            found.state = CopyState.READY if result.is_ok else CopyState.FAILED
            found.is_refused = result.is_for_now
            found.failure = None if result.is_ok else why_not(result)
        except asyncio.CancelledError:
            found.state = CopyState.FAILED
            scope.cancel()
            raise
        finally:
            found.calls.discard(starting)
            starting.set_result(None)
        if not result.is_ok:
            await self.supervisor.close_scope(found.name, scope)

    async def cleanup_all(self, context: PluginContext) -> None:
        """Run `cleanup` of every plugin that was initialized on this connection, once, in parallel; end their tasks.

        Handlers of the connection that still run, and an `initialize` that does, are waited for.
        A cancelled clean-up still cancels the tasks.
        """
        connection = context._connection_plugins
        self._connections.discard(connection)
        connection.context = None
        await asyncio.gather(*(self._cleanup(found, context) for found in connection.take_all()))

    async def _cleanup(self, found: PluginCopy, context: PluginContext) -> None:
        """Run one copy's `cleanup`, if its `initialize` succeeded, and end its tasks in any case."""
        instance = found.instance
        try:
            if found.calls:
                await asyncio.wait(tuple(found.calls))
            if found.state is CopyState.READY and instance is not None and overrides(instance, "cleanup"):
                own = self.context_for(found.registered, context)
                await self._call(found.registered, instance, "cleanup", own, scope=found.scope)
        except asyncio.CancelledError:
            found.scope.cancel()
            raise
        await self.supervisor.close_scope(found.name, found.scope)

    # ---- one call --------------------------------------------------------------------------------

    async def _call(
        self,
        plugin: WebSocketPlugin,
        instance: WebSocketPlugin,
        hook: str,
        *arguments: Any,
        event_type: str | None = None,
        scope: containment.TaskScope | None = None,
    ) -> CallResult:
        """Run a hook of the registered plugin, or of a connection's copy of it, under the supervisor."""
        name = plugin.name

        def explain(error: BaseException) -> str | None:
            return assigned_in_initialize(error, plugin) if instance is plugin else None

        async def run() -> Any:
            value = await self._run(name, getattr(instance, hook), *arguments)
            if hook == "handle_message" and not (value is None or isinstance(value, dict)):
                raise TypeError(f"handle_message must return a dict or None, returned {type(value).__name__}")
            return value

        return await self.supervisor.call(
            name,
            hook,
            run,
            plugin.timeout_seconds,
            event_type=event_type,
            scope=scope or self._standing(plugin).scope,
            explain=explain,
            trial=self._standing(plugin).trial,
        )

    def _run(self, name: str, function: Callable[..., Any], *arguments: Any) -> Awaitable[Any]:
        """Start a coroutine function as it is, and any other in a thread: it may block."""
        if inspect.iscoroutinefunction(function):
            started: Awaitable[Any] = function(*arguments)
            return started
        return self.supervisor.in_thread(name, lambda: function(*arguments))


def why_not(result: CallResult) -> str:
    """Return how a call failed, in a few words."""
    cause = result.reason if result.exception is None else error_text(result.exception)
    return f"{result.state}: {cause}" if cause else str(result.state)
