"""Retention of log lines, and what readers of removed lines are told."""

import itertools
import logging
from datetime import timedelta
from typing import Any

import pytest

from backend.app.config import Settings
from backend.app.database import Database
from backend.app.models import Deployment, DeploymentLog, LatestValue
from backend.app.models.columns import now
from backend.app.operations.deployment_logs import LINE_BYTES
from backend.app.operations.deployment_reads import LogQuery
from backend.app.operations.housekeeping import Housekeeping
from backend.app.operations.log_retention import LogRetention
from backend.app.realtime.event import Event
from backend.app.schemas.errors import WindFlowError
from tests.deployment_world import World, as_plugin, caller, lines

TEXT = "x" * (100 - LINE_BYTES)
"""A line that takes 100 bytes."""
VIC = caller("vic")


@pytest.fixture
async def world(database: Database, settings: Settings, committed: list[Event]) -> World:
    small = settings.model_copy(
        update={
            "housekeeping_rows": 10,
            "log_append_lines": 1_000,
            "log_retention_seconds": 3600.0,
            "log_deployment_bytes": 5_000,
            "log_total_bytes": 9_000,
        }
    )
    return await World.make(database, small, committed)


async def log(world: World, deployment_id: str, count: int, *, ended: float | None = None) -> None:
    """Make a deployment with lines; `ended`: so many seconds ago, None: it runs."""
    runner = await world.running(deployment_id)
    await world.deployments.append_logs(runner, deployment_id, 1, lines(*[TEXT] * count))
    if ended is not None:
        await world.deployments.change_status(runner, deployment_id, "success")
        await world.set(deployment_id, finished_at=now() - timedelta(seconds=ended))


async def run(world: World) -> int:
    return await LogRetention(world.db, world.settings).run()


async def numbers(world: World, deployment_id: str) -> list[int]:
    page = await world.deployments.read_logs(VIC, deployment_id, LogQuery())
    assert page["firstLine"] == (page["items"][0]["line"] if page["items"] else page["lastLine"] + 1)
    seen = await world.deployments.get(VIC, deployment_id)
    assert seen["logBytes"] == 100 * len(page["items"])
    return [item["line"] for item in page["items"]]


async def text(world: World, query: LogQuery, deployment_id: str = "d1") -> str:
    return "".join([part async for part in await world.deployments.log_text(VIC, deployment_id, query)])


async def expired(world: World, from_line: int, deployment_id: str = "d1") -> Any:
    """Ask for lines as JSON and as text; return what both are refused with."""
    told = []
    for ask in (world.deployments.read_logs, world.deployments.log_text):
        with pytest.raises(WindFlowError) as refused:
            await ask(VIC, deployment_id, LogQuery(from_line))
        assert (refused.value.status, str(refused.value.code)) == (410, "lines_expired")
        told.append(refused.value.details)
    assert told[0] == told[1]
    return told[0]


async def test_logs_of_old_deployments_go(world: World) -> None:
    """Log lines by age: after their deployment's end; one that runs keeps its lines however old it is."""
    await log(world, "old", 25, ended=3700)
    await log(world, "new", 3, ended=3500)
    await log(world, "runs", 3)
    await world.set("runs", started_at=now() - timedelta(days=9), created_at=now() - timedelta(days=9))
    assert await run(world) == 25
    assert [await numbers(world, each) for each in ("old", "new", "runs")] == [[], [1, 2, 3], [1, 2, 3]]
    assert await run(world) == 0


async def test_a_log_that_is_too_large_loses_its_beginning(world: World) -> None:
    """Per deployment, oldest lines first: also an active deployment's, whose log goes on with its numbers."""
    await log(world, "d1", 63)
    assert await run(world) == 13
    assert await numbers(world, "d1") == list(range(14, 64))
    runner = await world.running("d2")
    await world.deployments.append_logs(runner, "d2", 1, lines("a" * 4_000, "b" * 4_000))
    assert await run(world) == 1
    answer = await world.deployments.append_logs(runner, "d2", 3, lines("c"))
    assert answer["nextLine"] == 4
    assert await world.texts("d2") == ["b" * 4_000, "c"]


