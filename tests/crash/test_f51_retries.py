"""Row F51: a publisher is gone before its answer, or the server is; asked again with the key, it is done once."""

import asyncio
import json
import random
from pathlib import Path
from urllib.parse import urlsplit

from tests.crash.crash_world import CrashWorld, crash_world
from tests.crash.publishers import ask
from tests.proving import amount, measured
from tests.services import database_name

CUTS = amount(30, 300)
LONGEST_SECONDS = 0.05
"""From before the request was read to after it was answered."""


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
        async with world.server.client(world.token) as client:
            earlier = await ask(client, "/events", publish_body("earlier"), "earlier", world.ledger)
            world.ledger.acknowledged["earlier"] = earlier["id"]
            await world.restart("after_commit:5")
            pending = asyncio.create_task(ask(client, "/events", publish_body("lost"), "lost", world.ledger))
            others = [
                asyncio.create_task(
                    ask(client, "/events", publish_body(f"more-{number}"), f"more-{number}", world.ledger)
                )
                for number in range(10)
            ]
            await world.killed(by_itself=True)
            await world.start()
            world.ledger.acknowledged["lost"] = (await pending)["id"]
            for number, answer in enumerate(await asyncio.gather(*others)):
                world.ledger.acknowledged[f"more-{number}"] = answer["id"]
        assert world.ledger.retries > 0
        await world.assert_balanced(with_plugin=False)
