"""A real server process on a free port, for tests that need real sockets, signals and folders."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

PASSWORD = "correct horse battery"
START_SECONDS = 30.0
STOP_SECONDS = 20.0


class ServerProcess:
    """One `windflow serve`, its address, its log, and a REST client with the first admin's token."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self.log = log

    @property
    def socket_url(self) -> str:
        """The address of the WebSocket endpoint."""
        return self.url.replace("http", "ws", 1) + "/api/v1/ws"

    def logged(self) -> list[dict[str, Any]]:
        """The JSON records that the server has logged so far."""
        lines = self.log.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    async def login(self, username: str = "admin", password: str = PASSWORD) -> str:
        """Return an access token."""
        async with httpx.AsyncClient(base_url=self.url, timeout=30) as client:
            answer = await client.post("/api/v1/auth/login", data={"username": username, "password": password})
            answer.raise_for_status()
            token: str = answer.json()["access_token"]
            return token

    def client(self, token: str) -> httpx.AsyncClient:
        """Return a REST client that sends a token; to be closed by the caller."""
        return httpx.AsyncClient(
            base_url=f"{self.url}/api/v1", headers={"Authorization": f"Bearer {token}"}, timeout=30
        )

    async def stop(self) -> int:
        """Send SIGTERM and return the exit status; kill what does not end."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self.process.wait(), STOP_SECONDS)
            except TimeoutError:
                self.process.kill()
                await self.process.wait()
        assert self.process.returncode is not None
        return self.process.returncode


@asynccontextmanager
async def server_process(
    folder: Path,
    settings: Mapping[str, str] | None = None,
    *,
    port: int = 0,
    descriptors: int | None = None,
    variables: Mapping[str, str] | None = None,
) -> AsyncIterator[ServerProcess]:
    """Run a server in a folder of its own; `settings` are WINDFLOW_ names without the prefix.

    `descriptors` is the hard limit of its file descriptors, `variables` are further ones of its environment.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "server.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WINDFLOW_")}
    given = {"ADMIN_PASSWORD": PASSWORD, "DATA_DIR": str(folder / "data"), "LOG_FORMAT": "json", **(settings or {})}
    environment |= {f"WINDFLOW_{name}": value for name, value in given.items()} | dict(variables or {})
    with log.open("ab") as sink:
        limit = ("sh", "-c", f'ulimit -n {descriptors} && exec "$@"', "sh") if descriptors else ()
        process = await asyncio.create_subprocess_exec(
            *limit, sys.executable, "-c", "from backend.app.cli import main; main()",
            "--json", "serve", "--port", str(port),
            cwd=folder, env={**environment, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=sink,
        )  # fmt: skip
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), START_SECONDS)
        assert line, f"the server did not start:\n{log.read_text(encoding='utf-8')}"
        server = ServerProcess(process, json.loads(line)["url"], log)
        yield server
        await server.stop()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        # The pipe's transport ends with the process; leaving it to the collector would warn.
        process._transport.close()  # type: ignore[attr-defined]