async def test_all_logs_together_are_bounded(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """By total size: what ended first goes first, no more than has to; active deployments keep theirs."""
    await log(world, "first", 30, ended=300)
    await log(world, "runs", 40)
    await log(world, "second", 40, ended=200)
    await log(world, "third", 20, ended=100)
    assert await run(world) == 40  # 130 lines of 100 bytes, 9,000 bytes may stay
    assert await numbers(world, "first") == []
    assert await numbers(world, "second") == list(range(11, 41))
    assert await numbers(world, "runs") == list(range(1, 41))
    assert await numbers(world, "third") == list(range(1, 21))
    for deployment_id in ("runs2", "runs3"):
        await log(world, deployment_id, 40)
    with caplog.at_level(logging.WARNING, "windflow.retention"):
        await run(world)
    assert [await numbers(world, each) for each in ("first", "second", "third")] == [[], [], []]
    assert [len(await numbers(world, each)) for each in ("runs", "runs2", "runs3")] == [40, 40, 40]
    assert "WINDFLOW_LOG_TOTAL_BYTES" in caplog.text
    # One that breaks the limit alone loses its oldest lines, so that the disk stays bounded.
    world.settings = world.settings.model_copy(update={"log_total_bytes": 2_000})
    await run(world)
    assert [len(await numbers(world, each)) for each in ("runs", "runs2", "runs3")] == [20, 20, 20]


async def test_a_log_of_empty_lines_is_not_small(world: World) -> None:
    """Disk stays bounded: a line takes room without any text, too."""
    runner = await world.running("d1")
    await world.deployments.append_logs(runner, "d1", 1, lines(*[""] * 200))
    await run(world)
    kept = len(await world.texts("d1"))
    assert 5_000 - LINE_BYTES < kept * LINE_BYTES <= 5_000
    await world.deployments.change_status(runner, "d1", "failed")
    await world.set("d1", finished_at=now() - timedelta(seconds=3700))
    assert await run(world) == kept
    assert await world.count(DeploymentLog) == 0


async def test_each_write_removes_a_bounded_number_of_lines(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deletion of rows in bounded steps, also where somebody deletes a deployment."""
    await log(world, "d1", 45, ended=3700)
    await log(world, "d2", 45, ended=1)
    write, left = world.db.write, [90]

    async def counted(fn: Any) -> Any:
        result = await write(fn)
        left.append(await world.count(DeploymentLog))
        return result

    monkeypatch.setattr(world.db, "write", counted)
    assert await run(world) == 45
    await world.deployments.delete(caller("adm"), "d2")
    assert left[-1] == 0
    assert max(before - after for before, after in itertools.pairwise(left)) == 10
    assert await world.count(Deployment) == 1


async def test_a_running_deployment_is_not_emptied_by_a_refused_deletion(world: World) -> None:
    """409 deployment_active changes nothing."""
    await log(world, "d1", 5)
    with pytest.raises(WindFlowError):
        await world.deployments.delete(caller("adm"), "d1")
    assert await numbers(world, "d1") == [1, 2, 3, 4, 5]


async def test_readers_of_removed_lines_are_told_the_first_that_is_there(world: World) -> None:
    """410 lines_expired {firstAvailable}: for a page and for text alike; 0 and 1 ask for all that is there."""
    await log(world, "d1", 60)
    await run(world)
    for from_line in (2, 5, 10):
        assert await expired(world, from_line) == {"firstAvailable": 11}
    for from_line, first in ((0, 11), (1, 11), (11, 11), (12, 12), (-60, 11), (-50, 11), (-2, 59)):
        page = await world.deployments.read_logs(VIC, "d1", LogQuery(from_line))
        assert page["items"][0]["line"] == first
        assert (page["firstLine"], page["lastLine"], page["nextLine"]) == (11, 60, 61)
        assert (await text(world, LogQuery(from_line))).count("\n") == 61 - first
    after = await world.deployments.read_logs(VIC, "d1", LogQuery(61))
    assert (after["items"], after["nextLine"]) == ([], 61)


async def test_a_log_of_which_nothing_is_left(world: World) -> None:
    """Also a deployment whose lines are all gone: the first line that can come is the next one."""
    await log(world, "d1", 30, ended=3700)
    await run(world)
    assert await expired(world, 2) == {"firstAvailable": 31}
    assert await expired(world, 30) == {"firstAvailable": 31}
    for from_line in (0, 1, 31, -5):
        page = await world.deployments.read_logs(VIC, "d1", LogQuery(from_line))
        assert (page["items"], page["firstLine"], page["nextLine"], page["lastLine"]) == ([], 31, 31, 30)
        assert await text(world, LogQuery(from_line)) == ""


async def test_a_log_without_any_line_yet_has_nothing_to_expire(world: World) -> None:
    """`fromLine` beyond the end waits for what comes."""
    await world.running("d1")
    for from_line in (0, 1, 2, 9, -3):
        page = await world.deployments.read_logs(VIC, "d1", LogQuery(from_line))
        assert (page["items"], page["firstLine"], page["nextLine"]) == ([], 1, 1)


async def test_a_download_says_what_is_removed_meanwhile(world: World) -> None:
    """Never a silent gap: in place of lines that retention removes during a download, one line says so."""
    await log(world, "d1", 60)
    small = World(world.db, world.settings.model_copy(update={"log_append_lines": 5}), [])
    parts = await small.deployments.log_text(VIC, "d1", LogQuery())
    first = await anext(parts)
    await run(world)
    rest = "".join([part async for part in parts]).splitlines()
    assert first.count("\n") == 5
    assert rest[0] == "[lines 6 to 10 were removed by retention]"
    assert rest[1:] == [TEXT] * 50


async def test_latest_values_of_what_is_over_go(world: World) -> None:
    """`latest_values` of deleted or long-ended deployments are removed (R15); of active ones they stay."""
    plugin = as_plugin(caller())
    for deployment_id in ("runs", "ended", "deleted"):
        runner = await world.running(deployment_id)
        await world.deployments.report_progress(runner, deployment_id, {"progress": 5})
        if deployment_id != "runs":
            await world.deployments.change_status(runner, deployment_id, "success")
    await world.events.publish(plugin, "DEPLOYMENT_PROGRESS", {"deploymentId": "elsewhere", "progress": 5})
    await world.deployments.delete(caller("adm"), "deleted")
    assert await world.count(LatestValue) == 3
    housekeeping = Housekeeping(world.db, world.settings)
    assert (await housekeeping.run())["latest_values"] == 0
    await world.db.write(
        lambda tx: tx.conn.execute(
            LatestValue.__table__.update().values(created_at=now() - timedelta(seconds=90_000))  # type: ignore[attr-defined]
        )
    )
    assert (await housekeeping.run())["latest_values"] == 2
    assert await world.count(LatestValue) == 1
