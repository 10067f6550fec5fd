"""Requests: errors as types, retries with one idempotency key, tokens renewed once."""

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from backend.app.client.api import WindFlowClient
from backend.app.client.backoff import RetryPolicy
from backend.app.client.credentials import Credentials, CredentialStore
from backend.app.client.errors import ApiError, NotLoggedIn, ServerUnreachable
from backend.app.client.rest import RestClient, retry_after_seconds

SERVER = "http://127.0.0.1:8000"
Handler = Callable[[httpx.Request], httpx.Response]


class Server:
    """Answers from a list; remembers what was asked."""

    def __init__(self, *answers: httpx.Response | Exception | Handler) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else answer(request)


class Sleeps(list[float]):
    """Keeps how long was waited, and waits not."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)


def error(status: int, code: str, **more: object) -> httpx.Response:
    return httpx.Response(status, json={"code": code, "message": f"about {code}", "requestId": "req-1", **more})


def rest(server: Server, sleeps: Sleeps | None = None, policy: RetryPolicy | None = None) -> RestClient:
    return RestClient(
        SERVER, transport=httpx.MockTransport(server), sleep=sleeps if sleeps is not None else Sleeps(), policy=policy
    )


async def test_an_error_answer_becomes_a_typed_error() -> None:
    """Errors everywhere: {code, message, details, requestId}."""
    details = [{"field": "name", "rule": "too long"}]
    client = rest(Server(error(422, "invalid_payload", details=details)))
    with pytest.raises(ApiError) as raised:
        await client.call("GET", "deployments")
    refused = raised.value
    assert (refused.code, refused.status, refused.request_id) == ("invalid_payload", 422, "req-1")
    assert refused.details == details
    assert refused.message == "about invalid_payload"


@pytest.mark.parametrize(
    "answer",
    [httpx.Response(404, text="<html>nginx"), httpx.Response(404, json=["x"]), httpx.Response(404, json={"code": 1})],
)
async def test_an_answer_of_another_server_is_told_as_such(answer: httpx.Response) -> None:
    """What does not come from WindFlow (a proxy, another server) is an error that says so, not a traceback."""
    with pytest.raises(ApiError, match="HTTP 404") as raised:
        await rest(Server(answer)).call("GET", "system")
    assert raised.value.code == "unexpected_answer"


async def test_a_page_that_is_not_json_is_told_as_such() -> None:
    """A success that is not JSON is no success."""
    with pytest.raises(ApiError, match="is it a WindFlow server"):
        await rest(Server(httpx.Response(200, text="<html>"))).call("GET", "system")


async def test_a_post_is_repeated_with_the_same_key() -> None:
    """POSTs carry an Idempotency-Key, stable across the retries."""
    server = Server(httpx.ConnectError("x"), httpx.ReadError("reset"), httpx.Response(201, json={"id": "1"}))
    answer = await rest(server).call("POST", "deployments", body={"name": "a"})
    assert answer.status == 201
    keys = [request.headers["Idempotency-Key"] for request in server.requests]
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert {request.content for request in server.requests} == {b'{"name":"a"}'}


async def test_two_posts_have_two_keys() -> None:
    """Each POST is a new act: its key is its own."""
    server = Server(httpx.Response(204), httpx.Response(204))
    client = rest(server)
    await client.call("POST", "x")
    await client.call("POST", "x")
    assert server.requests[0].headers["Idempotency-Key"] != server.requests[1].headers["Idempotency-Key"]


async def test_only_posts_carry_a_key() -> None:
    """GET and PUT are idempotent by themselves; log reports are by their numbers."""
    server = Server(httpx.Response(204), httpx.Response(204), httpx.Response(204))
    client = rest(server)
    await client.call("GET", "x")
    await client.call("PUT", "x")
    await client.call("POST", "x", is_keyed=False)
    assert all("Idempotency-Key" not in request.headers for request in server.requests)


async def test_retries_are_bounded() -> None:
    """A server that never answers is tried `attempts` times, with growing waits, then told as unreachable."""
    server, sleeps = Server(*[httpx.ConnectError("All connection attempts failed")] * 3), Sleeps()
    with pytest.raises(ServerUnreachable, match="connection refused"):
        await rest(server, sleeps, RetryPolicy(attempts=3)).call("GET", "x")
    assert len(server.requests) == 3
    assert len(sleeps) == 2
    assert 0.1 <= sleeps[0] <= 0.2 <= sleeps[1] <= 0.4


async def test_retry_after_is_obeyed() -> None:
    """A 429 or 503 with Retry-After is tried again after that time."""
    busy = httpx.Response(503, json={"code": "storage_unavailable", "message": "m"}, headers={"Retry-After": "3"})
    server, sleeps = Server(busy, httpx.Response(200, json=1)), Sleeps()
    assert (await rest(server, sleeps).call("GET", "x")).body == 1
    assert sleeps == [3.0]


async def test_a_long_retry_after_is_not_waited_for() -> None:
    """Waiting is bounded: what asks for more time than there is becomes the error it is."""
    busy = httpx.Response(429, json={"code": "rate_limited", "message": "m"}, headers={"Retry-After": "300"})
    with pytest.raises(ApiError) as raised:
        await rest(Server(busy)).call("GET", "x")
    assert raised.value.retry_after_seconds == 300


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 500])
async def test_a_refusal_is_not_repeated(status: int) -> None:
    """Only silence and a busy server are tried again."""
    server = Server(error(status, "some_code"))
    with pytest.raises(ApiError):
        await rest(server).call("POST", "x")
    assert len(server.requests) == 1


def test_retry_after_takes_seconds_and_dates() -> None:
    """Retry-After comes as seconds or as a date; nonsense is as if it were not there."""
    assert retry_after_seconds("2") == 2
    assert retry_after_seconds("-5") == 0
    assert retry_after_seconds("Thu, 01 Jan 1970 00:01:40 GMT", lambda: 90.0) == 10
    for nonsense in (None, "", "soon", "nan", "inf"):
        assert retry_after_seconds(nonsense) is None


def client_of(server: Server, folder: Path, token: str | None = None) -> WindFlowClient:
    return WindFlowClient(SERVER, token=token, store=CredentialStore(folder), transport=httpx.MockTransport(server))


def answered(token: str, refresh: str) -> httpx.Response:
    body = {"access_token": token, "token_type": "bearer", "expires_in": 900, "refresh_token": refresh}
    return httpx.Response(200, json=body)


async def test_login_is_the_oauth2_form(tmp_path: Path) -> None:
    """Login is the OAuth2 password form; what it answers is kept and used."""
    server = Server(answered("t1", "r1"), httpx.Response(200, json={"username": "anna"}))
    async with client_of(server, tmp_path) as client:
        await client.login("anna", "pass word&")
        await client.get("auth/me")
    form, me = server.requests
    assert form.url.path == "/api/v1/auth/login"
    assert form.content == b"username=anna&password=pass+word%26"
    assert me.headers["Authorization"] == "Bearer t1"
    kept = CredentialStore(tmp_path).read(SERVER)
    assert kept is not None
    assert (kept.username, kept.refresh_token) == ("anna", "r1")


async def test_an_expired_token_is_renewed_and_the_request_repeated(tmp_path: Path) -> None:
    """On 401 token_expired the client refreshes and repeats the request once."""
    CredentialStore(tmp_path).write(SERVER, Credentials("t1", "anna", "r1", None, None))
    server = Server(error(401, "token_expired"), answered("t2", "r2"), httpx.Response(200, json={"ok": True}))
    async with client_of(server, tmp_path) as client:
        assert await client.get("auth/me") == {"ok": True}
    assert json.loads(server.requests[1].content) == {"refreshToken": "r1"}
    assert server.requests[2].headers["Authorization"] == "Bearer t2"


async def test_a_token_that_stays_refused_ends_in_an_error(tmp_path: Path) -> None:
    """A renewed token that is refused as well is not renewed for ever."""
    CredentialStore(tmp_path).write(SERVER, Credentials("t1", "anna", "r1", None, None))
    server = Server(error(401, "token_expired"), answered("t2", "r2"), error(401, "token_expired"))
    async with client_of(server, tmp_path) as client:
        with pytest.raises(ApiError) as raised:
            await client.get("auth/me")
    assert raised.value.is_access


async def test_a_wrong_password_is_not_an_expired_token(tmp_path: Path) -> None:
    """401 invalid_credentials is about what was typed, not about the token."""
    server = Server(error(401, "invalid_credentials"))
    async with client_of(server, tmp_path, token="wf_1") as client:
        with pytest.raises(ApiError, match="invalid_credentials"):
            await client.request("PUT", "auth/password", body={})
    assert len(server.requests) == 1


async def test_without_login_and_without_server_the_server_is_missed(tmp_path: Path) -> None:
    """No reachable server: say so, whoever is logged in."""
    async with client_of(Server(httpx.ConnectError("All connection attempts failed")), tmp_path) as client:
        with pytest.raises(ServerUnreachable):
            await client.get("auth/me")
    async with client_of(Server(httpx.Response(200, text="ok")), tmp_path) as client:
        with pytest.raises(NotLoggedIn):
            await client.get("auth/me")


async def test_lists_are_read_page_by_page(tmp_path: Path) -> None:
    """Lists are {items, nextCursor, positions}: the client follows the cursor up to the limit."""
    pages = Server(
        httpx.Response(200, json={"items": [{"id": "1"}, {"id": "2"}], "nextCursor": "c"}),
        httpx.Response(200, json={"items": [{"id": "3"}, {"id": "4"}], "nextCursor": "d"}),
    )
    async with client_of(pages, tmp_path, token="wf_1") as client:
        found = [item["id"] async for item in client.items("users", {"q": None}, limit=3)]
    assert found == ["1", "2", "3"]
    assert "cursor=c" in str(pages.requests[1].url)
    assert "q=" not in str(pages.requests[0].url)


async def test_logging_out_forgets_even_without_a_server(tmp_path: Path) -> None:
    """Logout forgets the credentials of this machine also when the server cannot be told."""
    store = CredentialStore(tmp_path)
    store.write(SERVER, Credentials("t1", "anna", "r1", None, None))
    async with client_of(Server(*[httpx.ConnectError("x")] * 2), tmp_path) as client:
        with pytest.raises(ServerUnreachable):
            await client.logout()
    assert store.read(SERVER) is None
