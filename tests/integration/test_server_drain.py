"""SIGTERM and SIGINT to a server that has clients: `windflow serve` takes its leave in order, and in its time."""

import asyncio
import json
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.integration.cli_process import Person, Running
from tests.integration.metrics_page import metric
from tests.integration.raw_http import Raw, raw
from tests.integration.server_process import PASSWORD, ServerProcess, server_process
from tests.integration.sockets import Socket, open_socket
from tests.proving import amount, measured
from tests.waiting import eventually

MANY = {
    "MAX_CONNECTIONS": "2000",
    "MAX_CONNECTIONS_PER_USER": "2000",
    "MAX_UNAUTHENTICATED_PER_ADDRESS": "2000",
    "OUTBOUND_BYTES": "50000000",
}
PATIENCE_SECONDS = 60.0


async def end(server: ServerProcess) -> int:
    return await asyncio.wait_for(server.process.wait(), PATIENCE_SECONDS)


async def is_draining(server: ServerProcess) -> bool:
    """Ask over a new connection: the listener must be open."""
    async with httpx.AsyncClient(base_url=server.url) as client:
        ready = await client.get("/readyz")
        return ready.status_code == 503 and ready.json()["reasons"] == ["draining"]


async def is_closed_to_new_ones(server: ServerProcess) -> bool:
    try:
        async with raw(server.url):
            return False
    except ConnectionRefusedError:
        return True


@asynccontextmanager
async def stuck_client(server: ServerProcess, token: str) -> AsyncIterator[Raw]:
    """A client that subscribed and reads nothing while megabytes are due to it."""
    async with raw(server.url, receive_buffer=4096) as client, server.client(token) as rest:
        assert await client.upgrade() == 101
        client.say("auth", token=token, data={"subscriptions": [{"event_type": "DEPLOYMENT_LOGS_UPDATE"}]})
        assert (await client.frame())[0] == 1
        deployment = (await rest.post("/deployments", json={"name": "loud"})).json()["id"]
        line = 0

        async def something_waits() -> bool:
            nonlocal line
            line += 1
            body = {"firstLine": line, "lines": [{"text": "x" * 500_000}]}
            assert (await rest.post(f"/deployments/{deployment}/logs", json=body)).status_code == 200
            return await metric(server.url, "windflow_connection_queued_bytes") > 100_000

        await eventually(something_waits)
        yield client


async def test_clients_are_told_and_closed_in_order(own_database: dict[str, str], tmp_path: Path) -> None:
    """/readyz is 503 while the listener is open; each client gets `retryAfterMs`, spread, then 1012; status 0.

    One of them does not read: it is cut. New sockets are told the same. Old ones are served meanwhile.
    """
    count = amount(24, 500)
    settings = {**MANY, "DRAIN_NOTICE_SECONDS": "2", "CLOSE_TIMEOUT_SECONDS": "1", "DRAIN_BATCH": "10"}
    async with server_process(tmp_path, settings | own_database) as server, AsyncExitStack() as stack:
        token = await server.login()
        await stack.enter_async_context(stuck_client(server, token))
        sockets: list[Socket] = []
        for _ in range(count):
            sockets.append(await stack.enter_async_context(open_socket(server.socket_url, token)))
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        await eventually(lambda: is_draining(server))

        async def takes_its_leave(socket: Socket) -> tuple[int, int]:
            message = await socket.until("WEBSOCKET_ERROR", PATIENCE_SECONDS)
            assert message["data"]["code"] == "server_restarting"
            code, _ = await socket.closed(PATIENCE_SECONDS)
            return code, message["data"]["details"]["retryAfterMs"]

        # Before the sockets are closed they work as ever.
        await sockets[0].connection.send("ping")
        await sockets[0].until("pong")
        async with open_socket(server.socket_url) as late:
            await late.until(lambda message: message["data"].get("code") == "server_restarting")
            assert (await late.closed())[0] == 1012
        assert sockets[0].connection.close_code is None
        sockets[0].seen.clear()
        ends = await asyncio.gather(*map(takes_its_leave, sockets[1:]))
        assert {code for code, _ in ends} == {1012}
        delays = sorted(delay for _, delay in ends)
        # From 1 s on, over 5 ms for each socket.
        assert delays[0] >= 1000
        assert delays[-1] <= 1000 + 5 * (count + 1)
        assert len(set(delays)) > min(count, 100) / 2
        assert (await sockets[0].closed(PATIENCE_SECONDS))[0] == 1012
        assert await end(server) == 0
        took = time.monotonic() - started
        assert took < 30
        assert not [record for record in server.logged() if record["level"] == "ERROR"]
        (drained,) = [record for record in server.logged() if record["message"] == "sockets drained"]
        assert drained["sockets"] == count + 1
        measured(f"SIGTERM with {count} clients, one stuck", f"exit after {took:.1f} s", "2 s of notice, at most 30 s")


