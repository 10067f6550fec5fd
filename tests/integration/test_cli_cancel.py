"""A cancel reaches the command: from REST and the command line, over the socket and with the answers to reports."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect

from tests.integration.cli_process import Person, Running
from tests.integration.server_process import PASSWORD, ServerProcess, server_process
from tests.integration.sockets import Socket
from tests.integration.spools import lines_of, place_of, printed, shown, waiting_command

pytestmark = pytest.mark.asyncio(loop_scope="module")

SILENT = {"WINDFLOW_RUNNER_HEARTBEAT_SECONDS": "3600"}
"""So long that no report could bring a cancel within the test's time."""
DEAF = """
import signal, time
signal.signal(signal.SIGTERM, lambda *_: print("asked to end", flush=True))
print("up", flush=True)
while True: time.sleep(0.1)
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(
    module_database: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ServerProcess]:
    async with server_process(tmp_path_factory.mktemp("cancel") / "server", module_database) as running:
        yield running


async def person(server: ServerProcess, folder: Path, environment: dict[str, str] | None = None) -> Person:
    return await Person(server.url, folder / "admin", environment).login("admin", PASSWORD)


async def until_subscribed(server: ServerProcess) -> None:
    """Wait until some socket has a subscription."""
    async with asyncio.timeout(30), httpx.AsyncClient(base_url=server.url) as client:
        while True:
            if re.search(r"^windflow_subscriptions [1-9]", (await client.get("/metrics")).text, re.MULTILINE):
                return
            await asyncio.sleep(0.05)


async def ended_cancelled(run: Running, admin: Person, deployment_id: str) -> None:
    done = await run.end(60)
    assert done.status == 130, done.err
    found = await shown(admin, deployment_id)
    assert (found["status"], found["cancelRequested"]) == ("cancelled", True)


async def test_a_cancel_over_rest_is_pushed_to_the_runner(server: ServerProcess, tmp_path: Path) -> None:
    """POST …/cancel: DEPLOYMENT_CANCEL_REQUESTED comes over the socket, at once, with no report in between."""
    admin = await person(server, tmp_path, SILENT)
    async with admin.start("deploy", "--", "sh", "-c", "echo up; exec sleep 600") as run:
        deployment_id = await run.deployment_id()
        await run.until_out("up")
        await until_subscribed(server)
        async with server.client(await server.login()) as client:
            answer = await client.post(f"/deployments/{deployment_id}/cancel", json={"reason": "wrong branch"})
            assert answer.status_code == 202
        await ended_cancelled(run, admin, deployment_id)


async def test_a_cancel_reaches_a_runner_without_a_socket(own_database: dict[str, str], tmp_path: Path) -> None:
    """Where a runner can have no socket, the answers to its heartbeats say `cancelRequested`."""
    async with server_process(tmp_path / "server", {"MAX_CONNECTIONS_PER_USER": "1"} | own_database) as small:
        admin = await person(small, tmp_path, {"WINDFLOW_RUNNER_HEARTBEAT_SECONDS": "2"})
        async with connect(small.socket_url) as connection:
            only = Socket(connection)
            await only.send("auth", token=await small.login())
            await only.until("AUTH_LOGIN_SUCCESS")
            async with admin.start("deploy", "--", "sh", "-c", "echo up; exec sleep 600") as run:
                deployment_id = await run.deployment_id()
                await run.until_out("up")
                asked = await admin.run("cancel", deployment_id)
                assert "was asked to stop" in asked.out
                await ended_cancelled(run, admin, deployment_id)


async def test_a_command_that_does_not_end_is_killed(server: ServerProcess, tmp_path: Path) -> None:
    """`windflow cancel ID`: TERM, then KILL after --kill-after; reported `cancelled`."""
    admin = await person(server, tmp_path)
    async with admin.start("deploy", "--kill-after", "0.5", "--", sys.executable, "-c", DEAF) as run:
        deployment_id = await run.deployment_id()
        await run.until_out("up")
        assert (await admin.run("cancel", deployment_id, "--reason", "enough")).status == 0
        await ended_cancelled(run, admin, deployment_id)
    assert await lines_of(admin, deployment_id) == ["up", "asked to end"]


async def test_a_cancel_while_nobody_holds_the_lease(tmp_path: Path) -> None:
    """The server sets `cancelled` itself only when nobody holds the lease; a runner that comes back stops its command,
    and its lines are still taken."""
    settings = {"DEPLOYMENT_LEASE_SECONDS": "2", "LEASE_SWEEP_SECONDS": "3600"}
    async with place_of(tmp_path / "server", settings) as place:
        admin = await place.admin(tmp_path / "admin", {"WINDFLOW_RUNNER_HEARTBEAT_SECONDS": "0.5"})
        await place.start()
        gate = tmp_path / "gate"
        command = waiting_command(("early", gate), ("late", None), then="time.sleep(600)")
        async with admin.start("deploy", *command) as run:
            deployment_id = await run.deployment_id()
            await place.until_line(deployment_id, 100)
            run.signal(signal.SIGSTOP)
            gate.touch()
            await place.until_lapsed(deployment_id)
            asked = await admin.run("cancel", deployment_id)
            assert "no runner held it" in asked.out
            assert (await shown(admin, deployment_id))["status"] == "cancelled"
            run.signal(signal.SIGCONT)
            done = await run.end()
        assert done.status == 130
        assert "was ended on the server (cancelled)" not in done.err, "both sides agree on the end"
        assert await lines_of(admin, deployment_id) == printed("early", "late")
        assert not os.listdir(tmp_path / "admin" / "spool")


async def test_a_cancel_while_the_server_is_away_at_the_start(tmp_path: Path) -> None:
    """A deployment that became known late can be cancelled like any other."""
    async with place_of(tmp_path / "server") as place:
        admin: Person = await place.admin(tmp_path / "admin", SILENT)
        async with admin.start("deploy", "--", "sh", "-c", "echo up; exec sleep 600") as run:
            deployment_id = await run.deployment_id()
            await run.until_err("starts anyway")
            await run.until_out("up")
            server = await place.start()
            await place.until_line(deployment_id, 1)
            await until_subscribed(server)
            assert (await admin.run("cancel", deployment_id)).status == 0
            await ended_cancelled(run, admin, deployment_id)
