"""A client that comes back goes on where it was: positions, followed logs, latest values; and what is lost is told."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.integration.people import People, make_people
from tests.integration.server_process import ServerProcess, server_process
from tests.integration.sockets import Message, Socket, open_socket

pytestmark = pytest.mark.asyncio(loop_scope="module")

CREATED = {"event_type": "DEPLOYMENT_CREATED"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(
    tmp_path_factory: pytest.TempPathFactory, module_database: dict[str, str]
) -> AsyncIterator[ServerProcess]:
    settings = {**module_database, "POSITIONS_SECONDS": "3"}
    async with server_process(tmp_path_factory.mktemp("resume"), settings) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def people(server: ServerProcess) -> People:
    return await make_people(server)


class Runner:
    """Makes deployments and reports on them as olga."""

    def __init__(self, server: ServerProcess, token: str) -> None:
        self._client = server.client(token)

    async def __aenter__(self) -> "Runner":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def create(self, name: str = "web") -> str:
        answer = await self._client.post("/deployments", json={"name": name})
        assert answer.status_code == 201, answer.text
        deployment_id: str = answer.json()["id"]
        return deployment_id

    async def status(self, deployment_id: str, status: str) -> None:
        answer = await self._client.put(f"/deployments/{deployment_id}/status", json={"status": status})
        assert answer.status_code == 200, answer.text

    async def lines(self, deployment_id: str, first: int, count: int) -> None:
        lines = [{"text": f"line {number}", "stream": "out"} for number in range(first, first + count)]
        body = {"firstLine": first, "lines": lines}
        answer = await self._client.post(f"/deployments/{deployment_id}/logs", json=body)
        assert answer.status_code == 200, answer.text

    async def progress(self, deployment_id: str, percent: float) -> None:
        answer = await self._client.put(f"/deployments/{deployment_id}/progress", json={"progress": percent})
        assert answer.status_code == 200, answer.text


@pytest_asyncio.fixture(loop_scope="module")
async def runner(server: ServerProcess, people: People) -> AsyncIterator[Runner]:
    async with Runner(server, people.tokens["olga"]) as made:
        yield made


def welcome(socket: Socket) -> dict[str, Any]:
    """The data of the reply to `auth`."""
    data: dict[str, Any] = socket.seen[0]["data"]
    return data


def stream_events(messages: list[Message], stream: str) -> list[tuple[int, str]]:
    """Offset and deployment of each event of a stream, in order."""
    return [(each["offset"], each["data"]["deploymentId"]) for each in messages if each.get("stream") == stream]


async def until_caught_up(socket: Socket, stream: str) -> Message:
    """Read until a source is caught up on."""
    return await socket.until(lambda message: message["type"] == "caught_up" and message["data"]["stream"] == stream)


async def test_what_was_missed_comes_in_order_once_and_then_what_is_new(
    server: ServerProcess, people: People, runner: Runner
) -> None:
    """Replayed from the client's position, in order, once."""
    stream = f"org:{people.organizations['first']}"
    async with open_socket(server.socket_url, people.tokens["vic"], subscriptions=[CREATED]) as socket:
        seen = [await runner.create()]
        event = await socket.until("DEPLOYMENT_CREATED")
        position = {stream: {**welcome(socket)["positions"][stream], "offset": event["offset"]}}
    seen += [await runner.create() for _ in range(25)]
    async with open_socket(
        server.socket_url, people.tokens["vic"], subscriptions=[CREATED], positions=position
    ) as socket:
        assert welcome(socket)["positions"][stream] == position[stream]
        behind = await socket.until("catching_up")
        assert behind["data"]["stream"] == stream
        assert behind["data"]["behind"] >= 25
        caught_up = await until_caught_up(socket, stream)
        seen.append(await runner.create())
        await socket.until(lambda message: message.get("data", {}).get("deploymentId") == seen[-1])
        got = stream_events(socket.seen, stream)
        assert [deployment_id for _, deployment_id in got] == seen[1:]
        assert [offset for offset, _ in got] == sorted({offset for offset, _ in got})
        assert caught_up["data"]["positions"][stream]["offset"] >= got[-2][0]


