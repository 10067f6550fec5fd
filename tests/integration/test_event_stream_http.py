"""`GET /events`: followed with `curl -N`, cut, resumed with `Last-Event-ID`; and everything that ends a stream."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.integration.event_stream import EventClient, Item, follow
from tests.integration.metrics_page import metric
from tests.integration.people import People, make_people
from tests.integration.server_process import PASSWORD, ServerProcess, server_process
from tests.proving import amount
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

MOST_OF_USER = 6


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(
    tmp_path_factory: pytest.TempPathFactory, module_database: dict[str, str]
) -> AsyncIterator[ServerProcess]:
    settings = {
        **module_database,
        "MAX_CONNECTIONS_PER_USER": str(MOST_OF_USER),
        "HEARTBEAT_SECONDS": "0.3",
        "POSITIONS_SECONDS": "3",
        "EVENT_STREAM_RETRY_SECONDS": "1.5",
        "ALLOWED_ORIGINS": "https://console.example",
    }
    async with server_process(tmp_path_factory.mktemp("events"), settings) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def people(server: ServerProcess) -> People:
    return await make_people(server)


async def create(server: ServerProcess, token: str, name: str = "web") -> str:
    async with server.client(token) as client:
        answer = await client.post("/deployments", json={"name": name})
        assert answer.status_code == 201, answer.text
        deployment_id: str = answer.json()["id"]
        return deployment_id


async def lines(server: ServerProcess, token: str, deployment_id: str, first: int, count: int) -> None:
    body = {"firstLine": first, "lines": [{"text": f"line {number}"} for number in range(first, first + count)]}
    async with server.client(token) as client:
        answer = await client.post(f"/deployments/{deployment_id}/logs", json=body)
        assert answer.status_code == 200, answer.text


def of(items: list[Item], kind: str) -> list[Item]:
    return [item for item in items if item.event == kind]


def of_deployment(deployment_id: str) -> Callable[[Item], bool]:
    return lambda item: item.payload.get("deploymentId") == deployment_id


def line_numbers(items: list[Item]) -> list[int]:
    """The numbers of all lines that came."""
    found: list[int] = []
    for item in of(items, "DEPLOYMENT_LOGS_UPDATE"):
        first = item.payload["firstLine"]
        found += range(first, first + len(item.payload["logs"]))
    return found


# ---- following ---------------------------------------------------------------------------------------


async def test_the_stream_carries_the_messages_of_the_socket(server: ServerProcess, people: People) -> None:
    """`id` (the positions), `event` (the type), `data` (the same JSON message as on the socket), `retry`."""
    stream = f"org:{people.organizations['first']}"
    async with follow(server.url, people.tokens["vic"], types="DEPLOYMENT_*") as client:
        welcome = await client.until("AUTH_LOGIN_SUCCESS")
        assert client.seen == [welcome]
        assert client.retry == 1500
        assert welcome.payload["userId"] == people.ids["vic"]
        assert welcome.place == welcome.payload["positions"]
        deployment_id = await create(server, people.tokens["olga"])
        event = await client.until("DEPLOYMENT_CREATED")
        assert event.payload["deploymentId"] == deployment_id
        assert event.data["stream"] == stream
        assert event.place[stream] == {**welcome.place[stream], "offset": event.data["offset"]}
        assert await metric(server.url, "windflow_connections") == 1


async def test_headers_keep_proxies_and_caches_away(server: ServerProcess, people: People) -> None:
    """text/event-stream, no-store, X-Accel-Buffering: no."""
    headers = {"Authorization": f"Bearer {people.tokens['vic']}"}
    async with (
        httpx.AsyncClient() as client,
        client.stream("GET", f"{server.url}/api/v1/events", headers=headers) as answer,
    ):
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-accel-buffering"] == "no"


async def test_a_quiet_stream_has_heartbeats(server: ServerProcess, people: People) -> None:
    """Comment heartbeats every `heartbeat_seconds`."""
    async with follow(server.url, people.tokens["vic"], types="CUSTOM_EVENT") as client:
        await client.until("AUTH_LOGIN_SUCCESS")
        for _ in range(2):
            await create(server, people.tokens["olga"])
        position = await client.until("positions")
        assert position.place == {**position.payload["positions"]}
        reading = asyncio.create_task(read_all(client))

        async def has_two() -> bool:
            return client.comments >= 2

        await eventually(has_two)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def test_only_what_is_wanted_comes_and_nothing_foreign(server: ServerProcess, people: People) -> None:
    """`types` is a comma list of names and patterns; another organization's events never come."""
    async with follow(server.url, people.tokens["olga"], types="DEPLOYMENT_CREATED, CUSTOM_*") as client:
        await client.until("AUTH_LOGIN_SUCCESS")
        await create(server, people.tokens["bob"])
        mine = await create(server, people.tokens["olga"])
        async with server.client(people.tokens["ada"]) as rest:
            assert (await rest.put(f"/deployments/{mine}/status", json={"status": "running"})).status_code == 200
            assert (await rest.post("/events", json={"type": "CUSTOM_EVENT", "data": {"n": 1}})).status_code == 202
        await client.until("CUSTOM_EVENT")
        events = [item for item in client.seen if item.event.isupper() and item.event != "AUTH_LOGIN_SUCCESS"]
        assert [item.event for item in events] == ["DEPLOYMENT_CREATED", "CUSTOM_EVENT"]
        assert events[0].payload["deploymentId"] == mine


