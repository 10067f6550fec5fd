"""Row F51: a publisher is gone before its answer, or the server is; asked again with the key, it is done once."""

import asyncio
import json
import random
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from tests.crash.crash_world import CrashWorld, crash_world
from tests.crash.publishers import ask
from tests.proving import amount, measured
from tests.services import database_name

CUTS = amount(30, 300)
LONGEST_SECONDS = 0.05
"""From before the request was read to after it was answered."""
COMMITS = 40
"""More than those of a start and of the followers' return."""


def publish_body(entry: str) -> dict[str, object]:
    """Return the body of a publish."""
    return {"type": "NOTIFICATION_SENT", "data": {"title": entry, "message": "by REST"}}


async def gone_before_the_answer(world: CrashWorld, entry: str, seconds: float) -> None:
    """Send a whole request and reset the connection after a while, as a publisher that is killed."""
    parts = urlsplit(world.server.url)
    body = json.dumps(publish_body(entry), separators=(",", ":")).encode()  # the retry has the same bytes
    head = (
        f"POST /api/v1/events HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {world.token}\r\n"
        f"Idempotency-Key: {entry}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(head.encode() + body)
    await writer.drain()
    await asyncio.sleep(seconds)
    writer.transport.abort()


async def test_f51_a_publisher_that_is_killed_and_retries_publishes_once(
    own_database: dict[str, str], tmp_path: Path
) -> None:
    """A publisher is gone at any moment before its answer and comes again with its key: the event is there once."""
    async with crash_world(tmp_path, own_database) as world, world.server.client(world.token) as client:
        moments = random.Random(51)
        for number in range(CUTS):
            entry = f"cut-{number}"
            await gone_before_the_answer(world, entry, moments.uniform(0, LONGEST_SECONDS))
            first = await ask(client, "/events", publish_body(entry), entry, world.ledger)
            again = await ask(client, "/events", publish_body(entry), entry, world.ledger)
            assert first["id"] == again["id"]
            world.ledger.acknowledged[entry] = first["id"]
        await world.assert_balanced()
        came = len(world.followers[0].received.events)
        assert came == CUTS
    measured(f"F51: {CUTS} publishers killed, retried twice, {database_name(own_database)}", f"{came} events", "once")


async def test_f51_a_retry_after_the_server_was_killed_publishes_nothing(
    own_database: dict[str, str], tmp_path: Path
) -> None:
    """The server is killed after the commit and before the answer: the retry is answered with the first event."""
    async with crash_world(tmp_path, own_database) as world:
        await world.restart(f"after_commit:{COMMITS}")
        is_killed = asyncio.Event()

        async def publish(client: httpx.AsyncClient, name: str) -> None:
            """One after another: what is at hand when the server is killed is asked again with its key."""
            numbers = count()
            while not is_killed.is_set():
                entry = f"{name}-{next(numbers)}"
                answer = await ask(client, "/events", publish_body(entry), entry, world.ledger)
                world.ledger.acknowledged[entry] = answer["id"]

        async with world.server.client(world.token) as client, asyncio.TaskGroup() as group:
            for name in ("one", "other"):
                group.create_task(publish(client, name))
            await world.killed(by_itself=True)
            is_killed.set()
            await world.start()
        assert world.ledger.retries > 0
        await world.assert_balanced()
