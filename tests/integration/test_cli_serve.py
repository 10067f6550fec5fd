"""`windflow serve`: banner, ports, locks, and starts that fail in one line."""

import re
import signal
import socket
from pathlib import Path

import httpx
import pytest

from tests.integration.cli_process import Person


@pytest.fixture
def operator(tmp_path: Path) -> Person:
    person = Person("http://127.0.0.1:9", tmp_path, {"WINDFLOW_LOG_LEVEL": "WARNING"})
    del person.environment["WINDFLOW_SERVER_URL"]
    return person


async def test_the_banner_is_all_one_needs(operator: Person, own_database: dict[str, str]) -> None:
    """Address, first password once, login command; stopping it is status 0 and the password is not shown again."""
    operator.environment |= {f"WINDFLOW_{name}": value for name, value in own_database.items()}
    async with operator.start("serve", "--port", "0") as server:
        await server.until_out("Ctrl-C")
        found = re.search(r"windflow (login (http://127\.0\.0\.1:\d+) --username admin)", server.out)
        assert found
        password = re.search(r"password (\S+) \(shown only now\)", server.out)
        assert password
        async with httpx.AsyncClient(base_url=found[2]) as client:
            assert (await client.get("/livez")).status_code == 200
            home = await client.get("/", follow_redirects=True)
            assert home.url.path == "/docs"
            assert "server" not in home.headers
        done = await operator.run(*found[1].split(), "--password-stdin", stdin=f"{password[1]}\n")
        assert done.status == 0, done.err
        deployed = await operator.run("deploy", "--", "echo", "hello")
        assert (deployed.status, deployed.out) == (0, "hello\r\n")
        server.signal(signal.SIGTERM)
        assert (await server.end()).status == 0
    async with operator.start("serve", "--port", "0") as again:
        await again.until_out("Ctrl-C")
        assert "password" not in again.out
        again.signal(signal.SIGINT)
        assert (await again.end()).status == 0


async def test_two_servers_do_not_share_a_folder(operator: Person, own_database: dict[str, str]) -> None:
    """The data folder is locked: a second server on it says so in one line, exit 1."""
    operator.environment |= {f"WINDFLOW_{name}": value for name, value in own_database.items()}
    async with operator.start("serve", "--port", "0") as server:
        await server.until_out("Ctrl-C")
        second = await operator.run("serve", "--port", "0")
        assert second.status == 1
        assert second.err == "windflow: cannot start: another server runs on the data folder data\n"
        assert second.out == ""
        server.signal(signal.SIGTERM)
        await server.end()


async def test_a_taken_port(operator: Person) -> None:
    """A taken port is one clear line; with --port-fallback the next free one, with a line saying so."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = await operator.run("serve", "--port", str(port))
        assert refused.status == 1
        assert refused.err == f"windflow: cannot listen on 127.0.0.1:{port}: Address already in use\n"
        async with operator.start("serve", "--port", str(port), "--port-fallback") as server:
            await server.until_out("Ctrl-C")
            assert f"Port {port} is taken; using " in server.out
            assert f"http://127.0.0.1:{port}\n" not in server.out
            server.signal(signal.SIGTERM)
            assert (await server.end()).status == 0


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"WINDFLOW_PORT": "many"}, "WINDFLOW_PORT"),
        (
            {"WINDFLOW_DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none", "WINDFLOW_DATABASE_START_SECONDS": "0"},
            "cannot start",
        ),
        (
            {"WINDFLOW_DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none", "WINDFLOW_DATABASE_START_SECONDS": "1"},
            "cannot start",
        ),
        ({"WINDFLOW_ADMIN_PASSWORD": "short"}, "WINDFLOW_ADMIN_PASSWORD"),
        ({"WINDFLOW_DATA_DIR": "/proc/nowhere"}, "/proc/nowhere"),
    ],
)
async def test_a_start_that_fails_is_one_line(operator: Person, settings: dict[str, str], complaint: str) -> None:
    """A start-up failure is one clear line, exit 1, without a traceback."""
    operator.environment.update(settings)
    done = (
        await operator.run("serve", "--port", "0") if "WINDFLOW_PORT" not in settings else await operator.run("serve")
    )
    assert done.status == 1
    assert complaint in done.err
    assert "Traceback" not in done.err
    assert [line for line in done.err.splitlines() if line.startswith("windflow: ")] == [done.err.splitlines()[-1]]
