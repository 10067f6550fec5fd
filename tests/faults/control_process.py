"""The control connection as a process of its own, so that it measures the server and not the load beside it.

`tests/faults/control.py` runs it: the first line of stdin is the order, each further one a word
(`quiet`: report the slowest so far and begin anew, `stop`: report and end). Reports are JSON lines on stdout.
Invariant: one line of the log is published after the other, and each must come back once, in order. Beside
that it asks for the server's health again and again, each time over a new connection.
"""

import asyncio
import contextlib
import json
import sys
import time
from typing import Any
from urllib.parse import urlsplit

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

WITNESS_SECONDS = 0.02
LAST_SECONDS = 30.0
RETRY_SECONDS = 0.2
HEALTH_SECONDS = 0.1
"""Between two questions for the server's health."""
RESETS = 50
"""So often one question for it is asked again."""


class Control:
    """Publishes numbered lines at a steady pace and receives them."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._order = order
        self._sent_at: dict[int, float] = {}
        self._arrived = asyncio.Event()
        self._is_ending = False
        self.published = 0
        self.received = 0
        self.refused = 0
        self.resets = 0
        self.slowest_seconds = 0.0
        self.slowest_health_seconds = 0.0
        self.held_up_seconds = 0.0
        self.faults: list[str] = []

    def report(self) -> dict[str, Any]:
        """Return what was seen, and begin anew with the slowest."""
        report = {
            "published": self.published,
            "received": self.received,
            "refused": self.refused,
            "resets": self.resets,
            "slowest": self.slowest_seconds,
            "slowestHealth": self.slowest_health_seconds,
            "heldUp": self.held_up_seconds,
            "faults": self.faults,
        }
        self.slowest_seconds = self.slowest_health_seconds = self.held_up_seconds = 0.0
        return report

    async def run(self) -> None:
        """Publish and receive until stdin says `stop`."""
        words = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(words), sys.stdin)
        headers = {"Authorization": f"Bearer {self._order['token']}"}
        address = self._order["url"].replace("http", "ws", 1) + "/api/v1/ws"
        async with (
            connect(address, compression=None, max_size=None) as socket,
            httpx.AsyncClient(base_url=f"{self._order['url']}/api/v1", headers=headers, timeout=60) as client,
        ):
            tasks = [asyncio.create_task(self._witness())]
            try:
                deployment_id = await self._subscribe(socket, client)
                receiver = asyncio.create_task(self._receive(socket))
                publisher = asyncio.create_task(self._publish(client, deployment_id))
                tasks += [receiver, publisher, asyncio.create_task(self._health())]
                say({"ready": True})
                while (await words.readline()).strip() == b"quiet":
                    say(self.report())
                self._is_ending = True
                await asyncio.wait({publisher}, timeout=LAST_SECONDS)
                await self._all_arrived()
                say(self.report())
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _subscribe(self, socket: ClientConnection, client: httpx.AsyncClient) -> str:
        made = await client.post("/deployments", json={"name": "control"})
        made.raise_for_status()
        deployment_id: str = made.json()["id"]
        wanted = {"event_type": "DEPLOYMENT_LOGS_UPDATE", "deployment_id": deployment_id}
        await socket.send(
            json.dumps({"type": "auth", "data": {"token": self._order["token"], "subscriptions": [wanted]}})
        )
        welcome = json.loads(await socket.recv())
        if welcome["type"] != "AUTH_LOGIN_SUCCESS" or welcome["data"]["refused"]:
            raise RuntimeError(f"the control connection was refused: {welcome}")
        return deployment_id

    async def _publish(self, client: httpx.AsyncClient, deployment_id: str) -> None:
        while not self._is_ending:
            number = self.published + 1
            self._sent_at[number] = time.monotonic()
            body = {"firstLine": number, "lines": [{"text": str(number)}]}
            try:
                answer = await client.post(f"/deployments/{deployment_id}/logs", json=body)
            except httpx.HTTPError as error:
                self.faults.append(f"line {number} was not published: {error!r}")
                return
            if answer.status_code == 503:
                # Nothing was changed: the same line goes again. Whether a row allows it, `control.py` decides.
                self.refused += 1
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if answer.status_code != 200:
                self.faults.append(f"line {number} was answered {answer.status_code}: {answer.text}")
                return
            self.published = number
            await asyncio.sleep(self._order["pace"])

    async def _receive(self, socket: ClientConnection) -> None:
        try:
            async for text in socket:
                message = json.loads(text)
                if message["type"] != "DEPLOYMENT_LOGS_UPDATE":
                    continue
                number = message["data"]["firstLine"]
                if number != self.received + 1 or message["data"]["logs"] != [str(number)]:
                    self.faults.append(f"line {number} came after line {self.received}")
                self.received = number
                self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - self._sent_at.pop(number))
                self._arrived.set()
        except ConnectionClosed:
            pass
        if not self._is_ending or self.received < self.published:
            self.faults.append(f"the connection was closed: {socket.close_code} {socket.close_reason}")

    async def _all_arrived(self) -> None:
        with contextlib.suppress(TimeoutError):  # what is missing stands in the report
            async with asyncio.timeout(LAST_SECONDS):
                while self.received < self.published and not self.faults:
                    self._arrived.clear()
                    await self._arrived.wait()

    async def _health(self) -> None:
        """Ask /livez again and again; an answer that is not 200 is a fault."""
        while not self._is_ending:
            since = time.monotonic()
            answer = await self._ask_health()
            if not answer.startswith(b"HTTP/1.1 200"):
                self.faults.append(f"/livez was answered {answer[:200]!r}")
            self.slowest_health_seconds = max(self.slowest_health_seconds, time.monotonic() - since)
            await asyncio.sleep(HEALTH_SECONDS)

    async def _ask_health(self) -> bytes:
        """Return the answer. Who is not let in asks again; that is counted, and its time is the answer's."""
        parts = urlsplit(self._order["url"])
        question = f"GET /livez HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode()
        for _ in range(RESETS):
            try:
                reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
                try:
                    writer.write(question)
                    if answer := await reader.read():
                        return answer
                finally:
                    writer.close()
            except OSError:
                pass  # counted below
            self.resets += 1
            await asyncio.sleep(HEALTH_SECONDS / 2)
        return b"nothing"

    async def _witness(self) -> None:
        """Measure how long this process itself was held up by the machine."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(WITNESS_SECONDS)
            self.held_up_seconds = max(self.held_up_seconds, time.monotonic() - before - WITNESS_SECONDS)


def say(report: dict[str, Any]) -> None:
    """Print one report."""
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    # Unbuffered: what comes after the order is for the event loop to read.
    with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as orders:
        first = orders.readline()
    asyncio.run(Control(json.loads(first)).run())
