"""Creating, changing, cancelling and deleting deployments: every transition and every refusal."""

import asyncio

import pytest

from backend.app.config import Settings
from backend.app.database import Database
from backend.app.models import Deployment, DeploymentLog, LatestValue
from backend.app.operations.deployment_status import TRANSITIONS
from backend.app.operations.deployments import NewDeployment
from backend.app.realtime.event import Event
from backend.app.schemas.errors import ErrorCode, WindFlowError
from tests.deployment_world import OTHER_RUNNER, RUNNER, World, caller, lines

STATUSES = tuple(TRANSITIONS)


@pytest.fixture
async def world(database: Database, settings: Settings, committed: list[Event]) -> World:
    return await World.make(database, settings, committed)


async def test_creating_writes_row_audit_and_event_together(world: World) -> None:
    """The business change, its audit row and its events are one transaction."""
    made = await world.create("d1", name="site", target="web-1", program="make")
    assert (made["id"], made["status"], made["createdBy"], made["lastLine"]) == ("d1", "pending", "ada", 0)
    assert made["leaseUntil"] is None
    assert world.last("DEPLOYMENT_CREATED") == {
        "deploymentId": "d1", "deploymentName": "site", "target": "web-1", "status": "pending", "createdBy": "ada",
    }  # fmt: skip
    assert world.committed[-1].organization_id == "o1"
    assert world.committed[-1].offset == 1
    assert await world.audited() == ["deployment.create"]


async def test_the_same_id_and_body_is_the_same_deployment(world: World) -> None:
    """POST /deployments: same id and body → 200; nothing twice."""
    new = NewDeployment("site", "d1")
    results = await asyncio.gather(*(world.deployments.create(caller(), new) for _ in range(4)))
    assert sorted(is_new for _, is_new in results) == [False, False, False, True]
    assert world.types() == ["DEPLOYMENT_CREATED"]
    assert await world.count(Deployment) == 1


@pytest.mark.parametrize(
    ("by", "new"),
    [
        ("ada", NewDeployment("other", "d1")),
        ("ada", NewDeployment("site", "d1", target="x")),
        ("bob", NewDeployment("site", "d1")),
    ],
)
async def test_an_id_with_other_content_is_taken(world: World, by: str, new: NewDeployment) -> None:
    """409 id_taken, also for another organization's id, whose content is not shown."""
    await world.create("d1", name="site")
    with pytest.raises(WindFlowError) as refused:
        await world.deployments.create(caller(by), new)
    assert refused.value.code is ErrorCode.ID_TAKEN
    assert world.types() == ["DEPLOYMENT_CREATED"]


async def test_a_retried_create_with_its_key_answers_the_same(world: World) -> None:
    """`Idempotency-Key` on every POST: a retry after a crash makes nothing twice."""
    first = await world.deployments.create(caller(key="k", body="b"), NewDeployment("site"))
    again = await world.deployments.create(caller(key="k", body="b"), NewDeployment("site"))
    assert first == again
    assert first[1]
    assert await world.count(Deployment) == 1
    with pytest.raises(WindFlowError) as refused:
        await world.deployments.create(caller(key="k", body="other"), NewDeployment("site"))
    assert refused.value.code is ErrorCode.KEY_REUSED


async def test_only_a_superuser_chooses_the_organization(world: World) -> None:
    """organizationId? (S)."""
    made = await world.create("d1", by=caller("root"), organization_id="o2")
    assert made["organizationId"] == "o2"
    assert world.committed[-1].stream == "org:o2"
    for by, organization, code in (("ada", "o2", ErrorCode.FORBIDDEN), ("root", "o9", ErrorCode.NOT_FOUND)):
        with pytest.raises(WindFlowError) as refused:
            await world.deployments.create(caller(by), NewDeployment("x", organization_id=organization))
        assert refused.value.code is code


async def test_text_that_no_database_can_hold_is_refused(world: World) -> None:
    """Bad input names field and rule."""
    with pytest.raises(WindFlowError, match="program: holds a NUL"):
        await world.create("d1", program="a\x00b")
    with pytest.raises(WindFlowError, match="deployment not found"):
        await world.deployments.get(caller(), "a\x00b")
    await world.create("d1")
    with pytest.raises(WindFlowError, match="reason: holds a NUL"):
        await world.deployments.change_status(caller(), "d1", "failed", reason="\x00")


