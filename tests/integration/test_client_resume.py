"""The Python client through restarts of a real server: nothing lost, nothing twice, in order, by its own count."""

import asyncio
import itertools
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio

from backend.app.client import (
    Backoff,
    CatchingUp,
    CredentialStore,
    Event,
    EventStream,
    PositionLost,
    Reconnected,
    RetryPolicy,
    Subscription,
    WindFlowClient,
)
from backend.app.client.positions import Positions
from tests.integration.restarting_server import Restarting
from tests.proving import amount, measured
from tests.services import database_name

pytestmark = pytest.mark.asyncio(loop_scope="module")

CREATED = Subscription(("DEPLOYMENT_CREATED",))
PUBLISHERS = 4
QUICK = Backoff(first_seconds=0.05, longest_seconds=0.5)


@pytest_asyncio.fixture(loop_scope="module")
async def restarting(own_database: dict[str, str], tmp_path: Path) -> AsyncIterator[Restarting]:
    made = Restarting(tmp_path / "server", own_database)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def client(restarting: Restarting, tmp_path: Path) -> AsyncIterator[WindFlowClient]:
    """A client that tries every request, each with its Idempotency-Key, until it is answered."""
    async with WindFlowClient(
        restarting.server.url,
        token=await restarting.server.login(),
        store=CredentialStore(tmp_path / "config"),
        policy=RetryPolicy(attempts=1000, give_up_seconds=90, backoff=QUICK),
    ) as made:
        yield made


def stream(client: WindFlowClient, *subscriptions: Subscription, positions: Positions | None = None) -> EventStream:
    return EventStream(client.server_url, client.tokens, subscriptions, positions=positions, backoff=QUICK)


@dataclass
class Count:
    """What was acknowledged to the publishers, and what came to the client."""

    acknowledged: list[str] = field(default_factory=list)
    delivered: list[tuple[int, str]] = field(default_factory=list)
    reconnects: int = 0
    lost: list[PositionLost] = field(default_factory=list)
    most_behind: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, condition: Callable[[], bool], consuming: "asyncio.Task[None]") -> None:
        """Wait until the counts fulfil a condition; fail with what ended the consumer."""
        while not condition():
            assert not consuming.done(), consuming.exception()
            self.changed.clear()
            await self.changed.wait()

    def acknowledge(self, deployment_id: str) -> None:
        self.acknowledged.append(deployment_id)
        self.changed.set()

    def take(self, item: object) -> None:
        self.changed.set()
        if isinstance(item, Event):
            assert item.offset is not None
            self.delivered.append((item.offset, item.data["deploymentId"]))
        elif isinstance(item, Reconnected):
            self.reconnects += 1
        elif isinstance(item, PositionLost):
            self.lost.append(item)
        elif isinstance(item, CatchingUp):
            self.most_behind = max(self.most_behind, item.behind)

    def doubled(self) -> int:
        return sum(count - 1 for count in Counter(name for _, name in self.delivered).values())

    def missing(self) -> int:
        return len(set(self.acknowledged) - {name for _, name in self.delivered})

    def out_of_order(self) -> int:
        offsets = [offset for offset, _ in self.delivered]
        return sum(later <= earlier for earlier, later in itertools.pairwise(offsets))


async def publish(client: WindFlowClient, count: Count, enough: asyncio.Event) -> None:
    """Create deployments one after the other; each is acknowledged before the next one."""
    while not enough.is_set():
        deployment_id = str(uuid.uuid4())
        await client.post("deployments", {"deploymentId": deployment_id, "name": "app"})
        count.acknowledge(deployment_id)


