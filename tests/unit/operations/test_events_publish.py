"""Publishing any event type: who may, to whom, and where types have a state of their own."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import select

from backend.app.auth.permissions import SYSTEM_ID, Caller, system_principal
from backend.app.config import Settings
from backend.app.database import Database
from backend.app.models import EventRecord, LatestValue, Notification
from backend.app.operations.events import Published
from backend.app.realtime.event import Event
from backend.app.schemas.errors import ErrorCode, WindFlowError
from backend.app.schemas.event_spec import Audience, Delivery, EventSpec, Payload, Sender
from backend.app.schemas.websocket_events import core_catalogue
from tests.deployment_world import World, as_api, as_plugin, caller, lines

PLUGIN = as_plugin(caller())
NOTE = {"title": "t", "message": "m"}


class Text(Payload):
    """A plugin's payload."""

    text: str = ""


def own_type(audience: Audience, delivery: Delivery = Delivery.STREAM) -> EventSpec:
    return EventSpec("MINE", Text, delivery, audience, frozenset({Sender.PLUGIN}), "A plugin's own.", owner="mine")


@pytest.fixture
async def world(database: Database, settings: Settings, committed: list[Event]) -> World:
    return await World.make(database, settings, committed)


async def refusal(act: Any) -> WindFlowError:
    with pytest.raises(WindFlowError) as refused:
        await act
    return refused.value


async def test_an_unknown_type_is_refused(world: World) -> None:
    """unknown_type."""
    error = await refusal(world.events.publish(PLUGIN, "NO_SUCH", {}))
    assert error.code is ErrorCode.UNKNOWN_TYPE


@pytest.mark.parametrize("sender", list(Sender))
@pytest.mark.parametrize("name", list(core_catalogue()))
async def test_a_sender_sends_only_what_its_spec_allows(world: World, name: str, sender: Sender) -> None:
    """403 not_sendable; a type that may be sent gets as far as its payload."""
    by = replace(caller("adm"), sender=sender, connection_id="c1")
    code = None
    try:
        await world.events.publish(by, name, {"title": 7, "notificationIds": [], "deploymentId": ""})
    except WindFlowError as error:
        code = error.code
    if sender not in core_catalogue()[name].senders:
        assert code is ErrorCode.NOT_SENDABLE
        assert world.types() == []
    else:
        assert code in (None, ErrorCode.INVALID_PAYLOAD)


@pytest.mark.parametrize(
    ("data", "field"), [({"title": "", "message": "m"}, "data.title"), ({"title": "t"}, "data.message"), ([], "data")]
)
async def test_the_payload_is_checked(world: World, data: Any, field: str) -> None:
    """422 naming field and rule; nothing is published."""
    error = await refusal(world.events.publish(PLUGIN, "NOTIFICATION_SENT", data))
    assert error.code is ErrorCode.INVALID_PAYLOAD
    assert error.fields[0].field == field
    assert world.types() == []


async def test_hops_are_limited(world: World) -> None:
    """What a handler publishes is an ordinary event one hop deeper; above the limit it is refused."""
    deepest = world.settings.max_hops
    await world.events.publish(as_plugin(caller(), deepest), "CUSTOM_EVENT", {})
    assert world.committed[-1].hop == deepest
    error = await refusal(world.events.publish(as_plugin(caller(), deepest + 1), "CUSTOM_EVENT", {}))
    assert (error.code, error.body_details()) == (ErrorCode.FORBIDDEN, {"maxHops": deepest})


async def test_a_stream_event_has_its_place_after_the_commit(world: World) -> None:
    """The answer tells id, stream and offset."""
    data = {"deploymentId": "elsewhere", "newStatus": "running"}
    first = await world.events.publish(PLUGIN, "DEPLOYMENT_STATUS_CHANGED", data)
    second = await world.events.publish(PLUGIN, "DEPLOYMENT_STATUS_CHANGED", data)
    assert (first.stream, first.offset, second.offset) == ("org:o1", 1, 2)
    assert first.wire() == {"id": first.id, "stream": "org:o1", "offset": 1}
    async with world.db.session() as session:
        assert list(await session.scalars(select(EventRecord.id).order_by(EventRecord.offset))) == [first.id, second.id]


