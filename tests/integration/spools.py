"""What tests of spools share: a server that goes and comes back on one port, and commands that wait for a file."""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.integration.cli_process import Person, Running
from tests.integration.server_process import PASSWORD, ServerProcess, server_process


def free_port() -> int:
    """Return a port that nobody listens on at the moment."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class Place:
    """A folder and a port on which a server can be started, killed and started again."""

    def __init__(self, folder: Path, settings: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._settings = settings or {}
        self._running: AsyncExitStack | None = None
        self._server: ServerProcess | None = None

    async def start(self) -> ServerProcess:
        """Start the server on its data."""
        assert self._running is None
        self._running = AsyncExitStack()
        entered = server_process(self.folder, self._settings, port=self.port)
        self._server = await self._running.enter_async_context(entered)
        return self._server

    async def kill(self) -> None:
        """End the server as a crash does: `kill -9`."""
        assert self._server is not None
        self._server.process.kill()
        await self._server.process.wait()
        await self.close()

    async def close(self) -> None:
        """Stop what runs."""
        running, self._running = self._running, None
        if running is not None:
            await running.aclose()

    async def until(self, deployment_id: str, is_it: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Ask the running server for a deployment until it is so; return it."""
        assert self._server is not None
        async with asyncio.timeout(60), self._server.client(await self._server.login()) as client:
            while True:
                answer = await client.get(f"/deployments/{deployment_id}")
                if answer.status_code == 200 and is_it(answer.json()):
                    found: dict[str, Any] = answer.json()
                    return found
                await asyncio.sleep(0.05)

    async def until_line(self, deployment_id: str, count: int) -> None:
        """Wait until the running server has so many lines."""
        await self.until(deployment_id, lambda found: found["lastLine"] >= count)

    async def until_lapsed(self, deployment_id: str) -> None:
        """Wait until nobody holds the deployment's lease any more."""
        await self.until(
            deployment_id,
            lambda found: datetime.fromisoformat(found["leaseUntil"]) < datetime.now(UTC),
        )

    async def admin(self, folder: Path, environment: dict[str, str] | None = None) -> Person:
        """Start, log somebody in, and go away again."""
        await self.start()
        person = await Person(self.url, folder, environment).login("admin", PASSWORD)
        await self.kill()
        return person


@asynccontextmanager
async def place_of(folder: Path, settings: dict[str, str] | None = None) -> AsyncIterator[Place]:
    """Give a place whose server is stopped at the end."""
    place = Place(folder, settings)
    try:
        yield place
    finally:
        await place.close()


def waiting_command(*steps: tuple[str, Path | None], then: str = "") -> tuple[str, ...]:
    """Return a command that prints, per step, 100 lines of a word, and then waits for a file."""
    source = "import os, time\n"
    for word, gate in steps:
        source += f"for n in range(100): print({word!r}, n, flush=True)\n"
        if gate is not None:
            source += f"while not os.path.exists({str(gate)!r}): time.sleep(0.02)\n"
    return ("--", sys.executable, "-c", source + then)


def printed(*words: str) -> list[str]:
    """Return what such a command prints."""
    return [f"{word} {number}" for word in words for number in range(100)]


async def lines_of(person: Person, deployment_id: str) -> list[str]:
    """Return a log as the server has it; its numbers are without gap."""
    done = await person.run("logs", deployment_id, "--json")
    assert done.status == 0, done.err
    items = [json.loads(line) for line in done.out.splitlines()]
    assert [item["line"] for item in items] == list(range(1, len(items) + 1))
    return [item["text"] for item in items]


async def shown(person: Person, deployment_id: str) -> dict[str, Any]:
    """Return a deployment as the server has it."""
    found: dict[str, Any] = (await person.run("show", deployment_id, "--json")).json()
    return found


async def kept(person: Person) -> list[dict[str, Any]]:
    """Return what is kept on a person's machine."""
    items: list[dict[str, Any]] = (await person.run("spool", "list", "--json")).json()["items"]
    return items


async def kill(run: Running) -> None:
    """End a command as the out-of-memory killer does."""
    run.process.kill()
    await run.process.wait()