@pytest.mark.parametrize("old", STATUSES)
@pytest.mark.parametrize("new", STATUSES)
async def test_every_transition_is_allowed_or_refused(world: World, old: str, new: str) -> None:
    """`pending → running → success | failed | cancelled`, `pending → failed | cancelled`; others 409."""
    await world.create("d1")
    await world.set("d1", status=old)
    world.committed.clear()
    if new == old:
        assert (await world.deployments.change_status(caller(), "d1", new))["status"] == old
        assert world.types() == []
    elif new in TRANSITIONS[old]:
        assert (await world.deployments.change_status(caller(), "d1", new))["status"] == new
        changed = world.last("DEPLOYMENT_STATUS_CHANGED")
        assert (changed["oldStatus"], changed["newStatus"], changed["deploymentName"]) == (old, new, "site")
    else:
        with pytest.raises(WindFlowError) as refused:
            await world.deployments.change_status(caller(), "d1", new)
        assert refused.value.code is ErrorCode.INVALID_TRANSITION
        assert refused.value.body_details() == {"from": old, "to": new, "allowed": list(TRANSITIONS[old])}
        assert world.types() == []


async def test_start_and_end_are_noted(world: World) -> None:
    """started_at and finished_at are set; reason and exit code are kept and published."""
    await world.create("d1")
    started = await world.deployments.change_status(caller(), "d1", "running")
    assert started["startedAt"] is not None
    assert started["finishedAt"] is None
    ended = await world.deployments.change_status(caller(), "d1", "failed", "disk full", 28)
    assert ended["startedAt"] == started["startedAt"]
    assert ended["finishedAt"] is not None
    assert (ended["reason"], ended["exitCode"]) == ("disk full", 28)
    assert world.last("DEPLOYMENT_STATUS_CHANGED") == {
        "deploymentId": "d1", "oldStatus": "running", "newStatus": "failed", "deploymentName": "site",
        "reason": "disk full", "exitCode": 28,
    }  # fmt: skip
    assert await world.audited() == ["deployment.create", "deployment.status", "deployment.status"]


async def test_an_exit_code_belongs_to_an_end(world: World) -> None:
    """Bad input names field and rule."""
    await world.create("d1")
    with pytest.raises(WindFlowError, match="exitCode: only with"):
        await world.deployments.change_status(caller(), "d1", "running", exit_code=0)


async def test_what_belongs_to_another_organization_does_not_exist(world: World) -> None:
    """A deployment of another organization is answered exactly like one that does not exist."""
    await world.create("d1")
    do = world.deployments
    for deployment_id in ("d1", "nothing"):
        for act in (
            do.get(caller("bob"), deployment_id),
            do.change_status(caller("bob"), deployment_id, "running"),
            do.append_logs(caller("bob"), deployment_id, 1, lines("x")),
            do.report_progress(caller("bob"), deployment_id, {"progress": 1}),
            do.heartbeat(caller("bob"), deployment_id),
            do.cancel(caller("bob"), deployment_id),
            do.delete(caller("bob"), deployment_id),
        ):
            with pytest.raises(WindFlowError) as refused:
                await act
            assert (refused.value.code, refused.value.message) == (ErrorCode.NOT_FOUND, "deployment not found")
    assert (await do.get(caller("root"), "d1"))["id"] == "d1"


async def test_cancelling_asks_the_runner(world: World) -> None:
    """202 with DEPLOYMENT_CANCEL_REQUESTED when a runner holds the lease; every answer says cancelRequested."""
    runner = await world.running("d1")
    assert (await world.deployments.heartbeat(runner, "d1"))["cancelRequested"] is False
    answer, is_asked = await world.deployments.cancel(caller("vic"), "d1", "wrong version")
    assert is_asked
    assert (answer["status"], answer["cancelRequested"]) == ("running", True)
    assert world.last("DEPLOYMENT_CANCEL_REQUESTED") == {
        "deploymentId": "d1", "requestedBy": "vic", "reason": "wrong version",
    }  # fmt: skip
    do = world.deployments
    assert (await do.heartbeat(runner, "d1"))["cancelRequested"] is True
    assert (await do.append_logs(runner, "d1", 1, lines("x")))["cancelRequested"] is True
    assert (await do.report_progress(runner, "d1", {"progress": 1}))["cancelRequested"] is True
    ended = await do.change_status(runner, "d1", "cancelled")
    assert ended["cancelRequested"] is True


