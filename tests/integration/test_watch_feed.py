"""What `windflow watch` does when things happen in an unlucky order: its feed on a real server, step by step."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from backend.app.cli.following import Reads
from backend.app.cli.output import Output
from backend.app.cli.watch_feed import Feed
from backend.app.cli.watch_loop import follow_all
from backend.app.client.api import WindFlowClient
from backend.app.client.backoff import RetryPolicy
from backend.app.client.credentials import CredentialStore
from backend.app.client.items import Event, Reconnected, Subscription
from backend.app.client.stream import EventStream
from tests.integration.cli_process import server_on_port
from tests.integration.server_process import ServerProcess, server_process

pytestmark = pytest.mark.asyncio(loop_scope="module")

EVERYTHING = Subscription(("DEPLOYMENT_*",))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(
    module_database: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ServerProcess]:
    async with server_process(tmp_path_factory.mktemp("feed"), module_database) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def client(server: ServerProcess, tmp_path: Path) -> AsyncIterator[WindFlowClient]:
    async with await connect(server, tmp_path) as client:
        yield client


async def connect(server: ServerProcess, folder: Path) -> WindFlowClient:
    return WindFlowClient(
        server.url,
        token=await server.login(),
        store=CredentialStore(folder),
        policy=RetryPolicy(attempts=1),
    )


def make_feed(client: WindFlowClient) -> Feed:
    return Feed(client, Output(is_json=False, is_plain=True), with_names=True)


async def create(client: WindFlowClient, name: str, *texts: str, status: str | None = None) -> str:
    """Create a running deployment with lines, and give it a last status."""
    deployment_id: str = (await client.post("deployments", {"name": name}))["id"]
    await set_status(client, deployment_id, "running")
    await append(client, deployment_id, 1, *texts)
    if status:
        await set_status(client, deployment_id, status)
    return deployment_id


async def append(client: WindFlowClient, deployment_id: str, first: int, *texts: str) -> None:
    body = {"firstLine": first, "lines": [{"text": text} for text in texts]}
    await client.post(f"deployments/{deployment_id}/logs", body)


async def set_status(client: WindFlowClient, deployment_id: str, status: str) -> None:
    await client.request("PUT", f"deployments/{deployment_id}/status", body={"status": status})


async def follow(events: EventStream, feed: Feed, deployment_id: str, last: str) -> None:
    """Take events until a deployment has a status."""
    while deployment_id not in feed.known or feed.known[deployment_id].status != last:
        event = await anext(events)
        assert isinstance(event, Event)
        await feed.event(event)


async def test_a_deployment_created_between_subscribing_and_reading_is_seen_from_its_start(
    client: WindFlowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    """Subscribed first and read after: no line of what was created since then is left out."""
    feed = make_feed(client)
    async with client.events(EVERYTHING) as events:
        deployment_id = await create(client, "new", "first", "second")
        await feed.load_active()
        await append(client, deployment_id, 3, "third")
        await set_status(client, deployment_id, "success")
        await follow(events, feed, deployment_id, "success")
    assert capsys.readouterr().out.splitlines() == [
        "new │ ● running",
        "new │ first",
        "new │ second",
        "new │ third",
        "new │ ● success",
    ]


async def test_what_runs_already_is_joined_in_the_middle(
    client: WindFlowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without ID: of what runs already its status is shown, and the lines from now on."""
    deployment_id = await create(client, "old", "before")
    feed = make_feed(client)
    async with client.events(EVERYTHING) as events:
        await feed.load_active()
        await append(client, deployment_id, 2, "after")
        await set_status(client, deployment_id, "failed")
        await follow(events, feed, deployment_id, "failed")
    assert capsys.readouterr().out.splitlines() == ["old │ ● running", "old │ after", "old │ ● failed"]


