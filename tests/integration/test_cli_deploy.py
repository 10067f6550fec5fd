"""`windflow deploy` against a real server: output, exit statuses, and a server that goes away."""

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.integration.cli_process import Person, lines_of, python, server_on_port, shown
from tests.integration.server_process import PASSWORD, ServerProcess, server_process
from tests.proving import measured
from tests.services import database_name

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(
    module_database: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ServerProcess]:
    async with server_process(tmp_path_factory.mktemp("deploy") / "server", module_database) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def admin(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Person:
    return await Person(server.url, tmp_path_factory.mktemp("admin")).login("admin", PASSWORD)


async def test_output_status_and_exit_code_pass_through(admin: Person) -> None:
    """Exit status: the command's; its lines and its end are at the server."""
    async with admin.start("deploy", "--name", "my app", "--", "sh", "-c", "echo one; echo two >&2; exit 3") as run:
        deployment_id = await run.deployment_id()
        done = await run.end()
    assert done.status == 3
    assert done.out.split() == ["one", "two"]
    assert await lines_of(admin, deployment_id) == ["one", "two"]
    found = await shown(admin, deployment_id)
    assert (found["name"], found["status"], found["exitCode"]) == ("my app", "failed", 3)
    assert found["program"] == "sh"
    assert f"/deployments/{deployment_id}" in done.err


@pytest.mark.parametrize(
    ("arguments", "status", "state"),
    [
        (("--", "true"), 0, "success"),
        (("--", "false"), 1, "failed"),
        (("true",), 0, "success"),
        (("--", "sh", "-c", "kill -USR1 $$"), 128 + signal.SIGUSR1, "failed"),
        (("--", "no-such-command-anywhere"), 127, "failed"),
        (("--", "/etc/passwd"), 126, "failed"),
        (("--timeout", "0.5", "--", "sleep", "60"), 124, "failed"),
    ],
)
async def test_exit_statuses_follow_the_table(
    admin: Person, arguments: tuple[str, ...], status: int, state: str
) -> None:
    """The command's, 128+n on a signal, 126/127 not startable; a time-out is 124. The server knows each end."""
    done = await admin.run("deploy", "--json", *arguments)
    assert done.status == status, done.err
    told = done.json()
    assert told["status"] == state
    found = await shown(admin, told["deploymentId"])
    assert found["status"] == state
    if state == "failed":
        assert found["reason"]


async def test_unfriendly_output_arrives_complete(admin: Person, module_database: dict[str, str]) -> None:
    """Carriage returns, colours, 5,000 lines in a burst, 900 KiB in a line, invalid UTF-8, no final newline.

    It arrives complete, in order, once: after `\\r` the last state, invalid bytes as U+FFFD.
    """
    source = """
import sys
w = sys.stdout.buffer.write
for n in range(101):
    w(b"\\rPulling %d%%" % n)
w(b"\\n")
w(b"\\x1b[32mgreen\\x1b[0m\\n")
for n in range(5000):
    w(b"line %d\\n" % n)
w(b"x" * 921600 + b"\\n")
w(b"bad \\xff\\xfe byte\\n")
w("unicode ✓ é".encode() + b"\\n")
w(b"no newline")
"""
    started = time.monotonic()
    done = await admin.run("deploy", "--json", *python(source))
    seconds = time.monotonic() - started
    assert done.status == 0, done.err
    assert done.json()["undeliveredLines"] == 0
    lines = await lines_of(admin, done.json()["deploymentId"])
    assert lines[:2] == ["Pulling 100%", "\x1b[32mgreen\x1b[0m"]
    assert lines[2:5002] == [f"line {n}" for n in range(5000)]
    assert lines[5002] == "x" * 921600
    assert lines[5003:] == ["bad \ufffd\ufffd byte", "unicode ✓ é", "no newline"]
    measured(
        f"A burst of 5,000 lines with one of 900 KiB, kept in order and once ({database_name(module_database)})",
        f"{len(lines):,} of 5,006 lines; from starting `deploy` to its end {seconds:.1f} s",
        "all",
    )


async def test_an_overlong_line_is_cut_with_its_mark(admin: Person) -> None:
    """A line of 2 MiB is cut with its mark."""
    done = await admin.run("deploy", "--json", "--no-pty", *python("print('y' * 2097152); print('after')"))
    assert done.status == 0, done.err
    long, after = await lines_of(admin, done.json()["deploymentId"])
    assert long.startswith("y" * 1000)
    assert long.endswith("of 2097152 bytes kept]")
    assert after == "after"
    kept = re.search(r"(\d+) of 2097152 bytes kept\]$", long)
    assert kept
    measured("Kept of a line of 2 MiB, with its mark", f"{int(kept[1]):,} bytes", "1 MiB, the longest line")


async def test_raw_bytes_reach_this_terminal(admin: Person) -> None:
    """The command's output is shown as it comes, colours and carriage returns kept, on a terminal of its own."""
    source = "import os; os.write(1, b'\\x1b[31mred\\x1b[0m\\ra\\rb\\n##progress 50 Half\\n'); print(os.isatty(1))"
    async with admin.start("deploy", *python(source)) as run:
        deployment_id = await run.deployment_id()
        done = await run.end()
    assert done.out == "\x1b[31mred\x1b[0m\ra\rb\r\nTrue\r\n"
    found = await shown(admin, deployment_id)
    assert (found["progress"], found["step"]) == (50, "Half")
    assert await lines_of(admin, deployment_id) == ["b", "True"]


async def test_progress_is_found_by_expression(admin: Person) -> None:
    """--progress-regex (groups percent, step) finds progress in lines, also in one that redraws itself."""
    source = "import sys; sys.stdout.write('10% of a\\r70% of b\\r'); sys.stdout.flush()"
    expression = r"(?P<percent>\d+)% of (?P<step>\w+)"
    done = await admin.run("deploy", "--json", "--progress-regex", expression, *python(source))
    found = await shown(admin, done.json()["deploymentId"])
    assert (found["progress"], found["step"]) == (70, "b")


async def test_secrets_and_the_command_line_stay_here(server: ServerProcess, tmp_path: Path) -> None:
    """--mask masks values in lines and in the command line; that is sent only with --show-command."""
    admin = await Person(server.url, tmp_path / "p", {"SECRET": "hunter2hunter2"}).login("admin", PASSWORD)
    command = ("--", "sh", "-c", "echo pw=$SECRET; true hunter2hunter2")
    done = await admin.run("deploy", "--json", "--mask", "SECRET", "--show-command", *command)
    deployment_id = done.json()["deploymentId"]
    assert await lines_of(admin, deployment_id) == ["pw=***"]
    program = (await shown(admin, deployment_id))["program"]
    assert program.startswith("sh -c ")
    assert "hunter2" not in program
    quiet = await admin.run("deploy", "--json", *command)
    assert (await shown(admin, quiet.json()["deploymentId"]))["program"] == "sh"


async def test_streams_can_be_kept_apart(admin: Person) -> None:
    """--split: two pipes; the server knows each line's stream, this terminal gets each on its own."""
    async with admin.start("deploy", "--split", "--", "sh", "-c", "echo out; echo err >&2") as run:
        deployment_id = await run.deployment_id()
        done = await run.end()
    assert done.out == "out\n"
    assert "\nerr\n" in f"\n{done.err}"
    items = [json.loads(line) for line in (await admin.run("logs", deployment_id, "--json")).out.splitlines()]
    assert {(item["text"], item["stream"]) for item in items} == {("out", "out"), ("err", "err")}


async def test_input_folder_and_quiet(admin: Person, tmp_path: Path) -> None:
    """stdin is passed through, --cwd sets the folder, --quiet shows none of the output."""
    done = await admin.run("deploy", "--quiet", "--cwd", str(tmp_path), "--", "sh", "-c", "cat; pwd", stdin="typed\n")
    assert done.status == 0
    assert done.out == ""
    listed = (await admin.run("list", "--json")).json()["items"]
    assert await lines_of(admin, listed[0]["id"]) == ["typed", str(tmp_path)]


async def test_json_is_all_of_stdout(admin: Person) -> None:
    """`--json` prints machine-readable output on stdout only; the command's output goes to stderr."""
    done = await admin.run("deploy", "--json", "--", "echo", "hello")
    told = done.json()
    assert told["exitCode"] == 0
    assert told["isStatusDelivered"] is True
    assert "hello" in done.err


async def test_a_server_that_restarts_misses_nothing(own_database: dict[str, str], tmp_path: Path) -> None:
    """The server being away in the middle: the command goes on, and every line is delivered once, in order."""
    go, source = tmp_path / "go", "for n in range(200): print('early', n, flush=True)\n"
    source += f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.02)\n"
    source += "for n in range(200): print('late', n, flush=True)\n"
    async with server_process(tmp_path / "server", own_database) as first:
        port = int(first.url.rpartition(":")[2])
        admin = await Person(first.url, tmp_path / "admin").login("admin", PASSWORD)
        starting = admin.start("deploy", "--deliver-for", "120", *python(source))
        run = await starting.__aenter__()
        deployment_id = await run.deployment_id()
        await run.until_out("early 199")
        first.process.kill()
        await first.process.wait()
    go.touch()
    await run.until_out("late 199")
    await run.until_err("does not answer")
    async with server_on_port(tmp_path / "server", port, own_database):
        done = await run.end()
        await starting.__aexit__(None, None, None)
        assert done.status == 0
        expected = [f"{word} {n}" for word in ("early", "late") for n in range(200)]
        assert await lines_of(admin, deployment_id) == expected
        assert (await shown(admin, deployment_id))["status"] == "success"


