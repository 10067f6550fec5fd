"""The TypeScript client against a real server that is killed, drained and too fast, by its own count."""

import asyncio
import itertools
import shutil
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from backend.app.client import Backoff, CredentialStore, RetryPolicy, WindFlowClient
from backend.app.contract.hashes import contract_hash
from backend.app.schemas.websocket_events import core_catalogue
from tests.integration.restarting_server import Restarting
from tests.integration.server_process import PASSWORD, ServerProcess, server_process
from tests.integration.ts_client import NodeClient, Said, compiled, node_client
from tests.proving import amount, measured
from tests.services import database_name

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.node]

CREATED = {"eventTypes": ["DEPLOYMENT_CREATED"]}


@pytest_asyncio.fixture(loop_scope="module")
async def restarting(own_database: dict[str, str], tmp_path: Path) -> AsyncIterator[Restarting]:
    compiled()
    made = Restarting(tmp_path / "server", own_database)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server(
    module_database: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ServerProcess]:
    compiled()
    settings = {**module_database, "ACCESS_TOKEN_SECONDS": "3600"}
    async with server_process(tmp_path_factory.mktemp("server"), settings) as made:
        yield made


@asynccontextmanager
async def publishing(server: ServerProcess, folder: Path) -> AsyncIterator[WindFlowClient]:
    """Try every request, each with its Idempotency-Key, until it is answered."""
    policy = RetryPolicy(attempts=1000, give_up_seconds=90, backoff=Backoff(first_seconds=0.05, longest_seconds=0.5))
    token, store = await server.login(), CredentialStore(folder / "config")
    async with WindFlowClient(server.url, token=token, store=store, policy=policy) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def publisher(restarting: Restarting, tmp_path: Path) -> AsyncIterator[WindFlowClient]:
    async with publishing(restarting.server, tmp_path) as made:
        yield made


async def running(publisher: WindFlowClient) -> str:
    """Make a deployment that takes lines."""
    made: str = (await publisher.post("deployments", {"name": "app"}))["id"]
    await publisher.request("PUT", f"deployments/{made}/status", body={"status": "running"})
    return made


async def append(publisher: WindFlowClient, deployment_id: str, first: int, last: int) -> None:
    for start in range(first, last + 1, 1000):
        texts = [{"text": f"line {number}"} for number in range(start, min(start + 1000, last + 1))]
        await publisher.post(f"deployments/{deployment_id}/logs", {"firstLine": start, "lines": texts})


def names(heard: list[Said], kind: str = "DEPLOYMENT_CREATED") -> list[str]:
    return [said["event"]["data"]["deploymentId"] for said in heard if said.get("event", {}).get("type") == kind]


def lines(heard: list[Said]) -> list[str]:
    """Return the lines heard, each beside the number that it came with."""
    updates = [said["event"]["data"] for said in heard if said.get("event", {}).get("type") == "DEPLOYMENT_LOGS_UPDATE"]
    return [f"{data['firstLine'] + index}: {text}" for data in updates for index, text in enumerate(data["logs"])]


def numbered(first: int, last: int) -> list[str]:
    return [f"{number}: line {number}" for number in range(first, last + 1)]


def is_line(said: Said, number: int) -> bool:
    event = said.get("event", {})
    if event.get("type") != "DEPLOYMENT_LOGS_UPDATE":
        return False
    last: int = event["data"]["firstLine"] + len(event["data"]["logs"]) - 1
    return last >= number


def log_of(deployment_id: str, from_line: int = 1) -> dict[str, Any]:
    return {"eventTypes": ["DEPLOYMENT_LOGS_UPDATE"], "deploymentId": deployment_id, "fromLine": from_line}


