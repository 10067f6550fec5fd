"""The one shape of errors, where the framework itself refuses: size, method, query, on a real server."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.integration.server_process import server_process

pytestmark = pytest.mark.asyncio(loop_scope="module")

MOST = 2_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(
    module_database: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[httpx.AsyncClient]:
    folder: Path = tmp_path_factory.mktemp("errors")
    async with server_process(folder, {"REQUEST_BYTES": str(MOST)} | module_database) as server:
        token = await server.login()
        async with server.client(token) as client:
            yield client


PART = b'--x\r\nContent-Disposition: form-data; name="username"\r\n\r\n'


async def pieces(start: bytes) -> AsyncIterator[bytes]:
    """A body whose length nobody states."""
    yield start
    for _ in range(10):
        yield b"a" * (MOST // 5)


def details(answer: httpx.Response, status: int, code: str) -> list[dict[str, Any]]:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"code", "message", "details", "requestId"}
    assert body["code"] == code
    assert body["requestId"] == answer.headers["x-request-id"]
    found: list[dict[str, Any]] = body["details"] or []
    return found


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/deployments", "application/json"),
        ("/auth/login", "application/x-www-form-urlencoded"),
        ("/auth/login", "multipart/form-data; boundary=x"),
        ("/auth/logout", "application/json"),
    ],
)
@pytest.mark.parametrize("is_stated", [True, False])
async def test_a_body_over_the_limit_is_too_large_however_it_is_sent(
    client: httpx.AsyncClient, path: str, kind: str, is_stated: bool
) -> None:
    """413 message_too_large, also for a body whose length is not stated."""
    # A part that is well-formed so far: what is malformed may be told before it is too large.
    start = PART if kind.startswith("multipart") else b""
    keyed: dict[str, str]
    for keyed in ({}, {"Idempotency-Key": "k"}):
        content: Any = b"a" * (MOST + 1) if is_stated else pieces(start)
        answer = await client.post(path, content=content, headers={"Content-Type": kind, **keyed})
        details(answer, 413, "message_too_large")


async def test_a_wrong_method_is_told_the_right_ones(client: httpx.AsyncClient) -> None:
    """405 names the methods there are (RFC 9110, 15.5.6)."""
    answer = await client.put("/auth/login")
    details(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/deployments?limit=0", "limit"),
        ("/deployments?cursor=nonsense", "cursor"),
        ("/deployments?status=running&status=odd", "status.1"),
        ("/deployments/d1/logs?fromLine=x", "fromLine"),
        ("/users?limit=x", "limit"),
    ],
)
async def test_a_wrong_parameter_is_named_as_the_client_spelled_it(
    client: httpx.AsyncClient, path: str, field: str
) -> None:
    """Errors name the field and the rule it broke."""
    (found,) = details(await client.get(path), 422, "invalid_payload")
    assert found["field"] == field
    assert found["rule"]


@pytest.mark.parametrize(
    ("body", "field"),
    [("null", "body"), ("[1]", "body"), ("", "body"), ('{"name": 1}', "name"), ('{"name": "x", "odd": 1}', "odd")],
)
async def test_a_wrong_body_names_the_field(client: httpx.AsyncClient, body: str, field: str) -> None:
    """Errors name the field and the rule it broke; of what is no object, `body`."""
    answer = await client.post("/deployments", content=body, headers={"Content-Type": "application/json"})
    assert details(answer, 422, "invalid_payload")[0]["field"] == field