async def test_without_clients_it_ends_at_once(own_database: dict[str, str], tmp_path: Path) -> None:
    """With no connections nothing is waited for: neither the time of the drain nor that of a handshake."""
    settings = {"DRAIN_SECONDS": "3600", "CLOSE_TIMEOUT_SECONDS": "3600"}
    async with (
        server_process(tmp_path, settings | own_database) as server,
        httpx.AsyncClient(base_url=server.url) as idle,
        raw(server.url) as silent,
        raw(server.url) as unauthenticated,
    ):
        assert (await idle.get("/livez")).status_code == 200
        silent.send("GET /livez HTTP")
        assert await unauthenticated.upgrade() == 101
        server.process.send_signal(signal.SIGINT)
        assert (await unauthenticated.frame()) == (8, (1012).to_bytes(2, "big"))
        assert await end(server) == 0


async def test_a_client_that_does_not_answer_the_close_is_cut(own_database: dict[str, str], tmp_path: Path) -> None:
    """A client that never finishes its closing handshake is cut in time; status 0."""
    async with server_process(tmp_path, {"CLOSE_TIMEOUT_SECONDS": "0.5"} | own_database) as server:
        token = await server.login()
        async with raw(server.url) as client:
            assert await client.upgrade() == 101
            client.say("auth", token=token)
            assert b"AUTH_LOGIN_SUCCESS" in (await client.frame())[1]
            server.process.send_signal(signal.SIGTERM)
            opcode, notice = await client.frame()
            assert (opcode, json.loads(notice)["data"]["code"]) == (1, "server_restarting")
            opcode, close = await client.frame()
            assert (opcode, close[:2]) == (8, (1012).to_bytes(2, "big"))
            # It says nothing, and leaves its side open.
            await client.end(PATIENCE_SECONDS)
            assert await end(server) == 0