# ---- resuming ----------------------------------------------------------------------------------------


async def test_a_cut_stream_goes_on_where_it_was(server: ServerProcess, people: People) -> None:
    """`curl -N` follows, is cut, and resumes with `Last-Event-ID` without loss: in order, once."""
    async with follow(server.url, people.tokens["vic"], types="DEPLOYMENT_CREATED") as client:
        await client.until("AUTH_LOGIN_SUCCESS")
        made = [await create(server, people.tokens["olga"]) for _ in range(3)]
        await client.until(lambda item: item.payload.get("deploymentId") == made[-1])
        got, last_id = of(client.seen, "DEPLOYMENT_CREATED"), client.last_id
    for _ in range(3):
        made += [await create(server, people.tokens["olga"]) for _ in range(5)]
        async with follow(server.url, people.tokens["vic"], last_id=last_id, types="DEPLOYMENT_CREATED") as client:
            made.append(await create(server, people.tokens["olga"]))
            await client.until(of_deployment(made[-1]))
            got, last_id = got + of(client.seen, "DEPLOYMENT_CREATED"), client.last_id
    assert [item.payload["deploymentId"] for item in got] == made


async def test_a_log_goes_on_at_the_exact_line(server: ServerProcess, people: People) -> None:
    """The next line stands in the id: also of a stream that is cut before any line came."""
    token = people.tokens["olga"]
    deployment_id = await create(server, token)
    await lines(server, token, deployment_id, 1, 10)
    async with follow(server.url, token, deploymentId=deployment_id) as client:
        welcome = await client.until("AUTH_LOGIN_SUCCESS")
        assert welcome.place[f"log:{deployment_id}"] == {"line": 11}
    await lines(server, token, deployment_id, 11, 5)
    async with follow(server.url, token, last_id=welcome.id, deploymentId=deployment_id) as client:
        await client.until(lambda item: 15 in line_numbers([item]))
        await lines(server, token, deployment_id, 16, 5)
        await client.until(lambda item: 20 in line_numbers([item]))
        assert line_numbers(client.seen) == list(range(11, 21))
        last_id = client.last_id
    await lines(server, token, deployment_id, 21, 3)
    # As a browser's EventSource does: the same address again, and the id.
    async with follow(server.url, token, last_id=last_id, deploymentId=deployment_id, fromLine=1) as client:
        await client.until(lambda item: 23 in line_numbers([item]))
        assert line_numbers(client.seen) == [21, 22, 23]
    async with follow(server.url, token, deploymentId=deployment_id, fromLine=-4) as client:
        await client.until(lambda item: 23 in line_numbers([item]))
        assert line_numbers(client.seen) == [20, 21, 22, 23]