async def test_a_client_that_missed_nothing_is_live_at_once(server: ServerProcess, people: People) -> None:
    """Nothing to catch up on: no notice of it."""
    async with open_socket(server.socket_url, people.tokens["vic"], subscriptions=[CREATED]) as socket:
        positions = welcome(socket)["positions"]
    async with open_socket(
        server.socket_url, people.tokens["vic"], subscriptions=[CREATED], positions=positions
    ) as socket:
        await socket.ask("ping")
        assert [message["type"] for message in socket.seen] == ["AUTH_LOGIN_SUCCESS", "pong"]
        assert socket.seen[-1]["data"]["positions"] == positions


async def test_only_the_subscriptions_of_the_auth_message_are_replayed(
    server: ServerProcess, people: People, runner: Runner
) -> None:
    """A later `subscribe` starts at the head."""
    stream = f"org:{people.organizations['first']}"
    async with open_socket(server.socket_url, people.tokens["vic"], subscriptions=[CREATED]) as socket:
        positions = welcome(socket)["positions"]
    deployment_id = await runner.create()
    await runner.status(deployment_id, "running")
    async with open_socket(
        server.socket_url, people.tokens["vic"], subscriptions=[CREATED], positions=positions
    ) as socket:
        reply = await socket.ask("subscribe", {"event_type": "DEPLOYMENT_STATUS_CHANGED"})
        assert reply["data"]["positions"][stream]["offset"] >= positions[stream]["offset"] + 2
        await until_caught_up(socket, stream)
        await runner.status(deployment_id, "success")
        changed = await socket.until("DEPLOYMENT_STATUS_CHANGED")
        assert changed["data"]["newStatus"] == "success"
        assert len(stream_events(socket.seen, stream)) == 2


async def test_what_is_addressed_to_a_user_is_replayed_without_subscription(
    server: ServerProcess, people: People
) -> None:
    """User-addressed events are replayed too, to that user alone."""
    positions = {}
    for name in ("vic", "olga"):
        async with open_socket(server.socket_url, people.tokens[name]) as socket:
            positions[name] = welcome(socket)["positions"]
    async with server.client(people.tokens["olga"]) as client:
        body = {"title": "hello", "message": "you", "userId": people.ids["vic"]}
        answer = await client.post("/notifications", json=body)
        assert answer.status_code == 201, answer.text
    async with open_socket(server.socket_url, people.tokens["vic"], positions=positions["vic"]) as socket:
        event = await socket.until("NOTIFICATION_SENT")
        assert event["data"]["title"] == "hello"
    async with open_socket(server.socket_url, people.tokens["olga"], positions=positions["olga"]) as socket:
        await until_caught_up(socket, f"org:{people.organizations['first']}")
        assert "NOTIFICATION_SENT" not in [message["type"] for message in socket.seen]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"offset": 10**9}, "future"),
        ({"epoch": "another"}, "epoch"),
    ],
)
async def test_f55_a_position_that_cannot_be_continued_from_is_lost(
    server: ServerProcess, people: People, change: dict[str, Any], reason: str
) -> None:
    """F55: `position_lost` with the reason; it goes on from the head."""
    stream = f"org:{people.organizations['first']}"
    async with open_socket(server.socket_url, people.tokens["vic"]) as socket:
        head = welcome(socket)["positions"][stream]
    wrong = {stream: {**head, **change}}
    async with open_socket(server.socket_url, people.tokens["vic"], subscriptions=[CREATED], positions=wrong) as socket:
        lost = await socket.until("position_lost")
        assert lost["data"]["stream"] == stream
        assert lost["data"]["reason"] == reason
        assert lost["data"]["lost"] == wrong[stream]
        assert lost["data"]["positions"][stream] == head
        assert welcome(socket)["positions"][stream] == head


async def test_f31_a_position_of_another_organization_is_lost_and_shows_nothing(
    server: ServerProcess, people: People
) -> None:
    """F31: `position_lost`, nothing foreign."""
    foreign = f"org:{people.organizations['second']}"
    async with open_socket(server.socket_url, people.tokens["bob"]) as socket:
        position = welcome(socket)["positions"][foreign]
    async with open_socket(server.socket_url, people.tokens["vic"], positions={foreign: position}) as socket:
        lost = await socket.until("position_lost")
        assert lost["data"]["reason"] == "unknown"
        assert foreign not in lost["data"]["positions"]
        assert foreign not in welcome(socket)["positions"]
        assert [message["type"] for message in socket.seen] == ["AUTH_LOGIN_SUCCESS", "position_lost"]


