"""The routes of deployments: statuses, shapes, rights and every refusal, over HTTP."""

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from backend.app.config import Settings
from backend.app.database import Database
from backend.app.realtime.event import Event
from tests.deployment_http import Http, refused, serving
from tests.deployment_world import OTHER_RUNNER, RUNNER, World

RUN = {"X-Windflow-Runner": RUNNER}
TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")


@pytest.fixture
async def world(database: Database, settings: Settings, committed: list[Event]) -> World:
    return await World.make(database, settings, committed)


@pytest.fixture
async def http(world: World) -> AsyncIterator[Http]:
    async with serving(world) as http:
        yield http


async def create(http: Http, deployment_id: str = "d1", by: str = "ada", **more: Any) -> httpx.Response:
    return await http(by, "POST", "/deployments", {"deploymentId": deployment_id, "name": "site"}, **more)


async def test_the_life_of_a_deployment(http: Http, world: World) -> None:
    """Create, start, lines, progress, end, read, delete: each answer as the interface page prints it."""
    made = await create(http, headers=RUN)
    assert made.status_code == 201
    assert TIME.match(made.json()["createdAt"])
    assert TIME.match(made.json()["leaseUntil"])
    assert (await create(http, headers=RUN)).status_code == 200

    started = await http("ada", "PUT", "/deployments/d1/status", {"status": "running"}, headers=RUN)
    assert (started.status_code, started.json()["status"]) == (200, "running")
    body = {
        "firstLine": 1,
        "lines": [{"text": "a", "t": "2024-01-15T10:30:00Z", "stream": "out", "level": "info"}, {"text": ""}],
    }
    added = await http("ada", "POST", "/deployments/d1/logs", body, headers=RUN)
    assert (added.status_code, added.json()["nextLine"], added.json()["cancelRequested"]) == (200, 3, False)
    assert TIME.match(added.json()["leaseUntil"])
    progress = {"progress": 12.5, "step": "pull", "currentStep": 1, "totalSteps": 8, "etaSeconds": 3.5}
    assert (await http("ada", "PUT", "/deployments/d1/progress", progress, headers=RUN)).status_code == 200
    assert world.last("DEPLOYMENT_PROGRESS") == {"deploymentId": "d1", **progress}
    beat = await http("ada", "POST", "/deployments/d1/heartbeat", {}, headers=RUN)
    assert set(beat.json()) == {"cancelRequested", "leaseUntil"}
    ended = await http(
        "ada", "PUT", "/deployments/d1/status", {"status": "failed", "reason": "r", "exitCode": 3}, headers=RUN
    )
    assert (ended.json()["exitCode"], ended.json()["leaseUntil"]) == (3, None)

    seen = (await http("vic", "GET", "/deployments/d1")).json()
    assert {**ended.json(), "positions": seen["positions"]} == seen
    assert seen["positions"]["org:o1"]["offset"] == 3
    listed = (await http("vic", "GET", "/deployments")).json()
    assert listed == {"items": [ended.json()], "nextCursor": None, "positions": seen["positions"]}
    page = (await http("vic", "GET", "/deployments/d1/logs")).json()
    assert page["items"] == [
        {"line": 1, "text": "a", "t": "2024-01-15T10:30:00.000Z", "stream": "out", "level": "info"},
        {"line": 2, "text": "", "t": None, "stream": None, "level": None},
    ]
    assert (page["nextLine"], page["lastLine"]) == (3, 2)

    gone = await http("adm", "DELETE", "/deployments/d1")
    assert (gone.status_code, gone.content) == (204, b"")
    refused(await http("vic", "GET", "/deployments/d1"), 404, "not_found")


async def test_cancel_is_202_or_200(http: Http) -> None:
    """202 when a runner was asked, also the second time; 200 when nobody holds the lease; 409 when it ended."""
    await create(http, headers=RUN)
    for body in ({"reason": "stop"}, None):
        asked = await http("ada", "POST", "/deployments/d1/cancel", body)
        assert (asked.status_code, asked.json()["cancelRequested"], asked.json()["status"]) == (202, True, "pending")
    await create(http, "d2")
    assert (await http("ada", "POST", "/deployments/d2/cancel")).status_code == 200
    details = refused(await http("ada", "POST", "/deployments/d2/cancel"), 409, "deployment_closed")
    assert details == {"status": "cancelled", "reason": None}


