"""The routes of notifications and of publishing events: statuses, shapes, rights, refusals, over HTTP."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from backend.app.config import Settings
from backend.app.database import Database
from backend.app.realtime.event import Event
from tests.deployment_http import Http, refused, serving
from tests.deployment_world import World

NOTE = {"title": "t", "message": "m"}


@pytest.fixture
async def world(database: Database, settings: Settings, committed: list[Event]) -> World:
    return await World.make(database, settings, committed)


@pytest.fixture
async def http(world: World) -> AsyncIterator[Http]:
    async with serving(world) as http:
        yield http


async def test_a_notification_is_sent_listed_and_read(http: Http) -> None:
    """POST /notifications, GET /notifications?unread&level, POST /notifications/read."""
    sent = await http("ada", "POST", "/notifications", {**NOTE, "level": "warning", "link": "/deployments"})
    assert (sent.status_code, sent.json()["read"], sent.json()["readAt"]) == (201, False, None)
    await http("ada", "POST", "/notifications", {**NOTE, "userId": "ada"})
    listed = (await http("vic", "GET", "/notifications?unread=true&level=warning")).json()
    assert (listed["items"], listed["unreadCount"], listed["nextCursor"]) == ([sent.json()], 1, None)
    assert "org:o1" in listed["positions"]
    read = (await http("vic", "POST", "/notifications/read", {"notificationIds": [sent.json()["id"]]})).json()
    assert (read["notificationIds"], read["unreadCount"]) == ([sent.json()["id"]], 0)
    again = await http("vic", "POST", "/notifications/read", {"all": True})
    assert (again.status_code, again.json()["notificationIds"]) == (200, [])
    assert (await http("vic", "GET", "/notifications?unread=true")).json()["items"] == []


async def test_who_may_send(http: Http) -> None:
    """POST /notifications: operator; reading: viewer."""
    refused(await http("vic", "POST", "/notifications", NOTE), 403, "forbidden")
    for path in ("/notifications", "/notifications/read", "/events"):
        refused(await http("mallory", "POST", path, {}), 401, "not_authenticated")


async def test_what_does_not_exist(http: Http) -> None:
    """404 for a user, a deployment, notifications that are not there for the caller."""
    refused(await http("ada", "POST", "/notifications", {**NOTE, "userId": "bob"}), 404, "not_found")
    refused(await http("ada", "POST", "/notifications", {**NOTE, "deploymentId": "x"}), 404, "not_found")
    answer = await http("vic", "POST", "/notifications/read", {"notificationIds": ["x"]})
    assert refused(answer, 404, "not_found") == {"notificationIds": ["x"]}


@pytest.mark.parametrize(
    ("path", "body", "fields"),
    [
        ("/notifications", {"title": "", "message": "m"}, ["title"]),
        ("/notifications", {**NOTE, "level": "loud"}, ["level"]),
        ("/notifications", {**NOTE, "link": "javascript:alert(1)"}, ["link"]),
        ("/notifications", {**NOTE, "message": "\x00"}, ["message"]),
        ("/notifications", {**NOTE, "user_id": "ada"}, ["user_id"]),
        ("/notifications/read", {}, ["body"]),
        ("/notifications/read", {"all": False}, ["all"]),
        ("/notifications/read", {"all": True, "notificationIds": ["x"]}, ["body"]),
        ("/notifications/read", {"notificationIds": []}, ["notificationIds"]),
        ("/events", {"type": "CUSTOM_EVENT"}, ["data"]),
        ("/events", {"type": "CUSTOM_EVENT", "data": []}, ["data"]),
        ("/events", {"type": "NOTIFICATION_SENT", "data": {"title": "t"}}, ["data.message"]),
    ],
)
async def test_bad_input_names_field_and_rule(http: Http, path: str, body: Any, fields: list[str]) -> None:
    """Bad input gets a clear error naming field and rule."""
    details = refused(await http("adm", "POST", path, body), 422, "invalid_payload")
    assert [error["field"] for error in details] == fields


async def test_publishing_is_202_with_id_and_place(http: Http, world: World) -> None:
    """POST /events → 202 {id, stream?, offset?}."""
    custom = await http("adm", "POST", "/events", {"type": "CUSTOM_EVENT", "data": {"a": [1, None]}})
    assert (custom.status_code, custom.json()) == (202, {"id": world.committed[-1].id})
    assert world.last("CUSTOM_EVENT") == {"a": [1, None]}
    body = {"type": "NOTIFICATION_SENT", "data": NOTE, "userId": "vic"}
    sent = await http("adm", "POST", "/events", body)
    assert sent.json() == {"id": world.committed[-1].id, "stream": "org:o1", "offset": 1}
    assert world.committed[-1].user_id == "vic"


async def test_a_retry_with_its_key_is_the_same_event(http: Http, world: World) -> None:
    """A retry with the same key makes none, and is answered with the same id and place."""
    body = {"type": "NOTIFICATION_SENT", "data": NOTE}
    answers = [await http("adm", "POST", "/events", body, headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert world.types() == ["NOTIFICATION_SENT"]
    other = await http("adm", "POST", "/events", {**body, "userId": "vic"}, headers={"Idempotency-Key": "k"})
    refused(other, 409, "key_reused")


async def test_what_may_not_be_published(http: Http) -> None:
    """400 unknown_type, 403 not_sendable and forbidden, 404 for a user elsewhere."""
    refused(await http("adm", "POST", "/events", {"type": "NO_SUCH", "data": {}}), 400, "unknown_type")
    for name in ("AUTH_LOGOUT", "SESSION_EXPIRED", "WEBSOCKET_PING", "DEPLOYMENT_CREATED", "NOTIFICATION_READ"):
        refused(await http("adm", "POST", "/events", {"type": name, "data": {}}), 403, "not_sendable")
    refused(await http("ada", "POST", "/events", {"type": "CUSTOM_EVENT", "data": {}}), 403, "forbidden")
    away = {"type": "CUSTOM_EVENT", "data": {}, "userId": "bob"}
    refused(await http("adm", "POST", "/events", away), 404, "not_found")