@pytest.mark.parametrize(
    ("positions", "field"),
    [
        ({"org:x": {"epoch": "e", "offset": -1}}, "positions.org:x.offset"),
        ({"org:x": {"epoch": "e", "offset": "1"}}, "positions.org:x.offset"),
        ({"org:x": 5}, "positions.org:x"),
        ([1], "positions"),
        ({f"org:{number}": {"epoch": "e", "offset": 1} for number in range(300)}, "positions"),
    ],
)
async def test_positions_that_are_malformed_are_refused_by_field_and_cost_nothing(
    server: ServerProcess, people: People, positions: Any, field: str
) -> None:
    """Bad input gets a clear message naming field and rule, and loses nothing."""
    async with open_socket(
        server.socket_url, people.tokens["vic"], subscriptions=[CREATED], positions=positions
    ) as socket:
        error = await socket.until("WEBSOCKET_ERROR")
        assert error["data"]["code"] == "invalid_message"
        assert field in [item["field"] for item in error["data"]["details"]]
        assert (await socket.ask("ping"))["type"] == "pong"


# ---- logs ------------------------------------------------------------------------------------------------


def lines_of(messages: list[Message], deployment_id: str) -> list[int]:
    """The numbers of the lines that came, in order; each text is checked."""
    numbers = []
    for message in messages:
        if message["type"] == "DEPLOYMENT_LOGS_UPDATE" and message["data"]["deploymentId"] == deployment_id:
            for number, text in enumerate(message["data"]["logs"], message["data"]["firstLine"]):
                assert text == f"line {number}"
                numbers.append(number)
    return numbers


async def read_lines(socket: Socket, deployment_id: str, last: int) -> list[int]:
    """Read until a line came, and return all numbers so far."""
    await socket.until(
        lambda message: (
            message["type"] == "DEPLOYMENT_LOGS_UPDATE"
            and message["data"]["firstLine"] + len(message["data"]["logs"]) > last
        )
    )
    return lines_of(socket.seen, deployment_id)


@pytest.mark.parametrize(("from_line", "first"), [(1, 1), (0, 1), (-5, 46), (-500, 1), (31, 31), (51, 51)], ids=str)
async def test_a_log_is_followed_from_a_line(
    server: ServerProcess, people: People, runner: Runner, from_line: int, first: int
) -> None:
    """`from_line`: 1 or 0 all, -n the tail, else the exact line; then what comes, without gap or double."""
    deployment_id = await runner.create()
    await runner.lines(deployment_id, 1, 50)
    async with open_socket(server.socket_url, people.tokens["vic"]) as socket:
        reply = await socket.ask("deployment_logs", {"deployment_id": deployment_id, "from_line": from_line})
        assert (reply["type"], reply["data"]["from_line"]) == ("logs_subscribed", first)
        await runner.lines(deployment_id, 51, 3)
        assert await read_lines(socket, deployment_id, 53) == list(range(first, 54))
        await runner.lines(deployment_id, 54, 1)
        assert await read_lines(socket, deployment_id, 54) == list(range(first, 55))


async def test_a_log_goes_on_while_it_grows(server: ServerProcess, people: People, runner: Runner) -> None:
    """It turns live only on equality: tail −n skips no line that is appended meanwhile."""
    deployment_id = await runner.create()
    await runner.lines(deployment_id, 1, 1000)

    async def grow() -> None:
        for first in range(1001, 3001, 20):
            await runner.lines(deployment_id, first, 20)

    growing = asyncio.create_task(grow())
    wanted = {"event_type": "DEPLOYMENT_LOGS_UPDATE", "deployment_id": deployment_id, "from_line": 73}
    async with open_socket(server.socket_url, people.tokens["vic"], subscriptions=[wanted]) as socket:
        assert await read_lines(socket, deployment_id, 3000) == list(range(73, 3001))
    await growing