async def test_every_conflict_has_its_code(http: Http) -> None:
    """409 id_taken, invalid_transition, log_gap, lease_held, deployment_closed, deployment_active, key_reused."""
    await create(http)
    refused(await http("ada", "POST", "/deployments", {"deploymentId": "d1", "name": "x"}), 409, "id_taken")
    details = refused(
        await http("ada", "PUT", "/deployments/d1/status", {"status": "success"}), 409, "invalid_transition"
    )
    assert details == {"from": "pending", "to": "success", "allowed": ["running", "failed", "cancelled"]}
    gap = await http("ada", "POST", "/deployments/d1/logs", {"firstLine": 5, "lines": [{"text": "x"}]})
    assert refused(gap, 409, "log_gap") == {"nextLine": 1}
    refused(await http("adm", "DELETE", "/deployments/d1"), 409, "deployment_active")
    await http("ada", "POST", "/deployments/d1/heartbeat", {}, headers=RUN)
    other = {"X-Windflow-Runner": OTHER_RUNNER}
    held = await http("ada", "POST", "/deployments/d1/heartbeat", {}, headers=other)
    assert set(refused(held, 409, "lease_held")) == {"leaseUntil"}
    await http("ada", "PUT", "/deployments/d1/status", {"status": "failed"}, headers=RUN)
    refused(
        await http("ada", "PUT", "/deployments/d1/progress", {"progress": 1}, headers=RUN), 409, "deployment_closed"
    )
    for name, code in (("a", 201), ("a", 201)):
        key = {"Idempotency-Key": "k"}
        assert (await http("ada", "POST", "/deployments", {"name": name}, headers=key)).status_code == code
    again = await http("ada", "POST", "/deployments", {"name": "b"}, headers={"Idempotency-Key": "k"})
    refused(again, 409, "key_reused")


@pytest.mark.parametrize(
    ("method", "path", "body", "least"),
    [
        ("POST", "/deployments", {"name": "x"}, "operator"),
        ("GET", "/deployments", None, "viewer"),
        ("GET", "/deployments/d1", None, "viewer"),
        ("GET", "/deployments/d1/logs", None, "viewer"),
        ("PUT", "/deployments/d1/status", {"status": "running"}, "operator"),
        ("POST", "/deployments/d1/logs", {"firstLine": 1, "lines": []}, "operator"),
        ("PUT", "/deployments/d1/progress", {"progress": 1}, "operator"),
        ("POST", "/deployments/d1/heartbeat", {}, "operator"),
        ("POST", "/deployments/d1/cancel", {}, "operator"),
        ("DELETE", "/deployments/d2", None, "admin"),
    ],
)
async def test_who_may(http: Http, world: World, method: str, path: str, body: Any, least: str) -> None:
    """Your own but not allowed is 403; what belongs to another organization is 404 like what does not exist."""
    await create(http)
    await create(http, "d2")
    await world.set("d2", status="success")
    nobody = await http.client.request(method, f"/api/v1{path}", json=body)
    refused(nobody, 401, "not_authenticated")
    assert nobody.headers["www-authenticate"] == "Bearer"
    refused(await http("mallory", method, path, body), 401, "not_authenticated")
    ranks = {"viewer": "vic", "operator": "ada", "admin": "adm"}
    names = list(ranks)
    for role in names[: names.index(least)]:
        refused(await http(ranks[role], method, path, body), 403, "forbidden")
    if "/d" in path.removeprefix("/deployments"):
        by = "bob" if least != "admin" else None
        if by:
            foreign = refused(await http(by, method, path, body), 404, "not_found")
            missing = refused(await http(by, method, path.replace("d1", "nothing"), body), 404, "not_found")
            assert foreign == missing
    assert (await http(ranks[least], method, path, body)).is_success


