"""A real server process on a free port, with a data folder of its own, for a plugin's tests.

Invariant: the process has ended when `run_server` is left, whatever happened meanwhile.
"""

import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

START_SECONDS = 60.0
STOP_SECONDS = 30.0
_LOG_CHARACTERS = 4000


class LiveServer:
    """A running server. `client` is logged in as its administrator; paths are relative to `/api/v1/`."""

    def __init__(self, url: str, client: httpx.Client, token: str, log: Path) -> None:
        self.url = url
        self.client = client
        self.token = token
        self.log = log

    @property
    def socket_url(self) -> str:
        """The address of the WebSocket endpoint."""
        return self.url.replace("http", "ws", 1) + "/api/v1/ws"

    def logged(self) -> list[dict[str, Any]]:
        """The records that the server has logged so far."""
        lines = self.log.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def plugin(self, name: str) -> dict[str, Any]:
        """What the server says of a plugin: `state`, `reason`, `calls`, `failures`, `lastError` and more."""
        answer = self.client.get(f"plugins/{name}")
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found


@contextmanager
def run_server(folder: Path, plugins: str | Path | None, settings: Mapping[str, Any]) -> Iterator[LiveServer]:
    """Run a server in a folder, with the plugins of another one; raise RuntimeError with its log if it does not start.

    `settings` are names without `WINDFLOW_`; those of the test's own environment do not count.
    """
    folder.mkdir(parents=True)
    log, password = folder / "server.log", secrets.token_urlsafe(24)
    given = {"ADMIN_PASSWORD": password, "DATA_DIR": folder / "data", "LOG_FORMAT": "json"}
    if plugins is not None:
        given["PLUGINS_DIR"] = Path(plugins).absolute()
    given |= {name.upper(): value for name, value in settings.items()}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WINDFLOW_")}
    environment |= {f"WINDFLOW_{name}": str(value) for name, value in given.items()}
    command = (sys.executable, "-c", "from backend.app.cli import main; main()", "--json", "serve", "--port", "0")
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=sink
        )
    try:
        url = _address(process, log)
        token = _login(url, password)
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=f"{url}/api/v1/", headers=headers, timeout=30) as client:
            yield LiveServer(url, client, token, log)
    finally:
        _stop(process)


def _address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """Return the address that the server prints when it takes requests."""
    assert process.stdout is not None
    too_late = threading.Timer(START_SECONDS, process.kill)
    too_late.start()
    try:
        line = process.stdout.readline()
    finally:
        too_late.cancel()
    if not line:
        text = log.read_text(encoding="utf-8", errors="replace")[-_LOG_CHARACTERS:]
        raise RuntimeError(f"the server did not start within {START_SECONDS:g} s:\n{text}")
    url: str = json.loads(line)["url"]
    return url


def _login(url: str, password: str) -> str:
    answer = httpx.post(f"{url}/api/v1/auth/login", data={"username": "admin", "password": password}, timeout=30)
    answer.raise_for_status()
    token: str = answer.json()["access_token"]
    return token


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
