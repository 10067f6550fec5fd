"""The supervisor: results, time-outs, cancellation of the caller, counters, log records, the breaker."""

import asyncio
import logging
import threading
import time
from typing import Any

import pytest

from backend.app.websocket.call_result import CallState, Failure
from backend.app.websocket.circuit_breaker import BreakerState
from backend.app.websocket.containment import Owner, TaskScope
from backend.app.websocket.supervisor import ERROR_TEXT_BYTES, Supervisor
from tests.plugin_world import DEADLINE_SECONDS, plugin_errors, until, within


async def _hang() -> None:
    await asyncio.Event().wait()


async def _swallow(release: asyncio.Event) -> str:
    while not release.is_set():
        try:
            await release.wait()
        except asyncio.CancelledError:
            continue
    return "late"


async def _fail() -> None:
    raise ValueError("broken")


async def test_a_call_returns_what_the_code_returned() -> None:
    """ok, with value and duration; code that is no coroutine at all is taken, too."""
    supervisor = Supervisor()

    async def give() -> int:
        await asyncio.sleep(0.01)
        return 7

    result = await supervisor.call("probe", "hook", give)
    assert (result.state, result.value, result.exception, result.is_ok) == (CallState.OK, 7, None, True)
    assert 0.005 < result.duration_seconds < DEADLINE_SECONDS
    assert (await supervisor.call("probe", "hook", lambda: 8)).value == 8
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    future.set_result(9)
    assert (await supervisor.call("probe", "hook", lambda: future)).value == 9
    assert (supervisor.stats["probe"].calls, supervisor.stats["probe"].failures) == (3, 0)


async def test_a_failure_is_logged_with_plugin_hook_event_and_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """Log every failure with logger windflow.plugins at ERROR, with traceback and extras."""
    supervisor = Supervisor()
    result = await supervisor.call("probe", "handle_event", _fail, event_type="AUTH_LOGOUT")
    assert result.state is CallState.RAISED
    assert isinstance(result.exception, ValueError)
    assert plugin_errors(caplog.records) == [("probe", "handle_event", "AUTH_LOGOUT")]
    assert "in _fail" in caplog.text
    stats = supervisor.stats["probe"]
    assert "ValueError: broken" in (stats.last_error or "")
    assert "in _fail" in (stats.last_error or "")
    assert stats.last_error_at is not None


async def test_making_the_awaitable_may_fail_as_well() -> None:
    """A hook with a wrong signature raises before there is a coroutine."""
    result = await Supervisor().call("probe", "hook", lambda: 1 / 0)
    assert isinstance(result.exception, ZeroDivisionError)


async def test_failures_in_a_row_are_counted_until_a_call_succeeds() -> None:
    """`consecutive_failures` is what a breaker looks at; on_failure tells it at once."""
    failures: list[Failure] = []
    supervisor = Supervisor(0.02, on_failure=failures.append)
    await supervisor.call("probe", "hook", _fail)
    await supervisor.call("probe", "hook", _hang, event_type="E")
    assert supervisor.stats["probe"].consecutive_failures == 2
    assert [(each.plugin, each.hook, each.event_type, each.state) for each in failures] == [
        ("probe", "hook", None, CallState.RAISED),
        ("probe", "hook", "E", CallState.TIMED_OUT),
    ]
    await supervisor.call("probe", "hook", lambda: None)
    stats = supervisor.stats["probe"]
    assert (stats.consecutive_failures, stats.failures, stats.timeouts, stats.calls) == (0, 2, 1, 3)


async def test_the_calls_own_time_out_goes_before_the_default() -> None:
    """Runs over its time-out: cancelled, and the log says where it was."""
    cancelled = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    supervisor = Supervisor(60)
    result = await within(supervisor.call("probe", "hook", wait, 0.02))
    assert result.state is CallState.TIMED_OUT
    assert cancelled == [True]
    assert "ran over its 0.02 s" in (supervisor.stats["probe"].last_error or "")
    assert "in wait" in (supervisor.stats["probe"].last_error or "")


async def test_who_returns_after_the_cancellation_has_still_run_out_of_time() -> None:
    """A handler that ends within the grace time is timed out, not abandoned, whatever it returns."""

    async def late() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
        return "value"

    result = await within(Supervisor(0.02, cancel_grace_seconds=5).call("probe", "hook", late))
    assert (result.state, result.value) == (CallState.TIMED_OUT, None)