@pytest.mark.parametrize(
    ("method", "path", "body", "fields"),
    [
        ("POST", "/deployments", {}, ["name"]),
        ("POST", "/deployments", {"name": " "}, ["name"]),
        ("POST", "/deployments", {"name": "a\nb"}, ["name"]),
        ("POST", "/deployments", {"name": "x" * 257}, ["name"]),
        ("POST", "/deployments", {"name": 5}, ["name"]),
        ("POST", "/deployments", {"name": "x", "nmae": "y", "deploymentId": "a/b"}, ["deploymentId", "nmae"]),
        ("POST", "/deployments", {"name": "x", "deploymentId": "x" * 65}, ["deploymentId"]),
        ("POST", "/deployments", {"name": "x", "program": "a\x00"}, ["program"]),
        ("POST", "/deployments", {"name": "x", "organization_id": "o1"}, ["organization_id"]),
        ("PUT", "/deployments/d1/status", {"status": "done"}, ["status"]),
        ("PUT", "/deployments/d1/status", {"status": "failed", "exitCode": 2**31}, ["exitCode"]),
        ("PUT", "/deployments/d1/status", {"status": "failed", "reason": "x" * 1025}, ["reason"]),
        ("PUT", "/deployments/d1/status", {"status": "failed", "reason": "\x00"}, ["reason"]),
        ("PUT", "/deployments/d1/status", {"status": "running", "exitCode": 0}, ["exitCode"]),
        ("PUT", "/deployments/d1/progress", {"progress": 101}, ["progress"]),
        ("PUT", "/deployments/d1/progress", {"progress": 1, "step": "\x00"}, ["step"]),
        ("PUT", "/deployments/d1/progress", {"progress": 1, "totalSteps": -1}, ["totalSteps"]),
        ("PUT", "/deployments/d1/progress", {"progress": 1, "deploymentId": "d2"}, ["deploymentId"]),
        ("POST", "/deployments/d1/logs", {"firstLine": 0, "lines": []}, ["firstLine"]),
        ("POST", "/deployments/d1/logs", {"firstLine": 1}, ["lines"]),
        ("POST", "/deployments/d1/logs", {"firstLine": 1, "lines": ["a"]}, ["lines.0"]),
        ("POST", "/deployments/d1/logs", {"firstLine": 1, "lines": [{"text": "a\nb"}]}, ["lines.0.text"]),
        ("POST", "/deployments/d1/logs", {"firstLine": 1, "lines": [{"text": "a", "stream": "x"}]}, ["lines.0.stream"]),
        ("POST", "/deployments/d1/logs", {"firstLine": 1, "lines": [{"text": "a", "t": "soon"}]}, ["lines.0.t"]),
        (
            "POST",
            "/deployments/d1/logs",
            {"firstLine": 1, "lines": [{"text": "a", "t": "2024-01-15T10:30:00"}]},
            ["lines.0.t"],
        ),
        ("POST", "/deployments/d1/heartbeat", {"x": 1}, ["x"]),
        ("GET", "/deployments?status=done", None, ["status.0"]),
        ("GET", "/deployments?limit=0", None, ["limit"]),
        ("GET", "/deployments?cursor=x", None, ["cursor"]),
        ("GET", "/deployments?q=%00", None, ["q"]),
        ("GET", "/deployments/d1/logs?fromLine=x", None, ["fromLine"]),
        ("GET", "/deployments/d1/logs?format=xml", None, ["format"]),
        ("GET", "/deployments/d1/logs?q=%00&format=text", None, ["q"]),
    ],
)
async def test_bad_input_names_field_and_rule(http: Http, method: str, path: str, body: Any, fields: list[str]) -> None:
    """Bad input gets a clear error naming field and rule."""
    await create(http)
    details = refused(await http("ada", method, path, body), 422, "invalid_payload")
    assert [error["field"] for error in details] == fields
    assert all(error["rule"] for error in details)


