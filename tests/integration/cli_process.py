"""The command line as people run it: a process with a config folder of its own, on a pipe or on a terminal."""

import asyncio
import json
import os
import pty
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
WINDFLOW = (sys.executable, "-c", "from backend.app.cli import main; main()")
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.out)


class Running:
    """A command that runs; what it prints is collected."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.out = ""
        self.err = ""
        self.arrivals: list[tuple[float, int]] = []
        """When stdout had grown to how many characters: the time as `time.time()` gives it."""
        self._changed = asyncio.Condition()
        self._readers: list[asyncio.Task[None]] = []

    def read(self, stream: asyncio.StreamReader, name: str) -> None:
        """Collect a stream under a name."""
        self._readers.append(asyncio.create_task(self._collect(stream, name)))

    async def _collect(self, stream: asyncio.StreamReader, name: str) -> None:
        while True:
            try:
                data = await stream.read(65536)
            except OSError:
                return  # how a terminal ends
            if not data:
                return
            async with self._changed:
                setattr(self, name, getattr(self, name) + data.decode("utf-8", "replace"))
                if name == "out":
                    self.arrivals.append((time.time(), len(self.out)))
                self._changed.notify_all()

    def arrived_at(self, text: str) -> float:
        """Return when the first occurrence of a text on stdout was complete."""
        end = self.out.index(text) + len(text)
        return next(moment for moment, length in self.arrivals if length >= end)

    async def until(self, condition: Callable[["Running"], bool], seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until what was printed fulfils a condition; fail with what was printed."""
        try:
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(lambda: condition(self))
        except TimeoutError:
            raise AssertionError(f"not printed in time\nout: {self.out[-2000:]}\nerr: {self.err[-2000:]}") from None

    async def until_out(self, text: str) -> None:
        """Wait for a text on stdout."""
        await self.until(lambda running: text in running.out)

    async def until_err(self, text: str) -> None:
        """Wait for a text on stderr."""
        await self.until(lambda running: text in running.err)

    async def deployment_id(self) -> str:
        """Return the id that `deploy` prints at its start."""
        await self.until(lambda running: _ID.search(running.err + running.out) is not None)
        found = _ID.search(self.err + self.out)
        assert found
        return found[1]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the command alone."""
        self.process.send_signal(number)

    async def end(self, seconds: float = PATIENCE_SECONDS) -> Done:
        """Wait for the end and return it; fail with what was printed so far."""
        try:
            async with asyncio.timeout(seconds):
                status = await self.process.wait()
                await asyncio.gather(*self._readers)
        except TimeoutError:
            raise AssertionError(f"did not end\nout: {self.out[-2000:]}\nerr: {self.err[-2000:]}") from None
        return Done(status, self.out, self.err)


_ID = re.compile(r"deployment .* is ([0-9a-f-]{36}): http")


class Person:
    """One user at one machine."""

    def __init__(self, server_url: str, folder: Path, environment: dict[str, str] | None = None) -> None:
        self.server_url = server_url
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("WINDFLOW_")}
        self.environment = {
            **inherited,
            "PYTHONPATH": str(REPOSITORY),
            "WINDFLOW_SERVER_URL": server_url,
            "WINDFLOW_CONFIG_DIR": str(folder / "config"),
            "WINDFLOW_SPOOL_DIR": str(folder / "spool"),
            **(environment or {}),
        }

    async def run(self, *arguments: str, stdin: str = "", seconds: float = PATIENCE_SECONDS) -> Done:
        """Run a command to its end."""
        async with self.start(*arguments, stdin=stdin) as running:
            return await running.end(seconds)

    async def login(self, username: str, password: str) -> "Person":
        """Log in; return this person."""
        done = await self.run("login", "--username", username, "--password-stdin", stdin=f"{password}\n")
        assert done.status == 0, done.err
        return self

    @asynccontextmanager
    async def start(self, *arguments: str, stdin: str = "") -> AsyncIterator[Running]:
        """Run a command beside the test; what still runs at the end of the block is killed."""
        process = await asyncio.create_subprocess_exec(
            *WINDFLOW, *arguments, env=self.environment, cwd=self.folder,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        running = Running(process)
        running.read(process.stdout, "out")
        running.read(process.stderr, "err")
        process.stdin.write(stdin.encode())
        process.stdin.close()
        try:
            yield running
        finally:
            await _finish(process)

    @asynccontextmanager
    async def start_on_terminal(self, *arguments: str) -> AsyncIterator[tuple[Running, int]]:
        """Run a command on a terminal of 80 columns; also give the terminal, to type on it."""
        master, slave = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            *WINDFLOW, *arguments, env={**self.environment, "TERM": "xterm", "LINES": "24", "COLUMNS": "80"},
            cwd=self.folder, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        running = Running(process)
        stream = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        file = os.fdopen(os.dup(master), "rb", buffering=0)
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), file)
        running.read(stream, "out")
        try:
            yield running, master
        finally:
            await _finish(process)
            transport.close()
            os.close(master)


async def shown(person: Person, deployment_id: str) -> dict[str, Any]:
    """Return a deployment as `show` tells it."""
    found: dict[str, Any] = (await person.run("show", deployment_id, "--json")).json()
    return found


async def lines_of(person: Person, deployment_id: str) -> list[str]:
    """Return the lines of a deployment's log; they must be numbered from 1 without a gap."""
    done = await person.run("logs", deployment_id, "--json")
    assert done.status == 0, done.err
    items = [json.loads(line) for line in done.out.splitlines()]
    assert [item["line"] for item in items] == list(range(1, len(items) + 1))
    return [item["text"] for item in items]


def python(source: str) -> tuple[str, ...]:
    """Return the arguments that deploy a Python program."""
    return ("--", sys.executable, "-c", source)


@asynccontextmanager
async def server_on_port(folder: Path, port: int, settings: Mapping[str, str] | None = None) -> AsyncIterator[None]:
    """Run a server on the data of `folder` and on a port that an earlier one had; settings as `server_process`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WINDFLOW_")}
    environment |= {"PYTHONPATH": str(REPOSITORY), "WINDFLOW_DATA_DIR": str(folder / "data")}
    environment |= {f"WINDFLOW_{name}": value for name, value in (settings or {}).items()}
    with (folder / "second.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *WINDFLOW, "--json", "serve", "--port", str(port), env=environment, cwd=folder,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=log,
        )  # fmt: skip
    assert process.stdout is not None
    try:
        assert await asyncio.wait_for(process.stdout.readline(), PATIENCE_SECONDS)
        yield
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), PATIENCE_SECONDS) == 0
    finally:
        await _finish(process)


async def _finish(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()
    # The transports end with the process; leaving them to the collector would warn.
    process._transport.close()  # type: ignore[attr-defined]