async def test_a_server_that_stays_away_changes_no_exit_status(tmp_path: Path) -> None:
    """Failing delivery never changes the exit status; what was not delivered is said."""
    go = tmp_path / "go"
    source = f"import os, time\nprint('up', flush=True)\nwhile not os.path.exists({str(go)!r}): time.sleep(0.02)\n"
    source += "print('lost'); raise SystemExit(7)"
    async with server_process(tmp_path / "server") as server:
        admin = await Person(server.url, tmp_path / "admin").login("admin", PASSWORD)
        starting = admin.start("deploy", "--deliver-for", "0.5", *python(source))
        run = await starting.__aenter__()
        await run.until_out("up")
        await run.deployment_id()
        server.process.kill()
        await server.process.wait()
    go.touch()
    done = await run.end()
    await starting.__aexit__(None, None, None)
    assert done.status == 7
    assert "and the end (failed) were not delivered: connection refused" in done.err


async def test_a_closed_pipe_does_not_stop_the_deployment(admin: Person) -> None:
    """`windflow deploy … | head -1`: the reader leaving ends the showing, not the command."""
    read_end, write_end = os.pipe()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from backend.app.cli import main; main()",
        "deploy", "--name", "piped", "--", "sh", "-c", "echo a; sleep 0.3; echo b; sleep 0.3; echo c",
        env=admin.environment, stdin=asyncio.subprocess.DEVNULL, stdout=write_end, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    os.close(write_end)
    os.set_blocking(read_end, True)
    assert (await asyncio.to_thread(os.read, read_end, 10)).startswith(b"a")
    os.close(read_end)
    _, err = await process.communicate()
    assert process.returncode == 0, err
    listed = (await admin.run("list", "--json")).json()["items"]
    assert await lines_of(admin, listed[0]["id"]) == ["a", "b", "c"]


async def test_a_terminal_shows_a_bar_below_the_output(admin: Person) -> None:
    """Live progress at the bottom of a terminal, never in the middle of a line; typing reaches the command."""
    source = (
        "print('first', flush=True); print('##progress 40 Pulling images', flush=True);"
        "name = input(); print('hello', name)"
    )
    async with admin.start_on_terminal("deploy", *python(source)) as (run, terminal):
        await run.until(lambda seen: "40%" in seen.out and "Pulling images" in seen.out)
        os.write(terminal, b"anna\n")
        done = await run.end()
    assert done.status == 0
    assert "hello anna" in done.out
    assert "##progress" not in done.out
    assert done.out.index("first") < done.out.index("40%") < done.out.index("hello anna")