@pytest.mark.timeout(amount(240, 900))
async def test_every_acknowledged_event_comes_once_through_kills_of_the_server(
    restarting: Restarting, client: WindFlowClient, own_database: dict[str, str]
) -> None:
    """After `kill -9`: every acknowledged event at every entitled client exactly once and in order."""
    kills = amount(3, 20)
    count, enough = Count(), asyncio.Event()
    async with stream(client, CREATED) as events:

        async def consume() -> None:
            async for item in events:
                count.take(item)

        consuming = asyncio.create_task(consume())
        consuming.add_done_callback(lambda _: count.changed.set())
        publishing = [asyncio.create_task(publish(client, count, enough)) for _ in range(PUBLISHERS)]
        try:
            async with asyncio.timeout(amount(100, 800)):
                for number in range(1, kills + 1):
                    reached = len(count.acknowledged) + 40
                    await count.until(lambda reached=reached: len(count.acknowledged) >= reached, consuming)  # type: ignore[misc]
                    await restarting.kill()
                    await restarting.start()
                    await count.until(lambda number=number: count.reconnects >= number, consuming)  # type: ignore[misc]
                enough.set()
                await asyncio.gather(*publishing)
                last = (await client.post("deployments", {"name": "last"}))["id"]
                count.acknowledge(last)
                await count.until(lambda: last in {name for _, name in count.delivered[-1:]}, consuming)
        finally:
            for task in (consuming, *publishing):
                task.cancel()
            await asyncio.gather(consuming, *publishing, return_exceptions=True)
    acknowledged, delivered = len(count.acknowledged), len(count.delivered)
    assert count.lost == []
    assert (count.doubled(), count.missing(), count.out_of_order()) == (0, 0, 0)
    # Every request was tried until it was answered: nothing is delivered that nobody heard of.
    assert delivered == acknowledged
    assert count.reconnects >= kills
    measured(
        f"Events through {kills} times `kill -9` and a start, {PUBLISHERS} publishers ({database_name(own_database)})",
        f"{acknowledged} acknowledged, {delivered} delivered, 0 doubled, 0 missing, 0 out of order",
        "exactly once, in order",
    )


async def test_a_program_that_starts_again_goes_on_where_it_was(client: WindFlowClient) -> None:
    """Positions that were kept are given to a new stream: what came since then comes first, once."""

    async def create() -> str:
        made: str = (await client.post("deployments", {"name": "app"}))["id"]
        return made

    async with stream(client, CREATED) as events:
        names = [await create() for _ in range(3)]
        seen = [await anext(events) for _ in range(2)]
        saved = events.positions
    names += [await create() for _ in range(2)]
    async with stream(client, CREATED, positions=saved) as events:
        names.append(await create())
        async with asyncio.timeout(30):
            while not (isinstance(seen[-1], Event) and seen[-1].data["deploymentId"] == names[-1]):
                seen.append(await anext(events))
    assert [item.data["deploymentId"] for item in seen if isinstance(item, Event)] == names


# ---- logs ------------------------------------------------------------------------------------------------

REPORT_LINES = 1000


async def append(client: WindFlowClient, deployment_id: str, first: int, last: int) -> None:
    for start in range(first, last + 1, REPORT_LINES):
        texts = [{"text": f"line {number}"} for number in range(start, min(start + REPORT_LINES, last + 1))]
        await client.post(f"deployments/{deployment_id}/logs", {"firstLine": start, "lines": texts})


async def lines(events: EventStream, first: int, last: int) -> None:
    """Take the lines up to one; they have to begin with the first one and to go on one by one."""
    due = first
    async with asyncio.timeout(amount(60, 600)):
        while due <= last:
            item = await anext(events)
            assert not isinstance(item, PositionLost), item
            if isinstance(item, Event):
                assert item.data["firstLine"] == due
                texts = item.data["logs"]
                assert texts == [f"line {number}" for number in range(due, due + len(texts))]
                due += len(texts)
    assert due == last + 1


async def test_a_log_that_is_cut_goes_on_at_the_exact_line(
    restarting: Restarting, client: WindFlowClient, own_database: dict[str, str]
) -> None:
    """Reloading a page of 100,000 log lines at line 73,512 and cutting the connection there continues at that line."""
    count, cut = amount(2_000, 100_000), amount(1_470, 73_512)
    deployment_id = (await client.post("deployments", {"name": "app"}))["id"]
    await client.request("PUT", f"deployments/{deployment_id}/status", body={"status": "running"})
    await append(client, deployment_id, 1, cut - 1)
    log = Subscription(("DEPLOYMENT_LOGS_UPDATE",), deployment_id, 1)
    async with stream(client, log) as events:
        await lines(events, 1, cut - 1)
        assert events.next_line(deployment_id) == cut
        saved = events.positions
        await restarting.kill()
        await restarting.start()
        await append(client, deployment_id, cut, count)
        await lines(events, cut, count)
        assert events.next_line(deployment_id) == count + 1
    async with stream(client, Subscription(log.event_types, deployment_id, cut)) as events:
        await lines(events, cut, count)
    async with stream(client, log, positions=saved) as events:
        await lines(events, cut, count)
    async with stream(client, log) as events:
        while (events.next_line(deployment_id) or 0) < cut - REPORT_LINES:
            await anext(events)
        middle = events.next_line(deployment_id)
        assert middle is not None
        await events.lose("cut by the test")
        await lines(events, middle, count)
    measured(
        f"A log of {count:,} lines: `kill -9` at line {cut:,}, reloaded there ({database_name(own_database)})",
        f"every line once and in order; it went on with line {cut:,}",
        f"line {cut:,}",
    )