async def test_a_position_that_is_lost_is_told(server: ServerProcess, people: People) -> None:
    """A lost position is told by an event `position_lost`, whose id is the new start."""
    stream = f"org:{people.organizations['first']}"
    async with follow(server.url, people.tokens["vic"], types="DEPLOYMENT_CREATED") as client:
        place = (await client.until("AUTH_LOGIN_SUCCESS")).place
    gone = {**place, stream: {**place[stream], "epoch": "another"}, "org:foreign": {"epoch": "x", "offset": 1}}
    async with follow(server.url, people.tokens["vic"], last_id=encoded(gone), types="DEPLOYMENT_CREATED") as client:
        lost = [await client.until("position_lost") for _ in range(2)]
        assert {(item.payload["stream"], item.payload["reason"]) for item in lost} == {
            (stream, "epoch"),
            ("org:foreign", "unknown"),
        }
        assert set(lost[-1].place) == {stream, "system"}
        assert lost[-1].place[stream]["epoch"] == place[stream]["epoch"]


def encoded(place: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


# ---- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "status", "code", "field"),
    [
        ({"types": "NOPE"}, 400, "unknown_type", "types"),
        ({"types": ",".join(["CUSTOM_EVENT"] * 200)}, 400, "invalid_message", "types"),
        ({"deploymentId": "none"}, 404, "not_found", None),
        ({"deploymentId": "x" * 100}, 422, "invalid_payload", "deploymentId"),
        ({"organizationId": "other"}, 403, "forbidden", None),
        ({"fromLine": "1"}, 400, "invalid_message", "fromLine"),
        ({"token": "x"}, 400, "invalid_message", None),
        ({"ticket": "wft_x"}, 401, "not_authenticated", None),
    ],
)
async def test_what_cannot_be_followed_is_refused(
    server: ServerProcess, people: People, query: dict[str, str], status: int, code: str, field: str | None
) -> None:
    """401, 403, 404 and what is wrong with the address, in the one shape of errors, in the address' names."""
    async with server.client(people.tokens["vic"]) as client:
        if "ticket" in query:
            del client.headers["authorization"]
        answer = await client.get("/events", params=query)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    if field is not None:
        assert answer.json()["details"][0]["field"] == field, answer.text
    assert "event_type" not in answer.text
    assert await metric(server.url, "windflow_connections") == 0


@pytest.mark.parametrize(
    "header",
    ["x", "!!!", encoded([]), encoded({"org:x": 1}), encoded({"org:x": {"epoch": "e", "offset": -1}}),
     encoded({"log:d": {"line": 0}}), encoded({"log:d": {"line": 1}}), encoded({"org:x": {"epoch": "e"}})],
)  # fmt: skip
async def test_a_malformed_last_event_id_is_named(server: ServerProcess, people: People, header: str) -> None:
    """A malformed Last-Event-ID gets a clear 422 naming the header."""
    async with server.client(people.tokens["vic"]) as client:
        answer = await client.get("/events", headers={"Last-Event-ID": header})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_payload"), answer.text
    assert answer.json()["details"][0]["field"].startswith("Last-Event-ID")


async def test_streams_and_sockets_share_the_caps(server: ServerProcess, people: People) -> None:
    """Counted in the same caps; the place is free again when the stream ends."""
    async with AsyncExitStack() as stack:
        for _ in range(MOST_OF_USER):
            client = await stack.enter_async_context(follow(server.url, people.tokens["ada"]))
            await client.until("AUTH_LOGIN_SUCCESS")
        async with server.client(people.tokens["ada"]) as rest:
            answer = await rest.get("/events")
            assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
            assert int(answer.headers["retry-after"]) >= 1
    await wait_until_none(server)
    async with follow(server.url, people.tokens["ada"]) as client:
        await client.until("AUTH_LOGIN_SUCCESS")


async def wait_until_none(server: ServerProcess) -> None:
    """Wait until the server has no stream any more, and nothing of one is left."""
    names = ("windflow_connections", "windflow_subscriptions")

    async def is_none() -> bool:
        return not any([await metric(server.url, name) for name in names])

    await eventually(is_none)


# ---- tickets -----------------------------------------------------------------------------------------


