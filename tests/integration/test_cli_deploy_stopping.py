"""`windflow deploy` that is stopped: by Ctrl-C, by a signal, by somebody else."""

import signal
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.integration.cli_process import Person, python, shown
from tests.integration.server_process import PASSWORD, ServerProcess, server_process
from tests.plugin_world import until
from tests.proving import IS_PROVING, measured

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(
    module_database: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ServerProcess]:
    async with server_process(tmp_path_factory.mktemp("stopping") / "server", module_database) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def admin(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Person:
    return await Person(server.url, tmp_path_factory.mktemp("admin")).login("admin", PASSWORD)


STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal, time\\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\\ntime.sleep(300)"], start_new_session=True)
print("pids", os.getpid(), child.pid, flush=True)
time.sleep(300)
"""  # noqa: E501


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def test_ctrl_c_ends_all_that_the_command_started(admin: Person) -> None:
    """Ctrl-C stops the whole process group, TERM then KILL, reports `cancelled` and exits 130.

    A child that ignores TERM and one that forks are gone 12 s after Ctrl-C, with the default durations.
    """
    options = () if IS_PROVING else ("--kill-after", "0.5")
    async with admin.start("deploy", *options, *python(STUBBORN)) as run:
        deployment_id = await run.deployment_id()
        await run.until(lambda seen: "pids" in seen.out and seen.out.endswith("\n"))
        pids = [int(word) for word in run.out.split("pids")[1].split()[:2]]
        assert all(is_alive(pid) for pid in pids)
        started = time.monotonic()
        run.signal(signal.SIGINT)
        await until(lambda: not any(is_alive(pid) for pid in pids), 36)
        seconds = time.monotonic() - started
        done = await run.end(30)
    assert done.status == 130
    measured(
        "From Ctrl-C until a command that ignores it and TERM, and its child in a session of its own, are gone",
        f"{seconds:.1f} s",
        "12 s",
    )
    found = await shown(admin, deployment_id)
    assert (found["status"], found["reason"]) == ("cancelled", "stopped with Ctrl-C")


async def test_a_second_ctrl_c_kills_at_once(admin: Person) -> None:
    """A second Ctrl-C does not wait for --kill-after."""
    async with admin.start("deploy", "--kill-after", "600", *python(STUBBORN)) as run:
        deployment_id = await run.deployment_id()
        await run.until(lambda seen: "pids" in seen.out)
        run.signal(signal.SIGINT)
        await run.until_err("stopping the command")
        run.signal(signal.SIGINT)
        done = await run.end(30)
    assert done.status == 130
    assert (await shown(admin, deployment_id))["status"] == "cancelled"


async def test_sigterm_is_like_ctrl_c(admin: Person) -> None:
    """A CI job that is ended stops its command and reports it."""
    async with admin.start("deploy", "--", "sh", "-c", "echo up; sleep 300") as run:
        deployment_id = await run.deployment_id()
        await run.until_out("up")
        run.signal(signal.SIGTERM)
        done = await run.end(30)
    assert done.status == 130
    assert (await shown(admin, deployment_id))["status"] == "cancelled"


async def test_a_cancel_by_somebody_else_stops_a_silent_command(admin: Person) -> None:
    """ "Cancel" in the console stops the command, silent or not, and it is reported `cancelled`."""
    async with admin.start("deploy", "--", "sh", "-c", "echo up; exec sleep 300") as run:
        deployment_id = await run.deployment_id()
        await run.until_out("up")
        asked = await admin.run("cancel", deployment_id, "--reason", "wrong branch")
        assert asked.status == 0
        assert "was asked to stop" in asked.out
        done = await run.end(30)
    assert done.status == 130
    found = await shown(admin, deployment_id)
    assert found["status"] == "cancelled"
    again = await admin.run("cancel", deployment_id)
    assert again.status == 1


async def test_ctrl_c_on_a_terminal(admin: Person) -> None:
    """The Ctrl-C that is typed acts on the deployment as a whole."""
    async with admin.start_on_terminal("deploy", "--", "sh", "-c", "echo up; exec sleep 300") as (run, terminal):
        deployment_id = await run.deployment_id()
        await run.until_out("up")
        run.signal(signal.SIGINT)
        done = await run.end(30)
    assert done.status == 130
    assert (await shown(admin, deployment_id))["status"] == "cancelled"