async def test_a_second_cancel_makes_no_second_event(world: World) -> None:
    """A second cancel is idempotent."""
    await world.running("d1")
    answers = await asyncio.gather(*(world.deployments.cancel(caller(), "d1") for _ in range(3)))
    assert all(is_asked for _, is_asked in answers)
    assert world.types().count("DEPLOYMENT_CANCEL_REQUESTED") == 1
    assert (await world.audited()).count("deployment.cancel") == 1


async def test_without_a_runner_cancelling_ends_it(world: World) -> None:
    """The server sets `cancelled` itself only when nobody holds the lease."""
    await world.create("d1")
    answer, is_asked = await world.deployments.cancel(caller(), "d1", "not needed")
    assert not is_asked
    assert (answer["status"], answer["reason"]) == ("cancelled", "not needed")
    assert world.types() == ["DEPLOYMENT_CREATED", "DEPLOYMENT_STATUS_CHANGED"]


@pytest.mark.parametrize("status", ["success", "failed", "cancelled"])
async def test_an_ended_deployment_cannot_be_cancelled(world: World, status: str) -> None:
    """409 deployment_closed when ended."""
    runner = await world.running("d1")
    await world.deployments.change_status(runner, "d1", status)
    with pytest.raises(WindFlowError) as refused:
        await world.deployments.cancel(caller(), "d1")
    assert refused.value.code is ErrorCode.DEPLOYMENT_CLOSED
    assert refused.value.body_details() == {"status": status, "reason": None}


async def test_cancel_racing_the_end_is_one_or_the_other(world: World) -> None:
    """A cancel either comes before the end and is told to the runner, or it is refused."""
    for number in range(8):
        deployment_id = f"race-{number}"
        runner = await world.running(deployment_id)
        world.committed.clear()
        acts = [
            world.deployments.cancel(caller(), deployment_id),
            world.deployments.change_status(runner, deployment_id, "success"),
        ]
        if number % 2:
            acts.reverse()
        results = await asyncio.gather(*acts, return_exceptions=True)
        refused = [result for result in results if isinstance(result, WindFlowError)]
        assert await world.status(deployment_id) == "success"
        if refused:
            assert refused[0].code is ErrorCode.DEPLOYMENT_CLOSED
            assert world.types() == ["DEPLOYMENT_STATUS_CHANGED"]
        else:
            assert world.types() == ["DEPLOYMENT_CANCEL_REQUESTED", "DEPLOYMENT_STATUS_CHANGED"]


async def test_two_ends_at_once_are_one(world: World) -> None:
    """Only one of two racing status changes wins; the other is refused against the winner."""
    await world.create("d1")
    await world.deployments.change_status(caller(), "d1", "running")
    results = await asyncio.gather(
        world.deployments.change_status(caller(), "d1", "success"),
        world.deployments.change_status(caller(), "d1", "failed"),
        return_exceptions=True,
    )
    refused = [result for result in results if isinstance(result, WindFlowError)]
    assert len(refused) == 1
    assert refused[0].details is not None
    assert refused[0].details["from"] == await world.status()


async def test_deleting_takes_lines_and_progress_with_it(world: World) -> None:
    """DELETE removes the deployment and its log; `latest_values` of its subject go, too (R15)."""
    runner = await world.running("d1")
    await world.deployments.append_logs(runner, "d1", 1, lines("a", "b"))
    await world.deployments.report_progress(runner, "d1", {"progress": 50})
    with pytest.raises(WindFlowError) as refused:
        await world.deployments.delete(caller("adm"), "d1")
    assert refused.value.code is ErrorCode.DEPLOYMENT_ACTIVE
    await world.deployments.change_status(runner, "d1", "success")
    await world.deployments.delete(caller("adm"), "d1")
    assert world.last("DEPLOYMENT_DELETED") == {"deploymentId": "d1", "deletedBy": "adm"}
    for table in (Deployment, DeploymentLog, LatestValue):
        assert await world.count(table) == 0
    assert (await world.audited())[-1] == "deployment.delete"
    with pytest.raises(WindFlowError, match="deployment not found"):
        await world.deployments.delete(caller("adm"), "d1")


async def test_a_runner_that_creates_a_deployment_holds_it(world: World) -> None:
    """Whoever reports a deployment holds a lease on it."""
    made = await world.create("d1", by=caller(runner=RUNNER))
    assert made["leaseUntil"] is not None
    with pytest.raises(WindFlowError) as refused:
        await world.deployments.change_status(caller(runner=OTHER_RUNNER), "d1", "running")
    assert refused.value.code is ErrorCode.LEASE_HELD
