"""Leases: who may report, what silence leads to, and how a lost runner comes back."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from backend.app.auth.permissions import Caller
from backend.app.config import Settings
from backend.app.database import Database
from backend.app.models.columns import now
from backend.app.operations.deployment_status import RUNNER_LOST
from backend.app.operations.leases import LeaseSweeper
from backend.app.realtime.event import Event
from backend.app.schemas.errors import ErrorCode, WindFlowError
from backend.app.schemas.websocket_events import core_catalogue
from tests.deployment_world import OTHER_RUNNER, RUNNER, World, as_plugin, caller, lines


@pytest.fixture
async def world(database: Database, settings: Settings, committed: list[Event]) -> World:
    return await World.make(database, settings, committed)


def ago(seconds: float) -> datetime:
    return now() - timedelta(seconds=seconds)


async def lose(world: World) -> Caller:
    """A running deployment whose runner fell silent."""
    runner = await world.running("d1")
    await world.set("d1", lease_until=ago(1))
    assert await world.sweeper.sweep_once() == ["d1"]
    return runner


@pytest.mark.parametrize("other", [OTHER_RUNNER, None])
async def test_nobody_else_reports_what_a_runner_holds(world: World, other: str | None) -> None:
    """Another runner, or nobody's report, while the lease is live → 409 lease_held."""
    await world.running("d1")
    do, by = world.deployments, caller(runner=other)
    for act in (
        do.change_status(by, "d1", "success"),
        do.change_status(by, "d1", "running"),
        do.append_logs(by, "d1", 1, lines("x")),
        do.report_progress(by, "d1", {"progress": 1}),
        do.heartbeat(by, "d1"),
    ):
        with pytest.raises(WindFlowError) as refused:
            await act
        assert refused.value.code is ErrorCode.LEASE_HELD
        assert "leaseUntil" in (refused.value.details or {})
    assert await world.texts() == []
    assert await world.status() == "running"


async def test_every_report_renews_the_lease(world: World) -> None:
    """The lease is renewed by every request."""
    runner = await world.running("d1")
    do = world.deployments
    reports: list[Callable[[], Awaitable[dict[str, Any]]]] = [
        lambda: do.heartbeat(runner, "d1"),
        lambda: do.report_progress(runner, "d1", {"progress": 1}),
        lambda: do.append_logs(runner, "d1", 1, lines("x")),
        lambda: do.append_logs(runner, "d1", 2, []),
        lambda: do.change_status(runner, "d1", "running"),
    ]
    for report in reports:
        await world.set("d1", lease_until=now() + timedelta(seconds=1))
        answer = await report()
        until = datetime.fromisoformat(answer["leaseUntil"])
        assert until > now() + timedelta(seconds=world.settings.deployment_lease_seconds - 10)


async def test_by_hand_without_a_lease_everything_works(world: World) -> None:
    """Operators by hand via curl with no header when nobody holds the lease is fine."""
    by = await world.running("d1", runner=None)
    assert (await world.deployments.heartbeat(by, "d1"))["leaseUntil"] is None
    await world.deployments.append_logs(by, "d1", 1, lines("x"))
    assert (await world.deployments.change_status(by, "d1", "success"))["status"] == "success"


async def test_a_lapsed_lease_goes_to_the_next_runner(world: World) -> None:
    """The first reporting runner takes the lease."""
    await world.running("d1")
    await world.set("d1", lease_until=ago(1))
    await world.deployments.heartbeat(caller(runner=OTHER_RUNNER), "d1")
    with pytest.raises(WindFlowError) as refused:
        await world.deployments.heartbeat(caller(runner=RUNNER), "d1")
    assert refused.value.code is ErrorCode.LEASE_HELD


async def test_a_runner_id_has_one_spelling(world: World) -> None:
    """The same UUID in capitals is the same runner."""
    await world.running("d1", runner=RUNNER.replace("a", "A"))
    await world.deployments.heartbeat(caller(runner=RUNNER), "d1")


async def test_an_end_releases_the_lease(world: World) -> None:
    """A terminal status releases the lease."""
    runner = await world.running("d1")
    ended = await world.deployments.change_status(runner, "d1", "success")
    assert ended["leaseUntil"] is None
    repeated = await world.deployments.change_status(runner, "d1", "success")
    assert repeated["leaseUntil"] is None
    assert await world.sweeper.sweep_once() == []


@pytest.mark.parametrize("report", ["progress", "heartbeat"])
async def test_an_ended_deployment_takes_no_reports(world: World, report: str) -> None:
    """409 deployment_closed."""
    runner = await world.running("d1")
    await world.deployments.change_status(runner, "d1", "success")
    do = world.deployments
    act = do.heartbeat(runner, "d1") if report == "heartbeat" else do.report_progress(runner, "d1", {"progress": 1})
    with pytest.raises(WindFlowError) as refused:
        await act
    assert refused.value.code is ErrorCode.DEPLOYMENT_CLOSED