@pytest.mark.parametrize("content", [b"{", b'{"name": NaN}', b'{"name": "\\ud800"}', b"[" * 100 + b"]" * 100])
async def test_what_is_not_json_is_refused(http: Http, content: bytes) -> None:
    """400 invalid_json: no NaN, no lone surrogates, bounded depth."""
    headers = {"Content-Type": "application/json"}
    refused(await http("ada", "POST", "/deployments", content=content, headers=headers), 400, "invalid_json")


async def test_headers_are_checked(http: Http) -> None:
    """A runner names itself with a UUID; a key is 1 to 255 visible characters."""
    await create(http)
    for headers in ({"X-Windflow-Runner": "me"}, {"Idempotency-Key": "a b"}):
        answer = await http("ada", "POST", "/deployments/d1/heartbeat", {}, headers=headers)
        assert refused(answer, 422, "invalid_payload")[0]["field"] in headers


async def test_a_report_above_a_limit_is_413(http: Http, world: World) -> None:
    """413 message_too_large names the limit: lines, their text, the whole body."""
    await create(http)
    world.settings.log_append_lines = 2
    three = {"firstLine": 1, "lines": [{"text": "x"}] * 3}
    details = refused(await http("ada", "POST", "/deployments/d1/logs", three), 413, "message_too_large")
    assert details[0]["field"] == "lines"
    world.settings.log_append_bytes = 10
    wide = {"firstLine": 1, "lines": [{"text": "x" * 11}]}
    refused(await http("ada", "POST", "/deployments/d1/logs", wide), 413, "message_too_large")


@pytest.mark.parametrize("path", ["/deployments/%00", "/deployments/" + "x" * 300, "/deployments/%F0%9F%99%82/logs"])
async def test_any_id_in_a_path_is_answered(http: Http, path: str) -> None:
    """What no database could hold does not exist."""
    refused(await http("ada", "GET", path), 404, "not_found")


async def test_lists_are_filtered_and_paged(http: Http) -> None:
    """GET /deployments?status&q&createdBy&limit&cursor&organizationId."""
    for number in range(3):
        await create(http, f"d{number}")
    await create(http, "theirs", by="bob")
    await http("ada", "PUT", "/deployments/d1/status", {"status": "running"})
    first = (await http("vic", "GET", "/deployments", params={"limit": 2})).json()
    second = (await http("vic", "GET", "/deployments", params={"limit": 2, "cursor": first["nextCursor"]})).json()
    assert {item["id"] for page in (first, second) for item in page["items"]} == {"d0", "d1", "d2"}
    for query, expected in (
        ("status=running", {"d1"}),
        ("status=running&status=pending", {"d0", "d1", "d2"}),
        ("q=D2", {"d2"}),
        ("createdBy=adm", set[str]()),
    ):
        answer = (await http("vic", "GET", f"/deployments?{query}")).json()
        assert {item["id"] for item in answer["items"]} == expected
    theirs = (await http("root", "GET", "/deployments?organizationId=o2")).json()
    assert [item["id"] for item in theirs["items"]] == ["theirs"]
    refused(await http("vic", "GET", "/deployments?organizationId=o2"), 403, "forbidden")
    refused(await http("root", "GET", "/deployments?organizationId=o9"), 404, "not_found")


async def test_lines_as_text(http: Http) -> None:
    """format=text is plain text, never anything a browser would run."""
    await create(http)
    body = {"firstLine": 1, "lines": [{"text": "<script>é</script>"}, {"text": "b", "level": "error"}, {"text": "c"}]}
    await http("ada", "POST", "/deployments/d1/logs", body)
    answer = await http("vic", "GET", "/deployments/d1/logs?format=text")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.text == "<script>é</script>\nb\nc\n"
    assert (await http("vic", "GET", "/deployments/d1/logs?format=text&fromLine=-1")).text == "c\n"
    assert (await http("vic", "GET", "/deployments/d1/logs?format=text&level=ERROR")).text == "b\n"
    refused(await http("bob", "GET", "/deployments/d1/logs?format=text"), 404, "not_found")