async def test_a_ticket_opens_one_stream(server: ServerProcess, people: People) -> None:
    """Bearer header or one-time ticket; from the origin that asked for it, which a browser leaves out at home."""
    own = server.url

    async def ticket(origin: str | None) -> str:
        async with server.client(people.tokens["vic"]) as rest:
            made = await rest.post("/ws/ticket", headers={"Origin": origin} if origin else {})
            text: str = made.json()["ticket"]
            return text

    async def status(text: str, **headers: str) -> int:
        async with (
            httpx.AsyncClient() as client,
            client.stream("GET", f"{own}/api/v1/events", params={"ticket": text}, headers=headers) as answer,
        ):
            return answer.status_code

    program = await ticket(None)
    async with follow(own, ticket=program) as client:
        assert (await client.until("AUTH_LOGIN_SUCCESS")).payload["userId"] == people.ids["vic"]
    assert await status(program) == 401
    page = await ticket(own)
    assert await status(page) == 401
    assert await status(page, **{"Sec-Fetch-Site": "cross-site"}) == 401
    assert await status(page, Origin="https://console.example") == 401
    assert await status(page, Origin="https://foreign.example") == 403
    assert await status(page, **{"Sec-Fetch-Site": "same-origin"}) == 200
    assert await status(page, **{"Sec-Fetch-Site": "same-origin"}) == 401
    other = await ticket("https://console.example")
    assert await status(other, **{"Sec-Fetch-Site": "same-origin"}) == 401
    assert await status(other, Origin="https://console.example") == 200
    log = server.log.read_text(encoding="utf-8")
    assert not any(text in log for text in (program, page, other))


# ---- the end -----------------------------------------------------------------------------------------


async def test_a_stream_ends_with_its_session(server: ServerProcess, people: People) -> None:
    """Closed when the session ends: the event of it, then `closed` with the code that a socket gets."""
    token = await server.login("vic")
    async with follow(server.url, token) as client:
        await client.until("AUTH_LOGIN_SUCCESS")
        async with server.client(token) as rest:
            assert (await rest.post("/auth/logout")).status_code == 204
        seen = await client.end()
        assert [item.event for item in seen[-2:]] == ["AUTH_LOGOUT", "closed"]
        assert seen[-1].payload["code"] == 4503
    await wait_until_none(server)


async def test_changed_rights_hold_at_once(server: ServerProcess, people: People) -> None:
    """Rights are revoked while the stream is open: a user who moved gets nothing of the old organization."""
    async with server.client(people.tokens["admin"]) as rest:
        body = {"username": "mover", "role": "operator", "password": PASSWORD}
        user_id = (await rest.post("/users", json=body)).json()["id"]
        token = await server.login("mover")
        async with follow(server.url, token) as client:
            await client.until("AUTH_LOGIN_SUCCESS")
            moved = {"organizationId": people.organizations["second"]}
            assert (await rest.patch(f"/users/{user_id}", json=moved)).status_code == 200
            await client.until("subscription_removed")
            foreign = await create(server, people.tokens["olga"])
            assert (await rest.patch(f"/users/{user_id}", json={"isActive": False})).status_code == 200
            seen = await client.end()
            assert seen[-1].payload["code"] == 4503
            assert foreign not in json.dumps([item.data for item in seen])


async def test_a_stream_ends_with_its_token_and_with_its_server(tmp_path: Path, own_database: dict[str, str]) -> None:
    """4009 when the token ran out; at a drain `server_restarting` with a `retry:` hint, then 1012."""
    settings = {**own_database, "ACCESS_TOKEN_SECONDS": "2", "REAUTH_NOTICE_SECONDS": "1"}
    async with server_process(tmp_path, settings) as server:
        async with follow(server.url, await server.login()) as client:
            seen = await client.end()
            names = [item.event for item in seen]
            assert names[-3:] == ["SESSION_AUTH_REQUIRED", "SESSION_EXPIRED", "closed"]
            assert seen[-1].payload["code"] == 4009
        async with follow(server.url, await server.login()) as client:
            await client.until("AUTH_LOGIN_SUCCESS")
            assert await server.stop() == 0
            seen = await client.end()
            told, closed = seen[-2:]
            assert (told.event, told.payload["code"]) == ("WEBSOCKET_ERROR", "server_restarting")
            assert told.retry == told.payload["details"]["retryAfterMs"] >= 1000
            assert (closed.event, closed.payload["code"]) == ("closed", 1012)
        assert [record for record in server.logged() if record["level"] == "ERROR"] == []


