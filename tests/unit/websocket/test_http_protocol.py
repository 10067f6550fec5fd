"""The HTTP protocol class under a small application: when the slowness is ours, and when an answer has begun."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from backend.app.config import Settings
from backend.app.websocket.http_protocol import http_protocol
from tests.integration.raw_http import raw

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

START: Message = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]}


@asynccontextmanager
async def serving(application: Application, **settings: Any) -> AsyncIterator[str]:
    """Serve the application on a port of its own; yield its address."""
    protocol = http_protocol(Settings(**settings))
    config = uvicorn.Config(application, port=0, http=protocol, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    # uvicorn makes the default headers with its first tick.
    await server.on_tick(0)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.force_exit = True
        await server.shutdown()
        assert not protocol.waiting


async def test_a_body_that_the_application_does_not_take_is_not_late() -> None:
    """A body stalls when its client does; while the server itself does not read, nobody is late."""
    size = 4_000_000

    async def application(scope: Message, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.5)  # longer than a pause may be: what comes meanwhile is not read
        taken = 0
        while taken < size:
            taken += len((await receive())["body"])
        await send(START)
        await send({"type": "http.response.body", "body": b"done"})

    async with serving(application, http_body_stall_seconds=0.2) as url, raw(url) as client:
        client.send(f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n")
        client.send(b"x" * size)
        assert await client.status() == 200
        assert await client.reader.readexactly(4) == b"done"


async def test_an_answer_that_has_begun_gets_no_second_head() -> None:
    """A body that stalls after its answer has begun ends the connection; the application hears that nobody is there."""
    heard: list[str] = []
    ended = asyncio.Event()

    async def application(scope: Message, receive: Receive, send: Send) -> None:
        await send(START)
        await send({"type": "http.response.body", "body": b"do", "more_body": True})
        while not heard or heard[-1] != "http.disconnect":
            heard.append((await receive())["type"])
        await send({"type": "http.response.body", "body": b"ne"})
        ended.set()

    async with serving(application, http_body_stall_seconds=0.2) as url, raw(url) as client:
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nx")
        assert await client.status() == 200
        assert await client.end() == b"do"
        await asyncio.wait_for(ended.wait(), 10)
    assert heard == ["http.request", "http.disconnect"]


async def test_pipelined_requests_are_answered_in_order() -> None:
    """Requests that come in one piece are answered one by one; the time of a head is not that of an answer."""
    paths: list[str] = []

    async def application(scope: Message, receive: Receive, send: Send) -> None:
        paths.append(scope["path"])
        await asyncio.sleep(0.3)  # longer than a head may take
        await send(START)
        await send({"type": "http.response.body", "body": b"done"})

    async with serving(application, http_header_timeout_seconds=0.2) as url, raw(url) as client:
        client.send("".join(f"GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n" for number in range(3)))
        for _ in range(3):
            assert await client.status() == 200
            assert await client.reader.readexactly(4) == b"done"
    assert paths == ["/0", "/1", "/2"]