@pytest.mark.parametrize("status", ["pending", "running"])
async def test_a_lapsed_lease_makes_the_deployment_failed(world: World, status: str) -> None:
    """A lapsed lease makes the deployment `failed`, reason `runner lost`, through the path of every status change."""
    await world.create("d1", by=caller(runner=RUNNER))
    await world.set("d1", status=status)
    assert await world.sweeper.sweep_once() == []
    await world.set("d1", lease_until=ago(1))
    assert await world.sweeper.sweep_once() == ["d1"]
    changed = world.last("DEPLOYMENT_STATUS_CHANGED")
    assert (changed["oldStatus"], changed["newStatus"], changed["reason"]) == (status, "failed", RUNNER_LOST)
    actor = world.committed[-1].actor
    assert actor is not None
    assert actor.user_id == "system"
    assert (await world.audited())[-1] == "deployment.status"
    assert await world.sweeper.sweep_once() == []


async def test_a_report_that_comes_before_the_sweep_keeps_the_deployment(world: World) -> None:
    """Two sweepers and a returning runner: the row's lock decides, and nothing happens twice."""
    await world.running("d1")
    await world.set("d1", lease_until=ago(1))
    other = LeaseSweeper(world.db, world.settings, core_catalogue())
    lost = await asyncio.gather(world.sweeper.sweep_once(), other.sweep_once())
    assert sorted(lost) == [[], ["d1"]]
    assert world.types().count("DEPLOYMENT_STATUS_CHANGED") == 2  # running, failed


async def test_a_starting_server_renews_every_lease_once(world: World) -> None:
    """A starting server renews every lease once."""
    await world.running("d1")
    await world.running("d2", runner=None)
    runner = await world.running("d3")
    await world.deployments.change_status(runner, "d3", "success")
    await world.set("d1", lease_until=ago(3600))
    assert await world.sweeper.renew_all() == 1
    assert await world.sweeper.sweep_once() == []
    assert await world.status("d1") == "running"


async def test_a_lost_runner_takes_its_deployment_up_again(world: World) -> None:
    """The same runner may, within 24 h, reopen exactly that and deliver its lines."""
    runner = await lose(world)
    with pytest.raises(WindFlowError) as refused:
        await world.deployments.append_logs(runner, "d1", 1, lines("x"))
    assert refused.value.code is ErrorCode.DEPLOYMENT_CLOSED
    reopened = await world.deployments.change_status(runner, "d1", "running")
    assert (reopened["status"], reopened["reason"], reopened["finishedAt"]) == ("running", None, None)
    assert reopened["leaseUntil"] is not None
    assert world.last("DEPLOYMENT_STATUS_CHANGED")["oldStatus"] == "failed"
    await world.deployments.append_logs(runner, "d1", 1, lines("x"))
    assert await world.texts() == ["x"]


async def test_what_a_lost_runner_says_of_the_end_is_not_lost(world: World) -> None:
    """`failed` from the lost runner is not taken as a repetition: it is told to reopen first."""
    runner = await lose(world)
    with pytest.raises(WindFlowError) as refused:
        await world.deployments.change_status(runner, "d1", "failed", exit_code=3)
    assert refused.value.body_details() == {"from": "failed", "to": "failed", "allowed": ["running"]}
    await world.deployments.change_status(runner, "d1", "running")
    assert (await world.deployments.change_status(runner, "d1", "failed", exit_code=3))["exitCode"] == 3


@pytest.mark.parametrize("other", [OTHER_RUNNER, None])
async def test_nobody_else_takes_it_up(world: World, other: str | None) -> None:
    """Only the same runner, and only what failed as `runner lost`."""
    await lose(world)
    with pytest.raises(WindFlowError) as refused:
        await world.deployments.change_status(caller(runner=other), "d1", "running")
    assert refused.value.body_details() == {"from": "failed", "to": "running", "allowed": []}


async def test_it_comes_back_within_its_time_only(world: World) -> None:
    """Within `runner_return_seconds`."""
    runner = await lose(world)
    await world.set("d1", finished_at=ago(world.settings.runner_return_seconds + 1))
    with pytest.raises(WindFlowError) as refused:
        await world.deployments.change_status(runner, "d1", "running")
    assert refused.value.code is ErrorCode.INVALID_TRANSITION


