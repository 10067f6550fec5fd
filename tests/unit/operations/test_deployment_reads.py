"""Lists of deployments: newest first, filtered, in pages that neither repeat nor skip."""

from datetime import timedelta
from typing import Any

import pytest

from backend.app.config import Settings
from backend.app.database import Database
from backend.app.models.columns import now
from backend.app.operations.deployment_reads import DeploymentFilter
from backend.app.realtime.event import Event
from backend.app.schemas.errors import ErrorCode, WindFlowError
from tests.deployment_world import World, caller


@pytest.fixture
async def world(database: Database, settings: Settings, committed: list[Event]) -> World:
    world = await World.make(database, settings.model_copy(update={"page_limit": 4}), committed)
    for number in range(1, 8):
        await world.create(f"d{number}", name=f"Site {number}", target="Élan" if number == 3 else None)
        await world.set(f"d{number}", created_at=now() - timedelta(seconds=(100 - number) // 2 * 2))
    await world.create("theirs", by=caller("bob"))
    await world.set("d2", status="running")
    await world.set("d5", status="failed", created_by="adm")
    return world


async def ids(world: World, wanted: DeploymentFilter, **page: Any) -> list[str]:
    answer = await world.deployments.list(caller(page.pop("by", "vic")), wanted, **page)
    return [item["id"] for item in answer["items"]]


async def test_pages_neither_repeat_nor_skip(world: World) -> None:
    """Newest first, opaque cursor; a new deployment between two pages changes nothing of the second."""
    first = await world.deployments.list(caller("vic"), DeploymentFilter(), 3)
    await world.create("d9")
    second = await world.deployments.list(caller("vic"), DeploymentFilter(), 3, first["nextCursor"])
    third = await world.deployments.list(caller("vic"), DeploymentFilter(), 3, second["nextCursor"])
    seen = [item["id"] for page in (first, second, third) for item in page["items"]]
    assert sorted(seen) == [f"d{number}" for number in range(1, 8)]
    assert seen[0] in ("d7", "d6")
    times = [item["createdAt"] for page in (first, second, third) for item in page["items"]]
    assert times == sorted(times, reverse=True)
    assert third["nextCursor"] is None


async def test_a_list_carries_positions(world: World) -> None:
    """Every list and detail answer carries `positions`."""
    answer = await world.deployments.list(caller("vic"), DeploymentFilter())
    assert answer["positions"]["org:o1"]["offset"] == 7
    assert (await world.deployments.get(caller("vic"), "d1"))["positions"] == answer["positions"]
    assert len(answer["items"]) == 4  # page_limit
    assert answer["nextCursor"] is not None


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (DeploymentFilter(("running",)), ["d2"]),
        (DeploymentFilter(("running", "failed")), ["d2", "d5"]),
        (DeploymentFilter(created_by="adm"), ["d5"]),
        (DeploymentFilter(created_by="nobody"), []),
        (DeploymentFilter(created_by="\x00"), []),
        (DeploymentFilter(q="SITE 4"), ["d4"]),
        (DeploymentFilter(q="élan"), ["d3"]),
        (DeploymentFilter(q="D6"), ["d6"]),
        (DeploymentFilter(q="site_"), []),
        (DeploymentFilter(("pending",), q="site", created_by="adm"), []),
    ],
)
async def test_filters(world: World, wanted: DeploymentFilter, expected: list[str]) -> None:
    """?status&q&createdBy."""
    assert sorted(await ids(world, wanted)) == expected


async def test_the_organization_is_the_own_or_a_superusers_choice(world: World) -> None:
    """organizationId (S); nothing of another organization is ever listed."""
    assert await ids(world, DeploymentFilter(), by="bob") == ["theirs"]
    assert await ids(world, DeploymentFilter(organization_id="o2"), by="root") == ["theirs"]
    for by, organization, code in (
        ("vic", "o2", ErrorCode.FORBIDDEN),
        ("root", "o9", ErrorCode.NOT_FOUND),
        ("root", "\x00", ErrorCode.NOT_FOUND),
    ):
        with pytest.raises(WindFlowError) as refused:
            await ids(world, DeploymentFilter(organization_id=organization), by=by)
        assert refused.value.code is code


@pytest.mark.parametrize("cursor", ["", "x", "W10", "WzEsMl0", "é", "WyJhIiwiYiJd"])
async def test_a_foreign_cursor_is_refused(world: World, cursor: str) -> None:
    """Bad input names field and rule."""
    with pytest.raises(WindFlowError) as refused:
        await ids(world, DeploymentFilter(), cursor=cursor)
    assert refused.value.fields[0].field == "cursor"