async def test_a_transient_event_is_handed_on_without_a_write(world: World) -> None:
    """Transient events need no database write."""
    published = await world.events.publish(PLUGIN, "CUSTOM_EVENT", {"data": "some data"})
    assert published.wire() == {"id": world.committed[-1].id}
    assert world.last("CUSTOM_EVENT") == {"data": "some data"}
    assert await world.count(EventRecord) == 0


async def test_what_the_api_publishes_is_audited(world: World) -> None:
    """Every state-changing API call is recorded."""
    await world.events.publish(as_api(caller("adm")), "CUSTOM_EVENT", {"a": 1})
    assert world.types() == ["CUSTOM_EVENT"]
    assert await world.audited() == ["event.publish"]


@pytest.mark.parametrize(("name", "data"), [("CUSTOM_EVENT", {"a": 1}), ("NOTIFICATION_SENT", NOTE)])
async def test_a_retry_with_its_key_has_the_same_id_and_place(world: World, name: str, data: Any) -> None:
    """The answer of a retry has the same id, and its place."""
    by = as_api(caller("adm", key="k"))
    first = await world.events.publish(by, name, data)
    again = await world.events.publish(by, name, data)
    assert first == again
    assert world.types() == [name]


async def test_an_event_for_one_user(world: World) -> None:
    """`user_id` narrows the audience; a user of another organization is refused with 404."""
    await world.events.publish(PLUGIN, "CUSTOM_EVENT", {}, user_id="vic")
    assert (world.committed[-1].user_id, world.committed[-1].organization_id) == ("vic", "o1")
    for name in ("CUSTOM_EVENT", "NOTIFICATION_SENT", "DEPLOYMENT_STATUS_CHANGED"):
        data = {**NOTE, "deploymentId": "d", "newStatus": "failed"}
        error = await refusal(world.events.publish(PLUGIN, name, data, user_id="bob"))
        assert (error.code, error.message) == (ErrorCode.NOT_FOUND, "user not found")
    assert len(world.committed) == 1


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("DEPLOYMENT_PROGRESS", {"deploymentId": "d", "progress": 1}),
        ("DEPLOYMENT_LOGS_UPDATE", {"deploymentId": "d", "logs": ["x"]}),
    ],
)
async def test_what_is_kept_for_all_is_not_sent_to_one(world: World, name: str, data: Any) -> None:
    """A latest value or a log line for one user would be shown to everyone later."""
    error = await refusal(world.events.publish(PLUGIN, name, data, user_id="vic"))
    assert error.fields[0].field == "userId"


async def test_types_for_one_user_session_or_connection_need_one(world: World) -> None:
    """The audience of the spec decides."""
    for audience, field in ((Audience.USER, "userId"), (Audience.SESSION, "type"), (Audience.CONNECTION, "type")):
        world.catalogue.add([own_type(audience)])
        error = await refusal(world.events.publish(PLUGIN, "MINE", {}))
        assert error.fields[0].field == field
        world.catalogue.remove_owner("mine")
    world.catalogue.add([own_type(Audience.SESSION)])
    in_session = replace(PLUGIN, principal=replace(PLUGIN.principal, session_id="s1"))
    await world.events.publish(in_session, "MINE", {})
    assert world.committed[-1].session_id == "s1"
    assert (await refusal(world.events.publish(in_session, "MINE", {}, user_id="vic"))).fields[0].field == "userId"


async def test_the_organization_is_crossed_only_explicitly(world: World) -> None:
    """Crossing it takes an explicit organization_id; clients and the API do not."""
    await world.events.publish(PLUGIN, "CUSTOM_EVENT", {})
    await world.events.publish(PLUGIN, "CUSTOM_EVENT", {}, organization_id="o2")
    await world.events.publish(PLUGIN, "CUSTOM_EVENT", {}, organization_id=None)
    await world.events.publish(as_api(caller("root")), "CUSTOM_EVENT", {}, organization_id="o2")
    assert [event.organization_id for event in world.committed] == ["o1", "o2", None, "o2"]
    for by, organization in (("adm", "o2"), ("adm", None), ("root", None)):
        error = await refusal(
            world.events.publish(as_api(caller(by)), "CUSTOM_EVENT", {}, organization_id=organization)
        )
        assert error.code is ErrorCode.FORBIDDEN
    error = await refusal(world.events.publish(PLUGIN, "CUSTOM_EVENT", {}, organization_id="o9"))
    assert error.message == "organization not found"
    error = await refusal(world.events.publish(PLUGIN, "CUSTOM_EVENT", {}, user_id="vic", organization_id=None))
    assert error.fields[0].field == "userId"
    error = await refusal(world.events.publish(PLUGIN, "NOTIFICATION_SENT", NOTE, organization_id=None))
    assert error.fields[0].field == "organizationId"


