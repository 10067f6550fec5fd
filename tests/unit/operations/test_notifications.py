"""Notifications: sent to one or to all, listed for each user, read once."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import update

from backend.app.config import Settings
from backend.app.database import Database
from backend.app.models import Notification, NotificationRead, User
from backend.app.realtime.event import Event
from backend.app.schemas.errors import ErrorCode, WindFlowError
from backend.app.schemas.websocket_events import NotificationSent
from tests.deployment_world import World, caller


@pytest.fixture
async def world(database: Database, settings: Settings, committed: list[Event]) -> World:
    return await World.make(database, settings, committed)


def note(title: str = "Hello", **fields: Any) -> NotificationSent:
    return NotificationSent.model_validate({"title": title, "message": "text", **fields})


async def send(world: World, title: str = "Hello", to: str | None = None, by: str = "ada", **fields: Any) -> str:
    sent = await world.notifications.send(caller(by), note(title, **fields), to)
    return str(sent["id"])


async def titles(world: World, by: str, **wanted: Any) -> list[str]:
    answer = await world.notifications.list(caller(by), **wanted)
    return [item["title"] for item in answer["items"]]


async def test_a_notification_is_a_row_and_an_event(world: World) -> None:
    """POST /notifications writes the row and publishes NOTIFICATION_SENT with its id."""
    await world.create("d1")
    sent = await world.notifications.send(caller(), note(level="error", link="/x", deploymentId="d1"))
    assert sent["read"] is False
    assert world.last("NOTIFICATION_SENT") == {
        "title": "Hello", "message": "text", "level": "error", "notificationId": sent["id"], "link": "/x",
        "deploymentId": "d1",
    }  # fmt: skip
    assert (world.committed[-1].organization_id, world.committed[-1].user_id) == ("o1", None)
    assert (await world.notifications.list(caller("vic")))["items"] == [sent]
    assert (await world.audited())[-1] == "notification.send"


async def test_who_sees_what(world: World) -> None:
    """For one user or for the organization; nothing crosses."""
    await send(world, "all")
    await send(world, "for vic", to="vic")
    await send(world, "theirs", by="bob")
    assert world.committed[1].user_id == "vic"
    assert await titles(world, "vic") == ["for vic", "all"]
    assert await titles(world, "ada") == ["all"]
    assert await titles(world, "root") == ["all"]
    assert await titles(world, "bob") == ["theirs"]


@pytest.mark.parametrize("user", ["bob", "nobody", "gone", "\x00"])
async def test_the_receiver_is_an_active_user_of_the_organization(world: World, user: str) -> None:
    """userId must be a user of the organization, else 404."""
    if user == "gone":
        user = "vic"
        await world.db.write(lambda tx: tx.conn.execute(update(User).where(User.id == "vic").values(is_active=False)))
    with pytest.raises(WindFlowError) as refused:
        await send(world, to=user)
    assert (refused.value.code, refused.value.message) == (ErrorCode.NOT_FOUND, "user not found")
    assert await world.count(Notification) == 0
    assert world.types() == []


async def test_the_deployment_is_one_of_the_organization(world: World) -> None:
    """deploymentId must exist in the organization, else 404."""
    await world.create("theirs", by=caller("bob"))
    for deployment_id in ("theirs", "nothing"):
        with pytest.raises(WindFlowError, match="deployment not found"):
            await send(world, deploymentId=deployment_id)


@pytest.mark.parametrize(
    "link", ["https://example.org/a?b#c", "http://[::1]:8000/", "/deployments/d1", "/", "HTTPS://x.y"]
)
async def test_links_that_are_fine(world: World, link: str) -> None:
    """link: http(s) addresses, or paths starting with `/`."""
    assert (await world.notifications.send(caller(), note(link=link)))["link"] == link


@pytest.mark.parametrize(
    "link",
    [
        "", "//evil.example", "javascript:alert(1)", "data:text/html,x", "ftp://x", "x", "https:", "https:///x",
        "http:x", "/\\evil.example", "https://a b", "/a\nb", " https://x", "/\u202etxt", "http://[bad", "\x00",
    ],
)  # fmt: skip
async def test_links_that_are_refused(world: World, link: str) -> None:
    """Everything else is 422 and names the field."""
    with pytest.raises(WindFlowError) as refused:
        await world.notifications.send(caller(), note(link=link))
    assert refused.value.fields[0].field == "link"


async def test_an_id_is_used_once(world: World) -> None:
    """notificationId (made if absent)."""
    assert await send(world, notificationId="n1") == "n1"
    with pytest.raises(WindFlowError) as refused:
        await send(world, "other", notificationId="n1")
    assert refused.value.code is ErrorCode.ID_TAKEN


async def test_a_retry_with_its_key_sends_nothing_twice(world: World) -> None:
    """`Idempotency-Key` on every POST."""
    first = await world.notifications.send(caller(key="k"), note())
    assert await world.notifications.send(caller(key="k"), note()) == first
    assert world.types() == ["NOTIFICATION_SENT"]


async def test_reading_is_per_user_and_told_once(world: World) -> None:
    """NOTIFICATION_READ {notificationIds, readAt} to that user, only for those newly read."""
    one, two = await send(world, "one"), await send(world, "two")
    world.committed.clear()
    answer = await world.notifications.mark_read(caller("vic"), [one])
    assert (answer["notificationIds"], answer["unreadCount"]) == ([one], 1)
    event = world.committed[-1]
    assert (event.spec.name, event.user_id, event.payload["notificationIds"]) == ("NOTIFICATION_READ", "vic", [one])
    again = await world.notifications.mark_read(caller("vic"), [one, one])
    assert again["notificationIds"] == []
    assert len(world.committed) == 1
    assert (await world.notifications.mark_read(caller("vic"), [two, one]))["notificationIds"] == [two]
    assert await titles(world, "vic", is_unread=True) == []
    assert await titles(world, "vic", is_unread=False) == ["two", "one"]
    assert await titles(world, "ada", is_unread=True) == ["two", "one"]
    item = (await world.notifications.list(caller("vic")))["items"][0]
    assert item["read"] is True
    assert item["readAt"] is not None


async def test_unknown_ids_change_nothing_and_are_named(world: World) -> None:
    """Unknown ids → 404 naming them and nothing changed; foreign ones are unknown, too."""
    mine, theirs, adas = await send(world, "mine"), await send(world, by="bob"), await send(world, to="ada")
    with pytest.raises(WindFlowError) as refused:
        await world.notifications.mark_read(caller("vic"), [mine, theirs, adas, "no", "\x00"])
    assert refused.value.code is ErrorCode.NOT_FOUND
    assert refused.value.body_details() == {"notificationIds": [theirs, adas, "no", "\x00"]}
    assert await world.count(NotificationRead) == 0


async def test_all_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """{all: true} reads everything the user can see, in events that are not too large."""
    monkeypatch.setattr("backend.app.operations.notifications.READ_AT_ONCE", 2)
    sent = [await send(world, str(number)) for number in range(5)]
    await send(world, to="ada")
    world.committed.clear()
    answer = await world.notifications.mark_read(caller("vic"), None)
    assert sorted(answer["notificationIds"]) == sorted(sent)
    assert answer["unreadCount"] == 0
    assert [len(event.payload["notificationIds"]) for event in world.committed] == [2, 2, 1]
    assert (await world.notifications.mark_read(caller("vic"), None))["notificationIds"] == []
    assert len(world.committed) == 3


async def test_two_devices_reading_at_once_tell_it_once(world: World) -> None:
    """Each notification is newly read exactly once."""
    sent = [await send(world, str(number)) for number in range(6)]
    world.committed.clear()
    await asyncio.gather(
        world.notifications.mark_read(caller("vic"), sent),
        world.notifications.mark_read(caller("vic"), list(reversed(sent))),
        world.notifications.mark_read(caller("vic"), None),
    )
    told = [found for event in world.committed for found in event.payload["notificationIds"]]
    assert sorted(told) == sorted(sent)


async def test_lists_are_paged_filtered_and_counted(world: World) -> None:
    """?unread&level; {items, unreadCount}."""
    for number in range(5):
        await send(world, str(number), level="error" if number % 2 else "info")
    first = await world.notifications.list(caller("vic"), limit=2)
    second = await world.notifications.list(caller("vic"), limit=2, cursor=first["nextCursor"])
    third = await world.notifications.list(caller("vic"), limit=2, cursor=second["nextCursor"])
    seen = [item["title"] for page in (first, second, third) for item in page["items"]]
    assert sorted(seen) == ["0", "1", "2", "3", "4"]
    assert third["nextCursor"] is None
    assert first["unreadCount"] == 5
    assert first["positions"]["org:o1"]["offset"] == 5
    assert sorted(await titles(world, "vic", level="error")) == ["1", "3"]


async def test_text_that_no_database_can_hold_is_refused(world: World) -> None:
    """Bad input names every field and rule."""
    with pytest.raises(WindFlowError) as refused:
        await world.notifications.send(caller(), note("a\x00", message="\x00"))
    assert [error.field for error in refused.value.fields] == ["title", "message"]
