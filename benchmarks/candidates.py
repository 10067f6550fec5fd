"""The servers that are measured: how each is started, and what its clients say first.

Every one takes the same two messages: `auth`, answered by one message, makes a connection a subscriber;
`bench_publish` with `n` sends n events of 306 bytes to all of them.
"""

import json
import os
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.build import build
from benchmarks.failure import BenchmarkError
from benchmarks.processes import Child

ROOT = Path(__file__).resolve().parent.parent
PLUGINS = Path(__file__).resolve().parent / "plugins"
SOCKET_PATH = "/api/v1/ws"
START_SECONDS = 60.0
PASSWORD = "only for this measurement"
SUBSCRIBED = ("CUSTOM_EVENT", "NOTIFICATION_SENT", "DEPLOYMENT_STATUS_CHANGED")
"""Three types, as a client that shows something has them; the events are of the first."""

# Everything that would refuse a client because there are so many of one user on one machine, or the one plugin because
# it publishes so much; no other limit is touched, so budgets and deadlines are those of every server.
RAISED = dict.fromkeys(
    ("MAX_CONNECTIONS", "MAX_CONNECTIONS_PER_USER", "MAX_UNAUTHENTICATED", "MAX_UNAUTHENTICATED_PER_ADDRESS"),
    "100000",
) | dict.fromkeys(("INBOUND_PER_MINUTE", "INBOUND_BURST", "BROADCASTS_PER_CALL"), "1000000000")


@dataclass(frozen=True, slots=True)
class Server:
    """A running candidate."""

    name: str
    child: Child
    port: int
    greeting: str | None
    """What a client says first; None: nothing."""


Start = Callable[[str, Path, int | None], Server]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A server that can be started."""

    name: str
    title: str
    start: Start

    @contextmanager
    def running(self, folder: Path, core: int | None) -> Iterator[Server]:
        """Run it in a folder, on a core, until the block ends; raise BenchmarkError where it does not start."""
        folder.mkdir(parents=True, exist_ok=True)
        server = self.start(self.name, folder, core)
        try:
            yield server
        finally:
            server.child.stop()


def _started(child: Child, greeting: str | None) -> Server:
    """Return the server whose first line tells its port."""
    try:
        return Server(child.name, child, int(child.hear(START_SECONDS)["port"]), greeting)
    except BaseException:
        child.stop()
        raise


_PLAIN_GREETING = '{"type":"auth","token":"any"}'


def _module(name: str, greeting: str | None) -> Start:
    def start(title: str, folder: Path, core: int | None) -> Server:
        command = [sys.executable, "-m", f"benchmarks.servers.{name}"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return _started(Child(title, command, core=core, environment=environment, folder=folder), greeting)

    return start


def _floor(title: str, folder: Path, core: int | None) -> Server:
    return _started(Child(title, [str(build("floor"))], core=core, folder=folder), _PLAIN_GREETING)


def windflow_of(tree: Path, prefix: Sequence[str] = ()) -> Start:
    """Return how the server of a source tree is started; `prefix` stands before the command."""

    def start(title: str, folder: Path, core: int | None) -> Server:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WINDFLOW_")}
        own = {
            **RAISED,
            "ADMIN_PASSWORD": PASSWORD,
            "DATA_DIR": str(folder / "data"),
            "PLUGINS_DIR": str(PLUGINS),
            "LOG_LEVEL": "WARNING",
            "ACCESS_TOKEN_SECONDS": "86400",
        }
        child = Child(
            title,
            [
                *prefix,
                sys.executable,
                "-c",
                "from backend.app.cli import main; main()",
                "--json",
                "serve",
                "--port",
                "0",
            ],
            core=core,
            # The tree goes before the installed package, which is a link to the working copy.
            environment=kept | {f"WINDFLOW_{name}": value for name, value in own.items()} | {"PYTHONPATH": str(tree)},
            folder=folder,
        )
        try:
            url = child.hear(START_SECONDS)["url"]
            return Server(title, child, urllib.parse.urlsplit(url).port or 0, _greeting(_login(url)))
        except BaseException:
            child.stop()
            raise

    return start


def _login(url: str) -> str:
    form = urllib.parse.urlencode({"username": "admin", "password": PASSWORD}).encode()
    try:
        with urllib.request.urlopen(f"{url}/api/v1/auth/login", form, timeout=START_SECONDS) as answer:
            token: str = json.load(answer)["access_token"]
            return token
    except OSError as error:
        raise BenchmarkError(f"no login: {error}") from error


def _greeting(token: str) -> str:
    subscriptions = [{"event_type": name} for name in SUBSCRIBED]
    return json.dumps({"type": "auth", "token": token, "data": {"subscriptions": subscriptions}})


OURS = Candidate("windflow", "WindFlow", windflow_of(ROOT))
FLOOR = Candidate("floor", "C, one `write` per socket", _floor)
UVLOOP_TCP = Candidate("uvloop_tcp", "uvloop TCP, no web server", _module("uvloop_tcp", _PLAIN_GREETING))
AWAIT_SEND = Candidate("await_send", "FastAPI, `await send` in a loop", _module("await_send", _PLAIN_GREETING))
PLAIN_FASTAPI = Candidate("plain_fastapi", "FastAPI, accept only", _module("plain_fastapi", None))