async def test_a_notification_is_stored_whoever_publishes_it(world: World) -> None:
    """Publishing NOTIFICATION_SENT writes the notification's row, whoever publishes (a plugin, too)."""
    published = await world.events.publish(PLUGIN, "NOTIFICATION_SENT", {**NOTE, "extra": 1}, user_id="vic")
    assert published.offset == 1
    told = world.last("NOTIFICATION_SENT")
    assert told["extra"] == 1
    items = (await world.notifications.list(caller("vic")))["items"]
    assert [item["id"] for item in items] == [told["notificationId"]]
    await world.events.publish(PLUGIN, "NOTIFICATION_SENT", NOTE, organization_id="o2")
    assert len((await world.notifications.list(caller("bob")))["items"]) == 1


async def test_a_client_marks_notifications_as_read(world: World) -> None:
    """NOTIFICATION_READ of a client is for the client's own user; what was read already makes no event."""
    sent = await world.events.publish(PLUGIN, "NOTIFICATION_SENT", {**NOTE, "notificationId": "n1"})
    assert sent.id is not None
    client = replace(caller("vic"), sender=Sender.CLIENT, connection_id="c1")
    published = await world.events.publish(client, "NOTIFICATION_READ", {"notificationIds": ["n1"]})
    assert (world.committed[-1].id, world.committed[-1].user_id) == (published.id, "vic")
    assert world.committed[-1].connection_id == "c1"
    again = await world.events.publish(client, "NOTIFICATION_READ", {"notificationIds": ["n1"]})
    assert again == Published()
    error = await refusal(world.events.publish(client, "NOTIFICATION_READ", {"notificationIds": ["n2"]}))
    assert error.code is ErrorCode.NOT_FOUND


async def test_a_plugins_lines_come_after_the_last_one(world: World) -> None:
    """DEPLOYMENT_LOGS_UPDATE of a plugin appends; a given firstLine must be the next one."""
    by = await world.running("d1", runner=None)
    await world.deployments.append_logs(by, "d1", 1, lines("one"))
    name = "DEPLOYMENT_LOGS_UPDATE"
    await world.events.publish(PLUGIN, name, {"deploymentId": "d1", "logs": ["two"], "levels": ["info"]})
    assert world.last(name) == {"deploymentId": "d1", "logs": ["two"], "levels": ["info"], "firstLine": 2}
    await world.events.publish(PLUGIN, name, {"deploymentId": "d1", "logs": ["three"], "firstLine": 3})
    for first in (1, 3, 5):
        error = await refusal(
            world.events.publish(PLUGIN, name, {"deploymentId": "d1", "logs": ["x"], "firstLine": first})
        )
        assert (error.code, error.body_details()) == (ErrorCode.LOG_GAP, {"nextLine": 4})
    assert await world.texts() == ["one", "two", "three"]
    error = await refusal(world.events.publish(PLUGIN, name, {"deploymentId": "d1", "logs": ["x"], "times": []}))
    assert error.fields[0].field == "data.times"


@pytest.mark.parametrize("first_line", [None, 1])
async def test_a_plugin_adds_no_lines_to_what_is_not_there(world: World, first_line: int | None) -> None:
    """Lines need a deployment of the organization; a foreign one is like none."""
    await world.create("theirs", by=caller("bob"))
    for deployment_id in ("theirs", "nothing"):
        data: Mapping[str, Any] = {"deploymentId": deployment_id, "logs": ["x"], "firstLine": first_line}
        error = await refusal(world.events.publish(PLUGIN, "DEPLOYMENT_LOGS_UPDATE", data))
        assert (error.code, error.message) == (ErrorCode.NOT_FOUND, "deployment not found")
    assert await world.texts("theirs") == []


async def test_a_plugins_progress_is_stored_with_its_deployment(world: World) -> None:
    """DEPLOYMENT_PROGRESS of a plugin is the deployment's progress where there is one."""
    await world.running("d1")
    await world.create("theirs", by=caller("bob"))
    for deployment_id in ("d1", "theirs", "elsewhere"):
        published = await world.events.publish(
            PLUGIN, "DEPLOYMENT_PROGRESS", {"deploymentId": deployment_id, "progress": 40}
        )
        assert published.offset is None
        assert world.committed[-1].version is not None
    assert (await world.deployments.get(caller(), "d1"))["progress"] == 40
    assert (await world.deployments.get(caller("bob"), "theirs"))["progress"] is None
    assert await world.count(LatestValue) == 3
    assert {event.organization_id for event in world.committed[-3:]} == {"o1"}


