"""The application under a stock uvicorn, without our protocol class: the endpoint falls back to `send`."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect

from tests.integration.metrics_page import metric
from tests.integration.server_process import PASSWORD, START_SECONDS, ServerProcess
from tests.integration.sockets import open_socket
from tests.integration.spools import free_port

OUTBOUND_BYTES = 200_000

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(
    module_database: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ServerProcess]:
    folder: Path = tmp_path_factory.mktemp("uvicorn")
    port, log = free_port(), folder / "server.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WINDFLOW_")}
    environment |= {
        "WINDFLOW_ADMIN_PASSWORD": PASSWORD,
        "WINDFLOW_DATA_DIR": str(folder / "data"),
        "WINDFLOW_OUTBOUND_BYTES": str(OUTBOUND_BYTES),
        "WINDFLOW_WRITE_STALL_SECONDS": "2",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    environment |= {f"WINDFLOW_{name}": value for name, value in module_database.items()}
    with log.open("ab") as sink:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "uvicorn", "--factory", "backend.app.main:create_app", "--port", str(port),
            "--ws", "websockets-sansio",
            cwd=folder, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=sink, stderr=sink,
        )  # fmt: skip
    running = ServerProcess(process, f"http://127.0.0.1:{port}", log)
    try:
        async with asyncio.timeout(START_SECONDS), httpx.AsyncClient() as client:
            while True:
                try:
                    if (await client.get(f"{running.url}/readyz")).status_code == 200:
                        break
                except httpx.TransportError:
                    assert process.returncode is None, log.read_text(encoding="utf-8")
                await asyncio.sleep(0.05)
        yield running
    finally:
        await running.stop()


async def test_events_commands_and_the_close_work_by_plain_send(server: ServerProcess) -> None:
    """Without the frame writer (another server, tests) the endpoint falls back to `send`."""
    token = await server.login()
    async with open_socket(server.socket_url, token, subscriptions=[{"event_type": "*"}]) as watching:
        async with server.client(token) as client:
            made = [(await client.post("/deployments", json={"name": f"app {n}"})).json()["id"] for n in range(5)]
        seen = [(await watching.until("DEPLOYMENT_CREATED"))["data"]["deploymentId"] for _ in made]
        assert seen == made
        assert (await watching.ask("ping"))["type"] == "pong"
        async with server.client(token) as client:
            assert (await client.post("/auth/logout", json={})).status_code == 204
        assert (await watching.closed())[0] == 4503


async def test_a_wrong_token_is_told_in_the_close_reason(server: ServerProcess) -> None:
    """1008 with the reason, also by plain `send`."""
    async with open_socket(server.socket_url) as unknown:
        await unknown.send("auth", token="nonsense")
        assert await unknown.closed() == (1008, "Invalid token")


async def test_a_reader_that_stops_keeps_its_budget_and_is_ended(server: ServerProcess) -> None:
    """By plain `send`, too: over its budget it falls back to the log, it is ended once it takes nothing for the
    write stall, and others get every event.
    """
    token = await server.login()
    wanted = [{"event_type": "DEPLOYMENT_LOGS_UPDATE"}]
    async with connect(server.socket_url, compression=None, max_size=None, max_queue=1) as stalled:
        await stalled.send(
            f'{{"type": "auth", "data": {{"token": "{token}", "subscriptions": [{{"event_type": "*"}}]}}}}'
        )
        await stalled.recv()
        stalled.transport.pause_reading()
        async with open_socket(server.socket_url, token, subscriptions=wanted) as good, server.client(token) as client:
            deployment_id = (await client.post("/deployments", json={"name": "app"})).json()["id"]
            reports = 0
            while await metric(server.url, "windflow_connections") != 1:
                assert reports < 300, "the stalled reader was never ended"
                assert await metric(server.url, "windflow_connection_queued_bytes") <= OUTBOUND_BYTES + 2 * 50_000
                body = {"firstLine": 1 + reports * 50, "lines": [{"text": "x" * 1000}] * 50}
                (await client.post(f"/deployments/{deployment_id}/logs", json=body)).raise_for_status()
                reports += 1
                assert (await good.until("DEPLOYMENT_LOGS_UPDATE"))["data"]["firstLine"] == 1 + (reports - 1) * 50
        stalled.transport.abort()