async def test_what_happened_while_it_was_away_is_shown_with_the_end_last(
    client: WindFlowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a reconnect: the missing lines, then the end; what began meanwhile is shown from its start."""
    ended = await create(client, "ended", "one")
    feed = make_feed(client)
    await feed.load_active()
    await append(client, ended, 2, "two")
    await set_status(client, ended, "success")
    begun = await create(client, "begun", "uno")
    await feed.load_active()
    await set_status(client, begun, "cancelled")
    assert capsys.readouterr().out.splitlines() == [
        "ended │ ● running",
        "begun │ ● running",
        "begun │ uno",
        "ended │ two",
        "ended │ ● success",
    ]


async def test_a_lost_connection_is_gone_on_from_without_reading_the_states_again(
    client: WindFlowClient, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every status of the time away is shown, in order; lines that were pushed meanwhile are read; each once."""
    streams: list[EventStream] = []
    make = client.events

    def events(*subscriptions: Subscription, **settings: Any) -> EventStream:
        streams.append(make(*subscriptions, **settings))
        return streams[-1]

    monkeypatch.setattr(client, "events", events)
    old = await create(client, "old", "before")
    feed = make_feed(client)
    shown = ""
    following = asyncio.create_task(follow_all(client, feed, lambda reason, seconds: None))
    try:
        async with asyncio.timeout(30):
            while "old │ ● running" not in shown:
                shown += capsys.readouterr().out
                await asyncio.sleep(0.01)
            await streams[0].lose("cut by the test")
            await append(client, old, 2, "while away")
            await create(client, "short", "uno", "due", status="cancelled")
            begun = await create(client, "begun", "one")
            await append(client, begun, 2, "two")
            while not (shown.count("while away") and "begun │ two" in shown):
                shown += capsys.readouterr().out
                await asyncio.sleep(0.01)
            await set_status(client, begun, "success")
            while "begun │ ● success" not in shown:
                assert not following.done()
                shown += capsys.readouterr().out
                await asyncio.sleep(0.01)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    await set_status(client, old, "success")
    by_name: dict[str, list[str]] = {}
    for line in shown.splitlines():
        name, _, text = line.partition("│")
        by_name.setdefault(name.strip(), []).append(text.strip())
    assert by_name["old"] == ["● running", "while away"]
    assert by_name["short"] == ["● pending", "● running", "uno", "due", "● cancelled"]
    assert by_name["begun"] == ["● pending", "● running", "one", "two", "● success"]


async def test_the_end_that_was_read_is_the_last_word(
    client: WindFlowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the events tell of the time before the state was read is not shown as news."""
    feed = make_feed(client)
    async with client.events(EVERYTHING) as events:
        deployment_id = await create(client, "quick", "line", status="success")
        end = await create(client, "later", status="success")
        feed.follow(deployment_id, 1)
        await feed.load(deployment_id)
        await follow(events, feed, end, "success")
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("quick")]
    assert shown == ["quick │ line", "quick │ ● success"]


async def test_a_read_that_no_server_answers_is_a_lost_connection(
    own_database: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A restart that hits a read rather than the socket ends nothing: the stream comes back, and the rest is read."""
    lost: list[str] = []
    async with server_process(tmp_path / "server", own_database) as first:
        port = int(first.url.rpartition(":")[2])
        client = await connect(first, tmp_path / "client")
        deployment_id = await create(client, "app", "one", "two")
        feed = make_feed(client)
        events = client.events(EVERYTHING, give_up_seconds=60, on_lost=lambda reason, _: lost.append(reason))
        await events.__aenter__()
        first.process.kill()
        await first.process.wait()
    reads = Reads(events)
    feed.follow(deployment_id, 1)
    assert not await reads.answered(feed.load(deployment_id))
    assert not events.is_connected
    async with server_on_port(tmp_path / "server", port, own_database):
        while not isinstance(await anext(events), Reconnected):
            pass
        assert await reads.answered(feed.load(deployment_id))
        await events.__aexit__(None, None, None)
        await client.close()
    assert lost
    assert capsys.readouterr().out.splitlines() == ["app │ ● running", "app │ one", "app │ two"]
