"""Periodic work: it comes round, a failing round is not the end, and it ends when it is stopped."""

import asyncio

import pytest

from backend.app import metrics
from backend.app.operations.periodic import Periodic
from tests.plugin_world import other_tasks, until, within


async def test_a_round_that_fails_is_logged_counted_and_followed_by_the_next(caplog: pytest.LogCaptureFixture) -> None:
    """A failure is logged, counted and tried again."""
    rounds = 0

    async def act() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 1:
            raise OSError("the database is away")

    before = metrics.PERIODIC_FAILURES.labels("tidying")._value.get()
    work = asyncio.create_task(Periodic("tidying", act, 0.01).run())
    await until(lambda: rounds >= 3)
    await within(_end(work))
    assert metrics.PERIODIC_FAILURES.labels("tidying")._value.get() == before + 1
    assert "tidying failed; it is tried again" in caplog.text
    assert not other_tasks()


async def test_a_stop_ends_the_round_that_runs() -> None:
    """Every task is owned and awaited: nothing of it goes on after the stop."""
    entered, ended = asyncio.Event(), False

    async def act() -> None:
        nonlocal ended
        entered.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended = True

    work = asyncio.create_task(Periodic("waiting", act, 0.01).run())
    async with asyncio.timeout(10):
        await entered.wait()
    await within(_end(work))
    assert ended
    assert not other_tasks()


async def _end(work: "asyncio.Task[None]") -> None:
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