async def test_abandoned_calls_are_counted_while_they_run_and_at_most_so_many(caplog: pytest.LogCaptureFixture) -> None:
    """Swallows the cancellation: abandoned and counted; a bounded number per plugin."""
    release = asyncio.Event()
    supervisor = Supervisor(0.01, cancel_grace_seconds=0.01, max_abandoned=2)
    states = [(await supervisor.call("probe", "hook", lambda: _swallow(release))).state for _ in range(4)]
    assert states == [CallState.ABANDONED, CallState.ABANDONED, CallState.REFUSED, CallState.REFUSED]
    stats = supervisor.stats["probe"]
    assert (stats.abandoned, stats.abandoned_now, stats.refused, stats.calls) == (2, 2, 2, 2)
    assert "in _swallow" in (stats.last_error or "")
    refusals = [record for record in caplog.records if "is not called" in record.getMessage()]
    assert len(refusals) == 1  # An event storm would flood the log.
    assert (await supervisor.call("other", "hook", lambda: 1)).is_ok
    release.set()
    await until(lambda: stats.abandoned_now == 0)
    assert (await supervisor.call("probe", "hook", lambda: 1)).is_ok


async def test_a_cancelled_caller_cancels_the_code_and_gets_its_cancellation(caplog: pytest.LogCaptureFixture) -> None:
    """If the caller's task is cancelled, the handler is cancelled and CancelledError propagates; it is no failure."""
    entered, ended = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    supervisor = Supervisor(60)
    caller = asyncio.create_task(supervisor.call("probe", "hook", wait))
    await within(entered.wait())
    caller.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled()
    assert ended.is_set()
    assert supervisor.stats["probe"].failures == 0
    assert plugin_errors(caplog.records) == []


@pytest.mark.parametrize("times", [1, 2])
async def test_a_cancelled_caller_waits_at_most_the_grace_time(times: int) -> None:
    """Code that swallows the cancellation is abandoned, also if the caller is cancelled again meanwhile."""
    release, entered = asyncio.Event(), asyncio.Event()

    async def swallow() -> None:
        entered.set()
        await _swallow(release)

    supervisor = Supervisor(60, cancel_grace_seconds=0.05 if times == 1 else 60)
    caller = asyncio.create_task(supervisor.call("probe", "hook", swallow))
    await within(entered.wait())
    for _ in range(times):
        caller.cancel()
        await asyncio.sleep(0.01)
    await within(_settled(caller))
    assert caller.cancelled()
    assert supervisor.stats["probe"].abandoned_now == 1
    release.set()
    await until(lambda: supervisor.stats["probe"].abandoned_now == 0)


async def _settled(task: asyncio.Task[Any]) -> None:
    await asyncio.wait([task])


async def test_what_code_raises_when_its_caller_is_cancelled_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """A failing `finally` is a failure like any other."""
    entered = asyncio.Event()

    async def fail_at_the_end() -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("in finally")

    caller = asyncio.create_task(Supervisor(60).call("probe", "hook", fail_at_the_end))
    await within(entered.wait())
    caller.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled()
    assert plugin_errors(caplog.records) == [("probe", "hook", None)]


async def test_after_failures_in_a_row_it_is_not_called(caplog: pytest.LogCaptureFixture) -> None:
    """Failures in a row open the breaker: refused for now and counted, one probe after the pause, one line each."""
    supervisor = Supervisor(breaker_failures=3, breaker_open_seconds=0.05)
    calls: list[int] = []

    async def count() -> None:
        calls.append(1)

    for _ in range(2):
        await supervisor.call("probe", "handle_event", _fail)
    assert (await supervisor.call("probe", "handle_event", count)).is_ok  # In a row: this one begins anew.
    for _ in range(3):
        await supervisor.call("probe", "handle_event", _fail)
    breaker = supervisor.breaker_of("probe")
    assert breaker.state is BreakerState.OPEN
    result = await supervisor.call("probe", "handle_event", count)
    assert (result.state, result.is_for_now) == (CallState.REFUSED, True)
    assert "3 failures in a row; the last: handle_event failed: ValueError" in (result.reason or "")
    assert (len(calls), supervisor.stats["probe"].refused) == (1, 1)
    assert (await supervisor.call("other", "handle_event", count)).is_ok
    assert (await supervisor.call("probe", "cleanup", count)).is_ok  # Who made something has to let go of it.
    assert breaker.state is BreakerState.OPEN
    await asyncio.sleep(0.06)
    assert not (await supervisor.call("probe", "handle_event", _fail)).is_ok
    assert breaker.state is BreakerState.OPEN
    await asyncio.sleep(0.06)
    closed: list[str] = []
    supervisor.on_closed = closed.append
    assert (await supervisor.call("probe", "handle_event", count)).is_ok
    assert (breaker.state, closed) == (BreakerState.CLOSED, ["probe"])
    told = [record.getMessage() for record in caplog.records if "breaker" in record.getMessage()]
    assert [text.split(": ")[1].split(",")[0] for text in told if "is not called" not in text] == [
        "breaker open", "breaker half open", "breaker open", "breaker half open", "breaker closed",
    ]  # fmt: skip


