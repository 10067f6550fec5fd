"""What a client can leave undone in HTTP: heads, bodies and answers have their time and size. On raw sockets."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from tests.integration.metrics_page import metric
from tests.integration.raw_http import UPGRADE, Raw, raw
from tests.integration.server_process import ServerProcess, server_process
from tests.integration.sockets import open_socket
from tests.proving import amount
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

SETTINGS = {
    "HTTP_HEADER_TIMEOUT_SECONDS": "1",
    "HTTP_BODY_STALL_SECONDS": "1",
    "HTTP_BODY_TIMEOUT_SECONDS": "2",
    "HTTP_RESPONSE_STALL_SECONDS": "0.5",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerProcess]:
    folder: Path = tmp_path_factory.mktemp("http")
    async with server_process(folder, SETTINGS) as running:
        yield running
        assert await running.stop() == 0
        assert not [record for record in running.logged() if record["level"] == "ERROR"]


def cut(reason: str) -> str:
    return f'windflow_http_connections_cut_total{{reason="{reason}"}}'


async def refused(client: Raw, status: int, code: str) -> str:
    """The connection is answered with an error, and closed; return its message."""
    head = await client.head()
    assert head.startswith(f"HTTP/1.1 {status} ")
    assert "\r\nConnection: close\r\n" in head
    body = json.loads(await client.end())
    assert (body["code"], body["details"], body["requestId"]) == (code, None, None)
    message: str = body["message"]
    return message


def headers(count: int) -> str:
    return "".join(f"X-{number}: 1\r\n" for number in range(count))


# ---- heads ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", ["", "GET /livez HT", "GET /livez HTTP/1.1\r\nHost: a\r\n"])
async def test_half_a_head_is_closed(server: ServerProcess, sent: str) -> None:
    """A connection that has not completed a request's head in time is closed, counted, and told why if it began."""
    before = await metric(server.url, cut("head timeout"))
    async with raw(server.url) as client:
        client.send(sent)
        if sent:
            await refused(client, 408, "invalid_message")
        else:
            assert await client.end() == b""
    assert await metric(server.url, cut("head timeout")) == before + 1


async def test_a_head_that_trickles_is_closed(server: ServerProcess) -> None:
    """Each byte that comes does not start the time anew."""
    async with raw(server.url) as client:
        answer = asyncio.create_task(client.end(30))
        for byte in b"GET /livez HTTP/1.1\r\nX-Long: " + b"x" * 1000:
            client.send(bytes([byte]))
            done, _ = await asyncio.wait({answer}, timeout=0.05)
            if done:
                break
        assert (await answer).startswith(b"HTTP/1.1 408 ")


async def test_the_head_of_a_later_request_has_its_time_too(server: ServerProcess) -> None:
    """Also between requests of one connection."""
    async with raw(server.url) as client:
        client.send("GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        assert await client.status() == 200
        assert await client.reader.readexactly(2) == b"ok"
        client.send("GET /li")
        await refused(client, 408, "invalid_message")


async def test_many_half_heads_hold_nothing(server: ServerProcess) -> None:
    """Half a request line × 500: all are closed, others are served meanwhile, no descriptor is left."""
    count = amount(100, 500)
    before = await metric(server.url, "process_open_fds")
    async with AsyncExitStack() as stack, httpx.AsyncClient(base_url=server.url) as control:
        clients = [await stack.enter_async_context(raw(server.url)) for _ in range(count)]
        for client in clients:
            client.send("GET /livez HT")
        assert (await control.get("/livez")).status_code == 200
        ends = await asyncio.gather(*(client.end(30) for client in clients))
        assert all(end.startswith(b"HTTP/1.1 408 ") for end in ends)

    async def are_free() -> bool:
        return await metric(server.url, "process_open_fds") <= before

    await eventually(are_free)


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("HEAD", 405)])
async def test_128_headers_are_served_and_129_refused(server: ServerProcess, method: str, status: int) -> None:
    """More than 128 headers are answered 431, and closed; never held open."""
    async with raw(server.url) as client:
        client.send(f"{method} /livez HTTP/1.1\r\nHost: a\r\n{headers(127)}\r\n")
        assert await client.status() == status
    async with raw(server.url) as client:
        client.send(f"{method} /livez HTTP/1.1\r\nHost: a\r\n{headers(128)}\r\n")
        assert "128 headers" in await refused(client, 431, "message_too_large")