@pytest.mark.timeout(amount(240, 900))
async def test_every_event_and_line_comes_once_through_kills_of_the_server(
    restarting: Restarting, publisher: WindFlowClient, own_database: dict[str, str]
) -> None:
    """`client.ts` follows a log through ten server kills without gap, duplicate or reorder, counted."""
    kills = amount(3, 10)
    followed = await running(publisher)
    acknowledged: list[str] = []
    appended = 0
    enough = asyncio.Event()

    async def publish() -> None:
        while not enough.is_set():
            deployment_id = str(uuid.uuid4())
            await publisher.post("deployments", {"deploymentId": deployment_id, "name": "app"})
            acknowledged.append(deployment_id)

    async def report() -> None:
        nonlocal appended
        while not enough.is_set():
            await append(publisher, followed, appended + 1, appended + 20)
            appended += 20

    heard: list[Said] = []
    async with node_client(
        restarting.server.url, token=await restarting.server.login(), subscriptions=[CREATED, log_of(followed)]
    ) as node:
        working = [asyncio.create_task(publish()), asyncio.create_task(publish()), asyncio.create_task(report())]
        try:
            for _ in range(kills):
                for _ in range(40):
                    heard.append(await node.next())
                await restarting.kill()
                await restarting.start()
                heard += await node.until(lambda said: said.get("notice") == "reconnected")
            enough.set()
            await asyncio.gather(*working)
            last = (await publisher.post("deployments", {"name": "last"}))["id"]
            acknowledged.append(last)
            heard += await node.until(lambda said: last in names([said]))
            if not any(is_line(said, appended) for said in heard):
                heard += await node.until(lambda said: is_line(said, appended))
        finally:
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)
    created = names(heard)
    offsets = [said["event"]["offset"] for said in heard if "offset" in said.get("event", {})]
    assert [said for said in heard if said.get("notice") in ("position_lost", "ended")] == []
    assert (len(created), set(created)) == (len(acknowledged), set(acknowledged))
    assert all(later > earlier for earlier, later in itertools.pairwise(offsets))
    assert lines(heard) == numbered(1, appended)
    assert sum(said.get("notice") == "reconnected" for said in heard) >= kills
    measured(
        f"The TypeScript client through {kills} times `kill -9` and a start ({database_name(own_database)})",
        f"{len(acknowledged)} events and {appended:,} lines, 0 doubled, 0 missing, 0 out of order",
        "exactly once, in order",
    )


async def test_a_log_that_is_cut_at_a_line_goes_on_at_the_exact_line(server: ServerProcess, tmp_path: Path) -> None:
    """A log of some thousand lines that is cut at a line continues at that line, in the same page and in another."""
    async with publishing(server, tmp_path) as publisher:
        followed, cut, count = await running(publisher), 1470, 3000
        await append(publisher, followed, 1, cut - 1)
        token, url = await server.login(), server.url
        async with node_client(url, token=token, subscriptions=[log_of(followed)]) as node:
            before = await node.until(lambda said: is_line(said, cut - 1))
            saved = await node.command("positions")
            assert saved[f"log:{followed}"] == {"line": cut}
            await node.command("lose")
            await append(publisher, followed, cut, count)
            after = await node.until(lambda said: is_line(said, count))
            assert lines(before) == numbered(1, cut - 1)
            assert lines(after) == numbered(cut, count)
        async with node_client(url, token=token, subscriptions=[log_of(followed)], positions=saved) as node:
            assert lines(await node.until(lambda said: is_line(said, count))) == numbered(cut, count)
        async with node_client(url, token=token, subscriptions=[log_of(followed, -7)]) as node:
            assert lines(await node.until(lambda said: is_line(said, count))) == numbered(count - 6, count)


async def test_a_draining_server_is_left_for_as_long_as_it_says(
    restarting: Restarting, publisher: WindFlowClient
) -> None:
    """1012: the client reconnects after `retryAfterMs` and resumes."""
    async with node_client(
        restarting.server.url, token=await restarting.server.login(), subscriptions=[CREATED]
    ) as node:
        await restarting.drain()
        heard = await node.until(lambda said: said.get("notice") == "connection_lost")
        told = [said["event"]["data"] for said in heard if said.get("event", {}).get("type") == "WEBSOCKET_ERROR"]
        assert [each["code"] for each in told] == ["server_restarting"]
        assert heard[-1]["value"]["reason"].startswith("1012")
        assert heard[-1]["value"]["retryInMs"] == told[0]["details"]["retryAfterMs"]
        await restarting.start()
        assert (await node.notice("reconnected"))["isResumed"] is True
        made = (await publisher.post("deployments", {"name": "app"}))["id"]
        assert names(await node.until(lambda said: bool(names([said])))) == [made]