async def test_a_line_that_is_not_there_yet_is_told(server: ServerProcess, people: People, runner: Runner) -> None:
    """A client that has more lines than there are has those of another log: it is told, and goes on from the end."""
    deployment_id = await runner.create()
    await runner.lines(deployment_id, 1, 5)
    async with open_socket(server.socket_url, people.tokens["vic"]) as socket:
        await socket.ask("deployment_logs", {"deployment_id": deployment_id, "from_line": 500})
        lost = await socket.until("position_lost")
        source = f"log:{deployment_id}"
        assert lost["data"] == {
            "stream": source,
            "reason": "future",
            "lost": {"line": 500},
            "positions": {source: {"line": 6}},
        }
        await runner.lines(deployment_id, 6, 2)
        assert await read_lines(socket, deployment_id, 7) == [6, 7]


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"event_type": "DEPLOYMENT_LOGS_UPDATE", "from_line": 1}, "from_line"),
        ({"event_type": "DEPLOYMENT_STATUS_CHANGED", "deployment_id": "ID", "from_line": 1}, "from_line"),
    ],
)
async def test_from_line_goes_with_the_log_of_one_deployment(
    server: ServerProcess, people: People, runner: Runner, data: dict[str, Any], field: str
) -> None:
    """Log events without `deployment_id` are live only."""
    wanted = {**data, **({"deployment_id": await runner.create()} if "deployment_id" in data else {})}
    async with open_socket(server.socket_url, people.tokens["vic"]) as socket:
        refused = await socket.ask("subscribe", wanted)
        assert refused["data"]["code"] == "invalid_message"
        assert refused["data"]["details"][0]["field"] == field


# ---- latest values ---------------------------------------------------------------------------------------


async def test_the_latest_values_are_told_again_after_a_reconnect(
    server: ServerProcess, people: People, runner: Runner
) -> None:
    """Latest: after a reconnect the last value."""
    wanted = {"event_type": "DEPLOYMENT_PROGRESS"}
    async with open_socket(server.socket_url, people.tokens["vic"], subscriptions=[wanted]) as socket:
        positions = welcome(socket)["positions"]
    one, two = await runner.create(), await runner.create()
    for deployment_id, percents in ((one, (10, 50, 40)), (two, (5, 6))):
        for percent in percents:
            await runner.progress(deployment_id, percent)
    async with open_socket(
        server.socket_url, people.tokens["vic"], subscriptions=[wanted], positions=positions
    ) as socket:
        async with asyncio.timeout(10):
            told: dict[str, list[float]] = {}
            while not {one, two} <= told.keys():
                event = await socket.until("DEPLOYMENT_PROGRESS")
                told.setdefault(event["data"]["deploymentId"], []).append(event["data"]["progress"])
        assert (told[one], told[two]) == ([40], [6])


# ---- positions -------------------------------------------------------------------------------------------


async def test_the_position_of_a_quiet_client_does_not_age(
    server: ServerProcess, people: People, runner: Runner
) -> None:
    """At most every 30 s (here 3) a push `positions`, so that a client that wants nothing of a stream follows it."""
    stream = f"org:{people.organizations['first']}"
    async with open_socket(server.socket_url, people.tokens["vic"]) as socket:
        before = welcome(socket)["positions"][stream]["offset"]
        await runner.create()
        told = await socket.until(
            lambda message: message["type"] == "positions" and message["data"]["positions"][stream]["offset"] > before
        )
        assert told["data"]["positions"][stream]["offset"] >= before + 1


async def test_positions_survive_a_restart(tmp_path: Path, own_database: dict[str, str]) -> None:
    """After `kill -9` and a start everything missed comes from the log."""
    settings = own_database
    async with server_process(tmp_path, settings) as first:
        people = await make_people(first)
        async with open_socket(first.socket_url, people.tokens["vic"], subscriptions=[CREATED]) as socket:
            positions = welcome(socket)["positions"]
        async with Runner(first, people.tokens["olga"]) as runner:
            made = [await runner.create() for _ in range(5)]
        first.process.kill()
        await first.process.wait()
    async with (
        server_process(tmp_path, settings) as second,
        open_socket(second.socket_url, people.tokens["vic"], subscriptions=[CREATED], positions=positions) as socket,
    ):
        stream = f"org:{people.organizations['first']}"
        await until_caught_up(socket, stream)
        assert [deployment_id for _, deployment_id in stream_events(socket.seen, stream)] == made