@pytest.mark.parametrize("pieces", [1, 40])
async def test_a_head_over_its_size_is_refused(server: ServerProcess, pieces: int) -> None:
    """A head over 32 KiB is answered 431, whether it comes in one piece or in many."""
    async with raw(server.url) as client:
        head = f"GET /livez HTTP/1.1\r\nHost: a\r\nX-Long: {'x' * 40_000}\r\n\r\n"
        step = -(-len(head) // pieces)
        for start in range(0, len(head), step):
            client.send(head[start : start + step])
            await client.writer.drain()
        await refused(client, 431, "message_too_large")


@pytest.mark.parametrize("sent", ["\x00\x01\x02\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "HELO\r\nX\r\n\r\n"])
async def test_what_is_no_http_is_refused(server: ServerProcess, sent: str) -> None:
    """Garbage is answered 400, in the shape of all errors, and closed."""
    async with raw(server.url) as client:
        client.send(sent)
        await refused(client, 400, "invalid_message")


async def test_what_was_asked_before_the_garbage_is_answered(server: ServerProcess) -> None:
    """A refusal comes after the answers that are due."""
    async with raw(server.url) as client:
        client.send("GET /livez HTTP/1.1\r\nHost: a\r\n\r\nGARBAGE\r\n\r\n")
        assert await client.status() == 200
        assert await client.reader.readexactly(2) == b"ok"
        await refused(client, 400, "invalid_message")


# ---- upgrades --------------------------------------------------------------------------------------------------


async def test_an_upgrade_with_130_headers_is_refused(server: ServerProcess) -> None:
    """An upgrade with more than 128 headers is answered 431, and closed; with 128 it is served."""
    async with raw(server.url) as client:
        assert await client.upgrade(more=headers(128 - 5)) == 101
    async with raw(server.url) as client:
        client.send(UPGRADE.format(path="/api/v1/ws", host=client.host, more=headers(130 - 5)))
        await refused(client, 431, "message_too_large")


@pytest.mark.parametrize(
    "change",
    [
        ("GET ", "POST "),
        ("\r\n\r\n", "\r\nContent-Length: 5\r\n\r\nhello"),
    ],
    ids=["POST", "a body"],
)
async def test_an_upgrade_that_cannot_be_read_is_refused(server: ServerProcess, change: tuple[str, str]) -> None:
    """What the WebSocket protocol could not read is answered and closed by the HTTP protocol."""
    async with raw(server.url) as client:
        client.send(UPGRADE.format(path="/api/v1/ws", host=client.host, more="").replace(*change, 1))
        assert await client.status() in (400, 405)
        await client.end()


async def test_an_upgrade_may_have_a_long_line(server: ServerProcess) -> None:
    """One header of an upgrade may be as long as one of any request: a cookie of 9,000 bytes is served."""
    async with raw(server.url) as client:
        assert await client.upgrade(more=f"Cookie: {'x' * 9000}\r\n") == 101


async def test_refused_upgrades_do_not_disturb_the_shutdown(tmp_path: Path) -> None:
    """An upgrade with 130 headers held open, then SIGTERM: the shutdown completes, status 0."""
    async with server_process(tmp_path) as server, raw(server.url) as first, raw(server.url) as second:
        first.send(UPGRADE.format(path="/api/v1/ws", host=first.host, more=headers(130)))
        second.send(UPGRADE.format(path="/api/v1/ws", host=first.host, more="").replace("GET", "POST"))
        assert await first.status() == 431
        assert await second.status() == 405
        server.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(server.process.wait(), 30) == 0
        assert not [record for record in server.logged() if record["level"] == "ERROR"]


@pytest.mark.parametrize("log_format", ["json", "text"])
async def test_a_token_in_the_address_is_in_no_log(tmp_path: Path, log_format: str) -> None:
    """Token in URL: refused; not in any line of the log, uvicorn's included, at any level, however it is spelt."""
    async with server_process(tmp_path, {"LOG_LEVEL": "DEBUG", "LOG_FORMAT": log_format}) as server:
        token = await server.login()
        for path in (f"/api/v1/ws?token={token}", f"/api/v1/ws?tok%65n={token}", "/api/v1/ws/?jwt=s3cret-token"):
            async with raw(server.url) as client:
                assert await client.upgrade(path) == 400
        async with raw(server.url) as client:
            assert await client.upgrade("/api/v1/ws?name=s3cret-token") == 101
        async with httpx.AsyncClient(base_url=server.url) as rest:
            assert (await rest.get(f"/api/v1/system?access_token={token}")).status_code == 401
        async with raw(server.url) as client:
            client.send(f"GET /livez?token={token} HTP\r\n\r\n")
            assert await client.status() == 400
        assert await server.stop() == 0
        log = server.log.read_text(encoding="utf-8")
        assert "Invalid HTTP request received." in log
        assert "s3cret-token" not in log
        assert token not in log
        assert token.split(".")[1] not in log


# ---- bodies and answers -----------------------------------------------------------------------------------------

LOGIN = "POST /api/v1/auth/login HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n"


async def test_a_body_that_stalls_is_closed(server: ServerProcess) -> None:
    """A slow POST is bounded: a pause over the limit is answered 408."""
    before = await metric(server.url, cut("body timeout"))
    async with raw(server.url) as client:
        client.send(f"{LOGIN}Content-Length: 1000\r\n\r\nusername=a")
        await refused(client, 408, "invalid_message")
    assert await metric(server.url, cut("body timeout")) == before + 1


async def test_a_body_that_trickles_is_closed(server: ServerProcess) -> None:
    """A body that comes byte by byte is bounded in all."""
    async with raw(server.url) as client:
        client.send(f"{LOGIN}Content-Length: 1000\r\n\r\n")
        answer = asyncio.create_task(client.end(30))
        while not answer.done():
            client.send("x")
            await asyncio.wait({answer}, timeout=0.1)
        assert (await answer).startswith(b"HTTP/1.1 408 ")


async def test_a_body_that_takes_longer_than_a_head_may_is_served(server: ServerProcess) -> None:
    """Head and body have each their own time."""
    async with raw(server.url) as client:
        for part in ("", "user", "name=a", "&pass", "word=b"):
            client.send(part or f"{LOGIN}Content-Length: 21\r\n\r\n")
            await asyncio.sleep(0.3)  # the pause is what is tested
        assert await client.status() == 401


async def test_an_answer_that_is_not_read_is_cut(server: ServerProcess) -> None:
    """A client that takes no byte of its answer is cut, counted."""
    token = await server.login()
    async with server.client(token) as rest:
        deployment = (await rest.post("/deployments", json={"name": "long"})).json()["id"]
        for line in range(1, 13):
            body = {"firstLine": line, "lines": [{"text": "x" * 1_000_000}]}
            assert (await rest.post(f"/deployments/{deployment}/logs", json=body)).status_code == 200
    before = await metric(server.url, cut("answer not taken"))
    async with raw(server.url, receive_buffer=4096) as client:
        client.send(
            f"GET /api/v1/deployments/{deployment}/logs?format=text HTTP/1.1\r\nHost: a\r\n"
            f"Authorization: Bearer {token}\r\n\r\n"
        )

        async def is_cut() -> bool:
            return await metric(server.url, cut("answer not taken")) == before + 1

        await eventually(is_cut)


# ---- how many ----------------------------------------------------------------------------------------------------


async def test_those_who_say_nothing_give_way(tmp_path: Path) -> None:
    """When there is no room, a connection that sent no head for a second gives way to a new one; sockets stay."""
    settings = {"MAX_TCP_CONNECTIONS": "20", "HTTP_HEADER_TIMEOUT_SECONDS": "3600"}
    async with server_process(tmp_path, settings) as server, AsyncExitStack() as stack:
        token = await server.login()
        socket = await stack.enter_async_context(open_socket(server.socket_url, token))
        silent = [await stack.enter_async_context(raw(server.url)) for _ in range(40)]

        async def is_served() -> bool:
            try:
                return await metric(server.url, cut("no room")) > 20
            except httpx.TransportError:
                return False

        await eventually(is_served)
        ended = sum(client.reader.at_eof() for client in silent)
        assert 20 < ended < 40
        await socket.connection.send("ping")
        await socket.until("pong")


async def test_the_server_lives_within_its_descriptors(tmp_path: Path) -> None:
    """By default there are fewer connections than descriptors. Those that say nothing give way: health answers."""
    async with server_process(tmp_path, descriptors=128) as server, AsyncExitStack() as stack:
        (room,) = [record for record in server.logged() if record["message"] == "room for connections"]
        assert (room["max_connections"], room["max_tcp_connections"], room["descriptors"]) == (80, 80, 128)
        clients = [await stack.enter_async_context(raw(server.url)) for _ in range(300)]
        for client in clients:
            client.send("GET /livez HT")
        await asyncio.sleep(1.1)  # from a second on the silent ones give way
        async with httpx.AsyncClient(base_url=server.url) as control:
            assert (await control.get("/livez")).status_code == 200
            assert (await control.get("/readyz")).status_code == 200
        assert await server.login()
        assert not [record for record in server.logged() if record["level"] in ("WARNING", "ERROR")]


async def test_running_out_of_descriptors_ends_nothing(tmp_path: Path) -> None:
    """When accepting fails the server neither spins nor dies: open sockets are served, new ones once there is room."""
    settings = {"MAX_TCP_CONNECTIONS": "100000", "DATABASE_READ_CONNECTIONS": "1"}
    async with server_process(tmp_path, settings, descriptors=128) as server, AsyncExitStack() as stack:
        (warning,) = [record for record in server.logged() if record["level"] == "WARNING"]
        assert "more connections are allowed than there are file descriptors" in warning["message"]
        socket = await stack.enter_async_context(open_socket(server.socket_url, await server.login()))
        async with AsyncExitStack() as crowd:
            for _ in range(300):
                await crowd.enter_async_context(raw(server.url))
            before = cpu_seconds(server)
            await asyncio.sleep(1)  # the time in which it could spin
            assert cpu_seconds(server) - before < 0.7
            await socket.connection.send("ping")
            await socket.until("pong")
        await eventually(lambda: is_alive(server))
        assert await server.login()


async def is_alive(server: ServerProcess) -> bool:
    try:
        return await metric(server.url, "process_open_fds") > 0
    except httpx.TransportError:
        return False


def cpu_seconds(server: ServerProcess) -> float:
    """The CPU time that a server has used."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text(encoding="utf-8").rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
