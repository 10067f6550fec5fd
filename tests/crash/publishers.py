"""Publishers that write down what they were answered: over REST with keys, over sockets, and lines of a log.

Each runs until `stop` is set; the entry or lines at hand are finished then. Who gets no answer over REST asks again
with the same key; over a socket nobody asks again.
"""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from itertools import count
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from tests.crash.ledger import Ledger
from tests.crash.recorder import PUBLISH, PUBLISHED
from tests.proving import amount

RETRY_SECONDS = 0.03
GIVE_UP_SECONDS = amount(90.0, 600.0)
"""That a server comes back at all, and lives long enough for one answer."""
ANSWER_SECONDS = 20.0
LINES_AT_ONCE = 3
REFUSED_FOR_NOW = (502, 503, 504)


async def ask(client: httpx.AsyncClient, path: str, body: dict[str, Any], key: str | None, ledger: Ledger) -> Any:
    """Send a POST until it is answered; return the answer. Asserts that it is a success."""
    headers = {"Idempotency-Key": key} if key else {}
    async with asyncio.timeout(GIVE_UP_SECONDS):
        while True:
            with contextlib.suppress(httpx.HTTPError):
                answer = await client.post(path, json=body, headers=headers)
                if answer.status_code not in REFUSED_FOR_NOW:
                    assert answer.is_success, answer.text
                    return answer.json()
            ledger.retries += 1
            await asyncio.sleep(RETRY_SECONDS)


async def publish_over_rest(
    client: httpx.AsyncClient, name: str, ledger: Ledger, stop: asyncio.Event, pause_seconds: float = 0.0
) -> None:
    """Publish entries, each with a key of its own."""
    for number in count(1):
        if stop.is_set():
            return
        entry = f"{name}-{number}"
        body = {"type": "NOTIFICATION_SENT", "data": {"title": entry, "message": "by REST"}}
        answer = await ask(client, "/events", body, entry, ledger)
        ledger.acknowledged[entry] = answer["id"]
        await asyncio.sleep(pause_seconds)


async def append_lines(client: httpx.AsyncClient, deployment_id: str, ledger: Ledger, stop: asyncio.Event) -> None:
    """Append numbered lines, a few at once."""
    while not stop.is_set():
        first = len(ledger.lines) + 1
        texts = [f"line {number}" for number in range(first, first + LINES_AT_ONCE)]
        body = {"firstLine": first, "lines": [{"text": text} for text in texts]}
        answer = await ask(client, f"/deployments/{deployment_id}/logs", body, None, ledger)
        assert answer["nextLine"] == first + LINES_AT_ONCE, answer
        ledger.lines += texts
        await asyncio.sleep(0)


async def publish_over_socket(
    socket_url: str, token: str, name: str, ledger: Ledger, stop: asyncio.Event, pause_seconds: float = 0.0
) -> None:
    """Publish entries over a socket; one whose answer does not come is never sent again."""
    numbers = iter(count(1))
    while not stop.is_set():
        with contextlib.suppress(OSError, TimeoutError, WebSocketException):
            async with connect(socket_url, compression=None, close_timeout=1) as socket:
                await socket.send(json.dumps({"type": "auth", "data": {"token": token}}))
                await _publish_on(socket, name, numbers, ledger, stop, pause_seconds)
        await asyncio.sleep(RETRY_SECONDS)


async def _publish_on(
    socket: ClientConnection,
    name: str,
    numbers: Iterator[int],
    ledger: Ledger,
    stop: asyncio.Event,
    pause_seconds: float,
) -> None:
    await socket.recv()
    while not stop.is_set():
        entry = f"{name}-{next(numbers)}"
        ledger.unanswered.add(entry)
        await socket.send(json.dumps({"type": PUBLISH, "data": {"entry": entry}, "id": entry}))
        async with asyncio.timeout(ANSWER_SECONDS):
            while (answer := json.loads(await socket.recv())).get("reply_to") != entry:
                pass
        assert answer["type"] == PUBLISHED, answer
        ledger.unanswered.discard(entry)
        ledger.acknowledged[entry] = None
        await asyncio.sleep(pause_seconds)