# ---- under load, killed ------------------------------------------------------------------------------

KILLS = amount(2, 10)
EVENTS_BEFORE_A_KILL = amount(40, 300)


class Load:
    """Publishes notifications and lines until the server dies, and remembers what was acknowledged."""

    def __init__(self) -> None:
        self.acknowledged: list[str] = []
        self.tried = 0
        self.written = 0

    async def run(self, server: ServerProcess, token: str, deployment_id: str) -> None:
        """Go on where the last server ended; lines that got no answer are sent again."""
        async with server.client(token) as rest:
            while True:
                self.tried += 1
                sent = rest.post("/notifications", json={"title": "load", "message": f"{self.tried}"})
                numbers = range(self.written + 1, self.written + 4)
                body = {"firstLine": numbers[0], "lines": [{"text": f"line {number}"} for number in numbers]}
                try:
                    answer = await sent
                    assert answer.status_code == 201, answer.text
                    self.acknowledged.append(f"{self.tried}")
                    answer = await rest.post(f"/deployments/{deployment_id}/logs", json=body)
                except httpx.TransportError:
                    return
                assert answer.status_code == 200, answer.text
                self.written = numbers[-1]


async def read_all(client: EventClient) -> None:
    while await client.next() is not None:
        pass


async def test_nothing_is_lost_or_doubled_when_the_server_is_killed(
    tmp_path: Path, own_database: dict[str, str]
) -> None:
    """Followed under load, the server killed in between: every acknowledged event once, in order, and every line."""
    load, got = Load(), [list[Item](), list[Item]()]
    last_ids: list[str | None] = [None, None]
    deployment_id = ""
    for number in range(KILLS + 1):
        async with server_process(tmp_path, own_database) as server:
            token = await server.login()
            deployment_id = deployment_id or await create(server, token)
            async with (
                follow(server.url, token, last_id=last_ids[0], types="NOTIFICATION_SENT") as events,
                follow(server.url, token, last_id=last_ids[1], deploymentId=deployment_id) as log,
            ):
                for client in (events, log):
                    await client.until("AUTH_LOGIN_SUCCESS")
                reading = [asyncio.create_task(read_all(client)) for client in (events, log)]
                loading = asyncio.create_task(load.run(server, token, deployment_id))
                wanted = len(load.acknowledged) + EVENTS_BEFORE_A_KILL
                await eventually(has_acknowledged(load, wanted))
                if number == KILLS:
                    loading.cancel()
                    await asyncio.gather(loading, return_exceptions=True)
                    await eventually(has_last(events, log, load))
                server.process.kill()
                await asyncio.gather(loading, *reading, return_exceptions=True)
                for index, client in enumerate((events, log)):
                    got[index] += client.seen
                    last_ids[index] = client.last_id
    messages = [item.payload["message"] for item in of(got[0], "NOTIFICATION_SENT")]
    assert len(messages) == len(set(messages))
    assert [message for message in messages if message in set(load.acknowledged)] == load.acknowledged
    assert messages == sorted(messages, key=int)
    assert not of(got[0] + got[1], "position_lost")
    numbers = line_numbers(got[1])
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= load.written


def has_acknowledged(load: Load, count: int) -> Callable[[], Awaitable[bool]]:
    async def has() -> bool:
        return len(load.acknowledged) >= count

    return has


def has_last(events: EventClient, log: EventClient, load: Load) -> Callable[[], Awaitable[bool]]:
    async def has() -> bool:
        messages = {item.payload["message"] for item in of(events.seen, "NOTIFICATION_SENT")}
        return load.acknowledged[-1] in messages and load.written in line_numbers(log.seen)

    return has