async def test_a_message_for_a_user_goes_as_it_is(world: World) -> None:
    """Any other dict is sent as it is, plus `timestamp`, to all sockets of that user."""
    message = {"type": "custom_notification", "message": "Event processed"}
    await world.events.broadcast_to_user(PLUGIN, "vic", message)
    user, organization, sent = world.pushed[-1]
    assert (user, organization) == ("vic", "o1")
    assert {**sent, "timestamp": None} == {**message, "timestamp": None}
    assert datetime.fromisoformat(sent["timestamp"])
    await world.events.broadcast_to_user(PLUGIN, "ada", {"no": "type", "timestamp": "mine"})
    assert world.pushed[-1][2] == {"no": "type", "timestamp": "mine"}
    assert world.types() == []


async def test_a_known_type_for_a_user_is_published(world: World) -> None:
    """A type of the catalogue is validated and published with its class."""
    message = {"type": "NOTIFICATION_SENT", "data": NOTE}
    published = await world.events.broadcast_to_user(PLUGIN, "vic", message)
    assert published.offset == 1
    assert world.committed[-1].user_id == "vic"
    assert await world.count(Notification) == 1
    assert world.pushed == []
    error = await refusal(world.events.broadcast_to_user(PLUGIN, "vic", {"type": "NOTIFICATION_SENT", **NOTE}))
    assert error.code is ErrorCode.INVALID_PAYLOAD


@pytest.mark.parametrize("message", [{"type": "x"}, {"type": "CUSTOM_EVENT", "data": {}}])
async def test_a_message_never_reaches_another_organization(world: World, message: Mapping[str, Any]) -> None:
    """A user of another organization is refused."""
    for user in ("bob", "nobody", "\x00"):
        error = await refusal(world.events.broadcast_to_user(PLUGIN, user, message))
        assert error.code is ErrorCode.NOT_FOUND
    assert (world.pushed, world.types()) == ([], [])
    await world.events.broadcast_to_user(PLUGIN, "bob", message, organization_id="o2")
    assert len(world.pushed) + len(world.committed) == 1


async def test_a_superuser_is_told_of_acts_in_another_organization(world: World) -> None:
    """What a superuser did in another organization, a plugin may answer to them; the API reaches its own only."""
    by = as_plugin(Caller(system_principal("o2")))
    await world.events.broadcast_to_user(by, "root", {"type": "x"}, organization_id="o2")
    assert world.pushed[-1][:2] == ("root", "o2")
    await world.events.broadcast_to_user(by, "root", {"type": "CUSTOM_EVENT", "data": {}}, organization_id="o2")
    assert (world.committed[-1].user_id, world.committed[-1].organization_id) == ("root", "o2")
    of_o2 = replace(caller("adm").principal, organization_id="o2")
    error = await refusal(world.events.publish(as_api(Caller(of_o2)), "CUSTOM_EVENT", {}, user_id="root"))
    assert error.code is ErrorCode.NOT_FOUND


async def test_the_system_has_no_sockets(world: World) -> None:
    """A plugin that answers `context.user.id` also handles what the server itself did."""
    by = as_plugin(Caller(system_principal("o1")))
    for message in ({"type": "x"}, {"type": "NOTIFICATION_SENT", "data": NOTE}):
        assert await world.events.broadcast_to_user(by, SYSTEM_ID, message) == Published()
    assert (world.pushed, world.types()) == ([], [])


async def test_a_message_that_is_not_json_is_refused(world: World) -> None:
    """What cannot be encoded is refused at its source."""
    error = await refusal(world.events.broadcast_to_user(PLUGIN, "vic", {"type": "x", "what": object()}))
    assert error.code is ErrorCode.INVALID_PAYLOAD
    for what in (float("nan"), [{"a": float("-inf")}], object(), b"\xff", "\ud800", 2**70):
        error = await refusal(world.events.publish(PLUGIN, "CUSTOM_EVENT", {"what": what}))
        assert error.code is ErrorCode.INVALID_PAYLOAD
    assert world.types() == []