@pytest.mark.parametrize(("second", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
async def test_a_second_signal_ends_at_once(
    own_database: dict[str, str], tmp_path: Path, second: signal.Signals, status: int
) -> None:
    """A second signal exits at once, with status 128 + its number; the data folder is free for the next server."""
    settings = {"DRAIN_SECONDS": "3600", "DRAIN_NOTICE_SECONDS": "1800"}
    async with server_process(tmp_path, settings | own_database) as server:
        server.process.send_signal(signal.SIGTERM)
        await eventually(lambda: is_draining(server))
        server.process.send_signal(second)
        assert await end(server) == 128 + second == status
    async with server_process(tmp_path, own_database) as next_one:
        assert await next_one.stop() == 0


async def test_a_running_request_is_answered(own_database: dict[str, str], tmp_path: Path) -> None:
    """Requests that run when the listener closes get their answer."""
    async with server_process(tmp_path, own_database) as server:
        token = await server.login()
        async with raw(server.url) as client:
            body = json.dumps({"name": "web"})
            client.send(
                f"POST /api/v1/deployments HTTP/1.1\r\nHost: {client.host}\r\nAuthorization: Bearer {token}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body[:5]}"
            )
            await eventually(lambda: has_requests(server))
            server.process.send_signal(signal.SIGTERM)
            await eventually(lambda: is_closed_to_new_ones(server))
            client.send(body[5:])
            assert await client.status() == 201
            assert await end(server) == 0


async def has_requests(server: ServerProcess) -> bool:
    """Another request was answered: what was sent before it has arrived."""
    async with httpx.AsyncClient(base_url=server.url) as client:
        return (await client.get("/livez")).status_code == 200


async def test_a_request_that_does_not_end_is_cut(own_database: dict[str, str], tmp_path: Path) -> None:
    """A slow POST does not hold the server: it is cut when its share is over; status 0."""
    async with server_process(tmp_path, {"DRAIN_SECONDS": "3"} | own_database) as server:
        token = await server.login()
        async with raw(server.url) as client:
            client.send(
                f"POST /api/v1/deployments HTTP/1.1\r\nHost: {client.host}\r\nAuthorization: Bearer {token}\r\n"
                "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
            )
            await eventually(lambda: has_requests(server))
            server.process.send_signal(signal.SIGTERM)
            await client.end(PATIENCE_SECONDS)
            assert await end(server) == 0
        # It ended by itself: it was not cut off at the very end.
        assert not [record for record in server.logged() if "shutdown did not end" in record["message"]]


PLUGIN = """
import asyncio, pathlib, threading, time
from backend.app.websocket.plugin import WebSocketPlugin

class RudePlugin(WebSocketPlugin):
    event_types = []

    async def {hook}(self, context=None):
        pathlib.Path("reached").touch()
        {code}
"""


def rude_plugin(folder: Path, hook: str, code: str) -> dict[str, str]:
    """Write a plugin with one hook; return the setting that finds it."""
    (folder / "plugins").mkdir(parents=True)
    (folder / "plugins" / "rude.py").write_text(PLUGIN.format(hook=hook, code=code), encoding="utf-8")
    return {"PLUGINS_DIR": str(folder / "plugins")}


@pytest.mark.parametrize(
    "code",
    [
        "await asyncio.sleep(3600)",
        "time.sleep(3600)",
        "threading.Thread(target=time.sleep, args=(3600,)).start()",
        "asyncio.get_running_loop().run_in_executor(None, time.sleep, 3600)",
        "raise SystemExit(7)",
    ],
    ids=["waits", "blocks", "leaves a thread", "leaves the executor's thread", "exits"],
)
async def test_a_plugin_does_not_hold_the_shutdown(own_database: dict[str, str], tmp_path: Path, code: str) -> None:
    """Status 0 within DRAIN_SECONDS, whatever a plugin does in `shutdown`."""
    settings = {**rude_plugin(tmp_path, "shutdown", code), "DRAIN_SECONDS": "4", "PLUGIN_TIMEOUT_SECONDS": "0.5"}
    async with server_process(tmp_path, settings | own_database) as server:
        server.process.send_signal(signal.SIGTERM)
        assert await end(server) == 0
        assert (tmp_path / "reached").exists()


async def test_what_was_cut_off_is_named(own_database: dict[str, str], tmp_path: Path) -> None:
    """A shutdown that is cut off says where it stood."""
    settings = {**rude_plugin(tmp_path, "shutdown", "time.sleep(3600)"), "DRAIN_SECONDS": "1"}
    async with server_process(tmp_path, settings | own_database) as server:
        server.process.send_signal(signal.SIGTERM)
        assert await end(server) == 0
        (record,) = [record for record in server.logged() if "shutdown did not end" in record["message"]]
        assert record["level"] == "ERROR"
        assert "rude.py:10 (shutdown)" in record["message"]


@pytest.mark.parametrize("code", ["await asyncio.sleep(3600)", "time.sleep(3600)"], ids=["waits", "blocks"])
async def test_a_signal_during_the_start(tmp_path: Path, code: str) -> None:
    """A signal during the start ends it: no address is printed, status 0."""
    settings = {**rude_plugin(tmp_path, "startup", code), "DRAIN_SECONDS": "4", "PLUGIN_TIMEOUT_SECONDS": "2"}
    operator = Person("", tmp_path, {f"WINDFLOW_{name}": value for name, value in settings.items()})
    del operator.environment["WINDFLOW_SERVER_URL"]

    async def is_starting() -> bool:
        return (tmp_path / "reached").exists()

    async with operator.start("serve", "--port", "0") as starting:
        await eventually(is_starting)
        starting.signal(signal.SIGTERM)
        done = await starting.end()
        assert (done.status, done.out) == (0, "")
    again = await operator.run("db", "upgrade")
    assert again.status == 0, again.err


async def test_under_another_server_sockets_are_closed_with_1012(tmp_path: Path) -> None:
    """Under another server than `windflow serve` sockets close with 1012 and the application stops in order."""
    operator = Person("", tmp_path, {"WINDFLOW_ADMIN_PASSWORD": PASSWORD})
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "uvicorn", "--factory", "backend.app.main:create_app", "--port", "0",
        "--ws", "websockets-sansio", env=operator.environment, cwd=tmp_path,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    running = Running(process)
    assert process.stderr is not None
    running.read(process.stderr, "err")
    try:
        await running.until_err("(Press CTRL+C to quit)")
        found = re.search(r"running on (http://\S+)", running.err)
        assert found
        server = ServerProcess(process, found[1], tmp_path / "none")
        async with open_socket(server.socket_url, await server.login()) as socket:
            process.send_signal(signal.SIGTERM)
            assert (await socket.closed())[0] == 1012
        # uvicorn ends by the signal that it got.
        assert (await running.end()).status == -signal.SIGTERM
        assert "Application shutdown complete" in running.err
        assert "Traceback" not in running.err
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        process._transport.close()  # type: ignore[attr-defined]
