"""Calls plugin code so that it cannot hurt: every call has a time-out, a task of its own and a name.

Called by the plugin manager for each hook; knows no plugin type. Invariant: whatever the
code does (raise, exit, hang, swallow its cancellation), `call` returns a `CallResult` in
bounded time, the failure is logged with logger `windflow.plugins`, and counted in `stats`.
"""

import asyncio
import inspect
import logging
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from backend.app import metrics
from backend.app.websocket.call_meter import CallMeter
from backend.app.websocket.call_result import CallResult, CallState, Failure, PluginStats
from backend.app.websocket.circuit_breaker import BreakerState, CircuitBreaker
from backend.app.websocket.containment import Owner, TaskScope, position
from backend.app.websocket.deadlines import Deadlines
from backend.app.websocket.plugin_threads import PluginThreads
from backend.app.websocket.running_call import RunningCall

logger = logging.getLogger("windflow.plugins")

ERROR_TEXT_BYTES = 8192
"""Most of a traceback that is kept for the operator's page (bytes of UTF-8); the log has all of it."""


_UNCONDITIONAL = frozenset({"startup", "shutdown", "cleanup"})
"""Called also while the breaker is open: who made something has to let go of it, and a start is a new beginning."""
_LEVELS = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}


class Supervisor:
    """Runs and counts calls of plugin code, each plugin's under a circuit breaker of its own."""

    def __init__(
        self,
        default_timeout_seconds: float = 5.0,
        *,
        cancel_grace_seconds: float = 1.0,
        max_threads: int = 4,
        max_abandoned: int = 16,
        breaker_failures: int = 5,
        breaker_open_seconds: float = 30.0,
        on_failure: Callable[[Failure], None] | None = None,
    ) -> None:
        self.default_timeout_seconds = default_timeout_seconds
        self.cancel_grace_seconds = cancel_grace_seconds
        self.max_threads = max_threads
        self.max_abandoned = max_abandoned
        self.breaker_failures = breaker_failures
        self.breaker_open_seconds = breaker_open_seconds
        self.on_failure = on_failure
        self.on_closed: Callable[[str], None] | None = None
        """Called with the name of a plugin that is called again after its breaker was open."""
        self.breakers: dict[str, CircuitBreaker] = {}
        self.stats: dict[str, PluginStats] = {}
        self._threads: dict[str, PluginThreads] = {}
        self._abandoned: set[asyncio.Task[None]] = set()
        self._refusing: set[str] = set()
        self._deadlines: Deadlines | None = None
        self._meters: dict[tuple[str, str, CallState], CallMeter] = {}

    def stats_of(self, name: str) -> PluginStats:
        """Return the counters of a plugin, new ones at its first mention."""
        found = self.stats.get(name)
        if found is None:
            found = self.stats[name] = PluginStats()
        return found

    def breaker_of(self, name: str) -> CircuitBreaker:
        """Return the breaker of a plugin, a closed one at its first mention."""
        found = self.breakers.get(name)
        if found is None:
            found = self.breakers[name] = CircuitBreaker(
                self.breaker_failures, self.breaker_open_seconds, partial(self._breaker_changed, name)
            )
            metrics.PLUGIN_BREAKER.labels(name).set(_LEVELS[found.state])
        return found

    def _breaker_changed(self, name: str, state: BreakerState, reason: str) -> None:
        metrics.PLUGIN_BREAKER.labels(name).set(_LEVELS[state])
        extra = {"plugin": name, "state": state.value}
        if state is BreakerState.OPEN:
            metrics.PLUGIN_BREAKER_OPENED.labels(name).inc()
            pause = self.breakers[name].retry_after_seconds
            logger.error("plugin %s: breaker open, not called for %.0f s: %s", name, pause, reason, extra=extra)
        elif state is BreakerState.HALF_OPEN:
            logger.warning("plugin %s: breaker half open, one call is tried", name, extra=extra)
        else:
            logger.warning("plugin %s: breaker closed", name, extra=extra)
            if self.on_closed is not None:
                self.on_closed(name)

    async def call(
        self,
        name: str,
        hook: str,
        make_awaitable: Callable[[], Any],
        timeout_seconds: float | None = None,
        *,
        event_type: str | None = None,
        scope: TaskScope | None = None,
        explain: Callable[[BaseException], str | None] | None = None,
        trial: CircuitBreaker | None = None,
    ) -> CallResult:
        """Run `make_awaitable()` and await what it returns, for at most the time-out; never raise what it raises.

        Over its time-out the code is cancelled; if it has not ended within the grace time it is
        abandoned: it runs on, counted, and is ended by force when the loop closes. A cancelled
        caller cancels the code, waits the grace time for it at most, and gets its CancelledError.
        Tasks that the code makes belong to `scope`; without one nobody ends them. `explain` may return
        a sentence to add to a traceback. `trial` is asked and told in place of the name's breaker.
        """
        stats, breaker = self.stats_of(name), trial or self.breaker_of(name)
        if (reason := self._refusal(name, hook, stats, breaker)) is not None:
            return self._refuse(name, hook, event_type, reason)
        self._refusing.discard(name)
        stats.calls += 1
        timeout = self.default_timeout_seconds if timeout_seconds is None else timeout_seconds
        call = RunningCall(Owner(name, hook, event_type, scope or TaskScope(), self), make_awaitable, trial)
        started = time.perf_counter()
        task = asyncio.get_running_loop().create_task(call.run(), name=f"plugin {name}: {hook}")
        try:
            state = await self._watch(task, call, timeout)
        except asyncio.CancelledError:
            breaker.gave_up()
            raise
        duration = time.perf_counter() - started
        meter = self._meters.get((name, hook, state))
        if meter is None:
            meter = self._meters[name, hook, state] = CallMeter(name, hook, state)
        meter.count(duration)
        if state is CallState.OK:
            stats.consecutive_failures = 0
            breaker.succeeded()
            return CallResult(state, call.value, None, duration)
        if state is CallState.RAISED and explain is not None and call.exception is not None:
            _add_note(call.exception, explain)
        self._report(call, state, timeout)
        return CallResult(state, None, call.exception, duration)

    async def in_thread(self, name: str, function: Callable[[], Any]) -> Any:
        """Call a plain function in one of the plugin's threads; await what it returns if that is an awaitable."""
        value = await self._threads_of(name).run(function)
        return await value if inspect.isawaitable(value) else value

    async def close_scope(self, name: str, scope: TaskScope) -> None:
        """Cancel and await the tasks that a plugin left behind in a scope, at most the grace time; count and log them.

        A task that ignores this too is counted as abandoned.
        """
        left = await scope.close(self.cancel_grace_seconds)
        if not left.names and not left.still_running:
            return
        stats = self.stats_of(name)
        stats.tasks_left_behind += len(left.names)
        stats.abandoned += left.still_running
        logger.warning(
            "plugin %s left %d tasks behind (%s); %d of them ignore their cancellation",
            name,
            len(left.names),
            ", ".join(left.names[:10]),
            left.still_running,
            extra={"plugin": name, "hook": "task", "event_type": None},
        )

    def report_task(self, owner: Owner, error: BaseException) -> None:
        """Log and count the failure of a task that a plugin made."""
        stats = self.stats_of(owner.plugin)
        stats.task_failures += 1
        metrics.PLUGIN_TASK_FAILURES.labels(owner.plugin).inc()
        message = f"a task made in {owner.hook} failed"
        self._record(owner.plugin, "task", owner.event_type, CallState.RAISED, message, error)

    def _threads_of(self, name: str) -> PluginThreads:
        threads = self._threads.setdefault(name, PluginThreads(name, self.max_threads))
        threads.limit = self.max_threads
        return threads

    def _refusal(self, name: str, hook: str, stats: PluginStats, breaker: CircuitBreaker) -> str | None:
        """Say why the plugin must not be called now, or None."""
        if name in self._threads and self._threads[name].is_exhausted:
            return f"all its {self.max_threads} threads are stuck"
        if stats.abandoned_now >= self.max_abandoned:
            return f"{stats.abandoned_now} of its calls ignore their cancellation and still run"
        # Asked last: who is admitted may be the probe, and has to be called then.
        if hook not in _UNCONDITIONAL and not breaker.admit():
            return f"its breaker is {breaker.state.value}: {breaker.reason}"
        return None

    def _refuse(self, name: str, hook: str, event_type: str | None, reason: str) -> CallResult:
        """Count a call that is not made; only the first of a row is logged, an event storm would flood the log."""
        self.stats_of(name).refused += 1
        if name not in self._refusing:
            self._refusing.add(name)
            extra = {"plugin": name, "hook": hook, "event_type": event_type}
            logger.error("plugin %s is not called: %s", name, reason, extra=extra)
        return CallResult(CallState.REFUSED, reason=reason, is_for_now=True)

    async def _watch(self, task: asyncio.Task[None], call: RunningCall, timeout: float) -> CallState:
        """Wait for the call's end, its time-out or the caller's cancellation, which is passed on and raised."""
        try:
            await call.watch(task, self._deadlines_of(task.get_loop()), timeout, self.cancel_grace_seconds)
        except asyncio.CancelledError:
            task.cancel()
            try:
                await asyncio.wait((task,), timeout=self.cancel_grace_seconds)
            finally:
                if not task.done():
                    self._abandon(task, call)
                    self._report(call, CallState.ABANDONED, timeout)
                elif call.exception is not None and not isinstance(call.exception, asyncio.CancelledError):
                    self._report(call, CallState.RAISED, timeout)
            raise
        if task.done():
            if call.is_late:
                return CallState.TIMED_OUT
            return CallState.OK if call.exception is None else CallState.RAISED
        self._abandon(task, call)
        return CallState.ABANDONED

    def _deadlines_of(self, loop: asyncio.AbstractEventLoop) -> Deadlines:
        """Return the table of the running loop: a manager without a server may be used on one after another."""
        if self._deadlines is None or self._deadlines.loop is not loop:
            self._deadlines = Deadlines(loop)
        return self._deadlines

    def _abandon(self, task: asyncio.Task[None], call: RunningCall) -> None:
        """Let a call go that will not end. It stays referenced and counted until it does."""
        call.leash.is_abandoned = True
        stats = self.stats_of(call.owner.plugin)
        stats.abandoned += 1
        stats.abandoned_now += 1
        self._abandoned.add(task)

        def ended(_: asyncio.Task[None]) -> None:
            stats.abandoned_now -= 1
            self._abandoned.discard(task)

        task.add_done_callback(ended)

    def _report(self, call: RunningCall, state: CallState, timeout: float) -> None:
        owner = call.owner
        message = f"{owner.hook} failed"
        if state is CallState.TIMED_OUT:
            self.stats_of(owner.plugin).timeouts += 1
            message = f"{owner.hook} ran over its {timeout:g} s and was cancelled"
        elif state is CallState.ABANDONED:
            message = f"{owner.hook} ignores its cancellation and was abandoned at {self._where(call)}"
        self._record(owner.plugin, owner.hook, owner.event_type, state, message, call.exception, call.trial)

    def _where(self, call: RunningCall) -> str | None:
        """Say where abandoned code stands: in its thread, or where its coroutine waits."""
        threads = self._threads.get(call.owner.plugin)
        return (threads.position() if threads else None) or position(call.leash.coroutine)

    def _record(
        self,
        name: str,
        hook: str,
        event_type: str | None,
        state: CallState,
        message: str,
        error: BaseException | None,
        trial: CircuitBreaker | None = None,
    ) -> None:
        """Count a failure, keep its text for the operator, log it, and tell `on_failure`."""
        stats = self.stats_of(name)
        stats.failures += 1
        stats.consecutive_failures += 1
        stats.last_error = _text(message, error)
        stats.last_error_at = datetime.now(UTC)
        suffix = f" (event {event_type})" if event_type else ""
        extra = {"plugin": name, "hook": hook, "event_type": event_type}
        logger.error("plugin %s: %s%s", name, message, suffix, exc_info=error, extra=extra)
        threads = self._threads.get(name)
        if threads is not None and threads.is_exhausted:
            (trial or self.breaker_of(name)).trip(f"all its {self.max_threads} threads are stuck")
        else:
            (trial or self.breaker_of(name)).failed(message if error is None else f"{message}: {type(error).__name__}")
        if self.on_failure is not None:
            self.on_failure(Failure(name, hook, event_type, state, error))


def _text(message: str, error: BaseException | None) -> str:
    """Return message and traceback; of a long one the beginning and the end, which says what was raised where."""
    text = message if error is None else f"{message}\n{''.join(traceback.format_exception(error))}"
    encoded = text.encode("utf-8", "backslashreplace")
    if len(encoded) <= ERROR_TEXT_BYTES:
        return text
    beginning, end = encoded[: ERROR_TEXT_BYTES // 4], encoded[-ERROR_TEXT_BYTES // 2 :]
    return beginning.decode("utf-8", "ignore") + "\n…\n" + end.decode("utf-8", "ignore")


def _add_note(error: BaseException, explain: Callable[[BaseException], str | None]) -> None:
    note = explain(error)
    if note is not None:
        error.add_note(note)