async def test_a_real_failure_is_not_reopened(world: World) -> None:
    """Exactly `failed`, `runner lost`."""
    runner = await world.running("d1")
    await world.deployments.change_status(runner, "d1", "failed", "exit status 1", 1)
    with pytest.raises(WindFlowError) as refused:
        await world.deployments.change_status(runner, "d1", "running")
    assert refused.value.code is ErrorCode.INVALID_TRANSITION


async def test_a_plugin_estimates_progress_without_taking_the_lease(world: World) -> None:
    """A plugin's progress neither needs nor touches the runner's lease."""
    runner = await world.running("d1")
    until = (await world.deployments.get(caller(), "d1"))["leaseUntil"]
    await world.deployments.report_progress(as_plugin(caller()), "d1", {"progress": 30, "step": "pulling"})
    seen = await world.deployments.get(caller(), "d1")
    assert (seen["progress"], seen["step"], seen["leaseUntil"]) == (30, "pulling", until)
    await world.deployments.heartbeat(runner, "d1")


async def test_the_sweeper_runs_until_it_is_cancelled(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop sweeps every `lease_sweep_seconds`."""
    changed: list[Event] = []
    short = settings.model_copy(update={"lease_sweep_seconds": 0.02})
    world = await World.make(database, short, changed)
    await world.running("d1")
    await world.set("d1", lease_until=ago(1))
    is_swept = asyncio.Event()
    sweep = world.sweeper.sweep_once

    async def sweep_and_tell(moment: datetime) -> list[str]:
        lost = await sweep(moment)
        is_swept.set()
        return lost

    monkeypatch.setattr(world.sweeper, "sweep_once", sweep_and_tell)
    task = asyncio.create_task(world.sweeper.run())
    try:
        async with asyncio.timeout(10):
            await is_swept.wait()
    finally:
        task.cancel()
        results = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert await world.status("d1") == "failed"


async def test_the_sweeper_outlives_a_database_that_fails(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that fails is asked again next time."""
    world = await World.make(database, settings.model_copy(update={"lease_sweep_seconds": 0.02}), [])
    tries = 0
    is_asked_again = asyncio.Event()

    async def fail(_: datetime) -> list[str]:
        nonlocal tries
        tries += 1
        if tries > 2:
            is_asked_again.set()
        raise OSError("no database")

    monkeypatch.setattr(world.sweeper, "sweep_once", fail)
    task = asyncio.create_task(world.sweeper.run())
    try:
        async with asyncio.timeout(10):
            await is_asked_again.wait()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_sweeper_that_was_away_gives_runners_time(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process or a jumping clock loses no runner: nobody could report meanwhile."""
    short = settings.model_copy(update={"lease_sweep_seconds": 0.02})
    world = await World.make(database, short, [])
    await world.running("d1")
    await world.set("d1", lease_until=ago(1))
    jumps = iter([now(), now() + timedelta(hours=1)])
    renewed = asyncio.Event()

    async def renew() -> int:
        renewed.set()
        return 0

    async def sweep(_: datetime) -> list[str]:
        pytest.fail("swept although the clock had jumped")

    monkeypatch.setattr("backend.app.operations.leases.now", lambda: next(jumps, now() + timedelta(hours=1)))
    monkeypatch.setattr(world.sweeper, "renew_all", renew)
    monkeypatch.setattr(world.sweeper, "sweep_once", sweep)
    task = asyncio.create_task(world.sweeper.run())
    try:
        async with asyncio.timeout(10):
            await renewed.wait()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_sweep_judges_by_the_moment_it_began(world: World) -> None:
    """A process that stands still in the middle of a sweep loses no runner whose lease lapses meanwhile."""
    await world.running("d1")
    await world.set("d1", lease_until=ago(1))
    assert await world.sweeper.sweep_once(ago(5)) == []
    assert await world.sweeper.sweep_once(now()) == ["d1"]


async def test_after_a_database_that_was_away_runners_get_time(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the database was away nobody could report: the first sweep after it renews every lease."""
    world = await World.make(database, settings.model_copy(update={"lease_sweep_seconds": 0.02}), [])
    await world.running("d1")
    await world.set("d1", lease_until=ago(1))
    sweeps = 0
    sweep = world.sweeper.sweep_once
    is_swept_again = asyncio.Event()

    async def fail_once(moment: datetime) -> list[str]:
        nonlocal sweeps
        sweeps += 1
        if sweeps == 1:
            raise WindFlowError(ErrorCode.STORAGE_UNAVAILABLE, "the database is away")
        lost = await sweep(moment)
        is_swept_again.set()
        return lost

    monkeypatch.setattr(world.sweeper, "sweep_once", fail_once)
    task = asyncio.create_task(world.sweeper.run())
    try:
        async with asyncio.timeout(10):
            await is_swept_again.wait()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert await world.status("d1") == "running"