async def test_a_failing_task_and_stuck_threads_open_the_breaker() -> None:
    """What a plugin's task raises counts as a failure; with all threads stuck it is open at once."""
    supervisor = Supervisor(0.02, cancel_grace_seconds=0.02, max_threads=1)
    release = threading.Event()
    result = await supervisor.call(
        "stuck", "handle_event", lambda: supervisor.in_thread("stuck", lambda: release.wait(DEADLINE_SECONDS))
    )
    assert result.state is CallState.ABANDONED
    assert supervisor.breaker_of("stuck").reason == "all its 1 threads are stuck"
    release.set()
    for _ in range(supervisor.breaker_failures):
        owner = Owner("tasks", "handle_event", None, TaskScope(), supervisor)
        supervisor.report_task(owner, ValueError("broken"))
    assert supervisor.breaker_of("tasks").state is BreakerState.OPEN


async def test_a_probe_that_its_caller_gave_up_is_no_answer() -> None:
    """A cancelled probe leaves the next call to be the probe."""
    supervisor = Supervisor(60, breaker_failures=1, breaker_open_seconds=0.01)
    await supervisor.call("probe", "handle_event", _fail)
    await asyncio.sleep(0.02)
    entered = asyncio.Event()

    async def hang() -> None:
        entered.set()
        await asyncio.Event().wait()

    caller = asyncio.create_task(supervisor.call("probe", "handle_event", hang))
    await within(entered.wait())
    assert not (await supervisor.call("probe", "handle_event", asyncio.Event)).is_ok
    caller.cancel()
    await asyncio.wait([caller])
    assert (await supervisor.call("probe", "handle_event", lambda: 7)).value == 7
    assert supervisor.breaker_of("probe").state is BreakerState.CLOSED


async def test_the_kept_text_of_an_error_is_bounded() -> None:
    """`last_error` is at most 8 KiB, and still tells beginning and end."""

    async def fail() -> None:
        raise ValueError("é" * 100_000 + "the end")

    supervisor = Supervisor()
    await supervisor.call("probe", "hook", fail)
    text = supervisor.stats["probe"].last_error or ""
    assert len(text.encode()) <= ERROR_TEXT_BYTES
    assert text.startswith("hook failed")
    assert text.endswith("the end\n")


async def test_an_exception_that_cannot_be_shown_is_contained(caplog: pytest.LogCaptureFixture) -> None:
    """The text of an exception is plugin code as well."""

    class Hostile(Exception):
        def __str__(self) -> str:
            raise SystemExit(9)

    async def fail() -> None:
        raise Hostile

    with caplog.at_level(logging.ERROR):
        result = await Supervisor().call("probe", "hook", fail)
    assert result.state is CallState.RAISED
    assert plugin_errors(caplog.records) == [("probe", "hook", None)]


async def test_an_explanation_becomes_a_note_of_the_traceback() -> None:
    """`explain` adds a sentence; without one the exception stays as it is."""
    supervisor = Supervisor()
    result = await supervisor.call("probe", "hook", _fail, explain=lambda error: f"because of {error}")
    assert result.exception is not None
    assert result.exception.__notes__ == ["because of broken"]
    assert "because of broken" in (supervisor.stats["probe"].last_error or "")
    result = await supervisor.call("probe", "hook", _fail, explain=lambda error: None)
    assert not hasattr(result.exception, "__notes__")


async def test_plain_functions_run_beside_the_loop_with_the_callers_context() -> None:
    """Plain `def` hooks are run in a thread; what they return, awaitable or not, is the value."""
    supervisor = Supervisor()
    threads: list[int] = []

    def block() -> int:
        threads.append(threading.get_ident())
        time.sleep(0.02)
        return 7

    async def later() -> int:
        return 8

    assert (await supervisor.call("probe", "hook", lambda: supervisor.in_thread("probe", block))).value == 7
    assert threads != [threading.get_ident()]
    assert (await supervisor.call("probe", "hook", lambda: supervisor.in_thread("probe", later))).value == 8


async def test_when_all_threads_are_stuck_calls_are_refused_and_counted() -> None:
    """At most 4 threads per plugin; all stuck means that it is not called; it is again after they return."""
    release = threading.Event()
    supervisor = Supervisor(0.02, cancel_grace_seconds=0.01, max_threads=4, breaker_open_seconds=0.01)

    def block() -> None:
        release.wait(DEADLINE_SECONDS)

    try:
        for _ in range(4):
            result = await supervisor.call("probe", "hook", lambda: supervisor.in_thread("probe", block))
            assert result.state is CallState.ABANDONED
        assert "in wait (thread)" in (supervisor.stats["probe"].last_error or "")
        result = await supervisor.call("probe", "hook", lambda: supervisor.in_thread("probe", block))
        assert (result.state, result.reason) == (CallState.REFUSED, "all its 4 threads are stuck")
        assert supervisor.stats["probe"].refused == 1
        assert (await supervisor.call("other", "hook", lambda: supervisor.in_thread("other", lambda: 1))).value == 1
    finally:
        release.set()
    await until(lambda: supervisor.stats["probe"].abandoned_now == 0)
    await until(lambda: supervisor.breaker_of("probe").retry_after_seconds == 0)
    assert (await supervisor.call("probe", "hook", lambda: supervisor.in_thread("probe", lambda: 2))).value == 2