async def test_a_program_that_is_too_slow_gets_everything_once(server: ServerProcess, tmp_path: Path) -> None:
    """Bounded buffers: what does not fit is read again from the log, nothing is lost or doubled."""
    limits = {"queueMessages": 20, "queueCharacters": 1_000_000}
    token = await server.login()
    async with (
        node_client(server.url, token=token, subscriptions=[CREATED], hold=True, limits=limits) as node,
        publishing(server, tmp_path) as publisher,
    ):
        made = [(await publisher.post("deployments", {"name": f"app {number}"}))["id"] for number in range(40)]
        await node.command("release")
        heard: list[Said] = []
        while len(names(heard)) < len(made):
            heard.append(await node.next())
    assert names(heard) == made
    reasons = [said["value"]["reason"] for said in heard if said.get("notice") == "connection_lost"]
    assert reasons
    assert all("more slowly" in reason for reason in reasons)


async def test_a_refusal_is_an_error_with_its_code(server: ServerProcess) -> None:
    """Request and reply: a refused command rejects with the server's code, an allowed one gives the reply's data."""
    token = await server.login()
    async with node_client(server.url, token=token, subscriptions=[]) as node:
        refused = await node.attempt("subscribe", {"eventTypes": ["DEPLOYMENT_CRATED"]})
        assert (refused["error"]["name"], refused["error"]["code"]) == ("ApiError", "unknown_type")
        assert await node.command("request", {"type": "WEBSOCKET_PING", "data": {"at": "now"}}) == {"at": "now"}


async def test_a_token_that_is_not_valid_ends_the_start(server: ServerProcess) -> None:
    """1008: log in again, do not retry."""
    with pytest.raises(AssertionError, match="the Node process ended"):
        async with node_client(server.url, token="wf_nonsense", subscriptions=[]):
            pass


async def test_an_old_page_is_told_once_that_its_types_are_not_the_servers(
    server: ServerProcess, tmp_path: Path
) -> None:
    """F80: an old `types.ts` in a running tab produces one hint that names the types, once."""
    old = shutil.copytree(compiled().parent, tmp_path / "old")
    (tmp_path / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    types = (old / "types.js").read_text(encoding="utf-8")
    digest = contract_hash(core_catalogue())
    assert digest in types
    (old / "types.js").write_text(types.replace(digest, "0" * len(digest)), encoding="utf-8")
    token = await server.login()
    told = []
    for library in (old / "client.js", compiled()):
        async with node_client(server.url, token=token, subscriptions=[CREATED], library=str(library)) as node:
            heard: list[Said] = []
            for _ in range(2):
                await node.command("lose")
                heard += await node.until(lambda said: said.get("notice") == "reconnected")
            told.append([said["value"]["names"] for said in heard if said.get("notice") == "contract_mismatch"])
    assert told == [[["core"]], []]


# ---- logins ----------------------------------------------------------------------------------------------


@pytest_asyncio.fixture(loop_scope="module")
async def short_tokens(own_database: dict[str, str], tmp_path: Path) -> AsyncIterator[Restarting]:
    compiled()
    settings = {**own_database, "ACCESS_TOKEN_SECONDS": "6", "REAUTH_NOTICE_SECONDS": "3", "REFRESH_GRACE_SECONDS": "0"}
    made = Restarting(tmp_path / "server", settings)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


async def test_two_tabs_refresh_their_login_once(short_tokens: Restarting) -> None:
    """Two tabs never race for a refresh token: one refreshes, the other takes what it stored; both sockets stay."""
    async with node_client(short_tokens.server.url, password=PASSWORD, tabs=2, subscriptions=[CREATED]) as node:
        answer = await node.command("renew")
        assert await node.command("refreshes") == 1
        assert len(set(answer["renewed"])) == 1
        assert answer["renewed"][0] != answer["rejected"]
        heard = await _asked_twice(node)
        assert not [said for said in heard if said.get("notice") in ("connection_lost", "ended")]
        # Both tabs were asked at the same moments, twice: each time at most one of them refreshed.
        assert await node.command("refreshes") <= 1 + 2


async def _asked_twice(node: NodeClient) -> list[Said]:
    """Listen until each tab was asked for a fresh token twice."""
    heard: list[Said] = []
    while any(
        sum(said["tab"] == tab and said.get("event", {}).get("type") == "SESSION_AUTH_REQUIRED" for said in heard) < 2
        for tab in (0, 1)
    ):
        heard.append(await node.next())
    return heard
