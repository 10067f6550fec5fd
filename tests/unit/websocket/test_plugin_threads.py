"""Threads for plain `def` hooks: their number, the order of waiting calls, and who gave up."""

import asyncio
import contextvars
import threading
from functools import partial

import pytest

from backend.app.websocket.plugin_threads import PluginThreads
from tests.plugin_world import DEADLINE_SECONDS, until

_variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")


async def test_calls_above_the_limit_wait_for_a_thread_in_order() -> None:
    """At most `limit` threads; who comes later waits and is served in order."""
    threads = PluginThreads("two", 2)
    release = threading.Event()
    running: list[int] = []
    most = 0

    def work(number: int) -> int:
        nonlocal most
        running.append(number)
        most = max(most, sum(each.name == "plugin-two" for each in threading.enumerate()))
        release.wait(DEADLINE_SECONDS)
        return number

    tasks = [asyncio.create_task(threads.run(partial(work, number))) for number in range(6)]
    await until(lambda: len(running) == 2)
    release.set()
    assert await asyncio.gather(*tasks) == list(range(6))
    assert sorted(running[:2]) == [0, 1]
    assert most == 2
    await until(lambda: not any(each.name == "plugin-two" for each in threading.enumerate()))


async def test_exceptions_come_back_also_those_that_end_a_process() -> None:
    """sys.exit() in a thread, and StopIteration, which a future would refuse."""
    threads = PluginThreads("probe", 1)
    for error in (ValueError("x"), SystemExit(3), KeyboardInterrupt()):

        def fail(error: BaseException = error) -> None:
            raise error

        with pytest.raises(type(error)):
            await threads.run(fail)

    def stop() -> None:
        raise StopIteration

    with pytest.raises(RuntimeError, match="StopIteration"):
        await threads.run(stop)


async def test_the_function_sees_the_callers_context_variables() -> None:
    """A logger that reads the request from a context variable works in a plain `def` hook, too."""
    _variable.set("mine")
    assert await PluginThreads("probe", 1).run(_variable.get) == "mine"


async def test_who_gives_up_while_waiting_is_never_called() -> None:
    """A cancelled call that no thread has begun is withdrawn; one that runs is stuck until it returns."""
    threads = PluginThreads("probe", 1)
    release, entered = threading.Event(), threading.Event()
    called: list[int] = []

    def block() -> None:
        entered.set()
        release.wait(DEADLINE_SECONDS)

    try:
        first = asyncio.create_task(threads.run(block))
        await asyncio.to_thread(entered.wait, DEADLINE_SECONDS)
        second = asyncio.create_task(threads.run(lambda: called.append(2)))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([second])
        assert second.cancelled()
        assert not threads.is_exhausted
        first.cancel()
        await until(lambda: threads.is_exhausted)
        first.cancel()  # Giving up twice does not count twice.
        assert not first.done()
        assert " in wait (thread)" in (threads.position() or "")
    finally:
        release.set()
    await asyncio.wait([first])
    assert first.cancelled()
    assert not threads.is_exhausted
    assert threads.position() is None
    assert called == []


def test_a_thread_may_outlive_the_loop_of_its_caller() -> None:
    """The server's end does not wait for a blocked plugin, and its late return hurts nobody."""
    threads = PluginThreads("late", 1)
    release, entered = threading.Event(), threading.Event()

    def block() -> None:
        entered.set()
        release.wait(DEADLINE_SECONDS)

    async def give_up() -> None:
        coroutine = threads.run(block)
        coroutine.send(None)
        await asyncio.to_thread(entered.wait, DEADLINE_SECONDS)
        coroutine.close()

    asyncio.run(give_up())
    thread = next(each for each in threading.enumerate() if each.name == "plugin-late")
    assert thread.daemon
    release.set()
    thread.join(DEADLINE_SECONDS)
    assert not thread.is_alive()


async def test_a_thread_that_cannot_be_started_is_the_calls_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine may be out of threads: the call fails, the next one is tried again."""
    threads = PluginThreads("probe", 1)

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            await threads.run(lambda: 1)
    assert await threads.run(lambda: 2) == 2
