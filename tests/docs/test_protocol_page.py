"""docs/protocol.md says what a real server does: its conversations are replayed, its messages compared."""

import asyncio
import json
import signal
import uuid
from pathlib import Path

import pytest
from websockets.client import ClientProtocol
from websockets.uri import parse_uri

from backend.app.schemas.websocket_events import WebSocketEventType
from tests.docs.conftest import DocsServer
from tests.docs.markdown_files import all_blocks, blocks, read
from tests.docs.transcripts import replay, unlike
from tests.integration.server_process import server_process
from tests.integration.sockets import open_socket

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGE = "docs/protocol.md"


async def create(server: DocsServer) -> str:
    """Create a deployment as an operator, and return its id."""
    async with server.process.client(server.people.tokens["olga"]) as client:
        answer = await client.post("/deployments", json={"deploymentId": str(uuid.uuid4()), "name": "web"})
        assert answer.status_code == 201, answer.text
        deployment_id: str = answer.json()["id"]
        return deployment_id


@pytest.mark.parametrize("block", blocks(PAGE, "transcript"), ids=lambda block: block.place)
async def test_the_conversation_happens_as_printed(block: object, docs_server: DocsServer) -> None:
    """The conversation of the page, message by message."""
    (transcript,) = [each for each in blocks(PAGE, "transcript") if each == block]
    names = {"DEPLOYMENT": await create(docs_server), "TOKEN": await docs_server.process.login("olga")}
    async with open_socket(docs_server.process.socket_url, docs_server.people.tokens["olga"]) as socket:
        assert await replay(transcript, socket, names) >= 8


async def test_the_first_answer_has_the_printed_shape(docs_server: DocsServer) -> None:
    """The answer to `auth`, always the first message of the server."""
    (printed,) = [json.loads(block.text) for block in blocks(PAGE, "json") if '"AUTH_LOGIN_SUCCESS",\n' in block.text]
    async with open_socket(docs_server.process.socket_url, docs_server.people.tokens["olga"]) as socket:
        assert unlike({**printed, "timestamp": "…"}, socket.seen[0]) is None


async def test_an_event_has_the_printed_shape(docs_server: DocsServer) -> None:
    """An event of class stream has `id`, `stream` and `offset`; fields without a value are absent."""
    (printed,) = [
        json.loads(block.text) for block in blocks(PAGE, "json") if '"type": "DEPLOYMENT_STATUS_CHANGED"' in block.text
    ]
    deployment_id = await create(docs_server)
    async with open_socket(docs_server.process.socket_url, docs_server.people.tokens["olga"]) as socket:
        await socket.ask("subscribe", {"event_type": "DEPLOYMENT_STATUS_CHANGED", "deployment_id": deployment_id})
        async with docs_server.process.client(docs_server.people.tokens["olga"]) as client:
            await client.put(f"/deployments/{deployment_id}/status", json={"status": "running"})
        received = await socket.until("DEPLOYMENT_STATUS_CHANGED")
        assert unlike({**printed, "timestamp": "…"}, received) is None


async def test_an_error_has_the_printed_shape(docs_server: DocsServer) -> None:
    """`details` names each broken rule by field."""
    (printed,) = [json.loads(block.text) for block in blocks(PAGE, "json") if '"invalid_message"' in block.text]
    async with open_socket(docs_server.process.socket_url, docs_server.people.tokens["olga"]) as socket:
        await socket.send("subscribe", {}, id=7)
        assert unlike({**printed, "timestamp": "…"}, await socket.receive()) is None


async def test_a_server_that_stops_says_so_in_the_printed_words(tmp_path: Path) -> None:
    """A server that stops tells each socket when to come back, and closes it with 1012."""
    (printed,) = [json.loads(block.text) for block in blocks(PAGE, "json") if '"server_restarting"' in block.text]
    async with server_process(tmp_path) as server, open_socket(server.socket_url, await server.login()) as socket:
        server.process.send_signal(signal.SIGTERM)
        received = await socket.receive()
        assert (await socket.closed())[0] == 1012
    details = received["data"]["details"]
    assert details["retryAfterMs"] >= 1000
    details["retryAfterMs"] = printed["data"]["details"]["retryAfterMs"]
    assert unlike({**printed, "timestamp": "…"}, received) is None


async def test_who_comes_back_as_printed_gets_what_was_missed(docs_server: DocsServer) -> None:
    """Coming back: positions and subscriptions of the `auth` message, `from_line` for the log."""
    (printed,) = [json.loads(block.text) for block in blocks(PAGE, "json") if '"from_line": 73512' in block.text]
    token = docs_server.people.tokens["olga"]
    deployment_id = await create(docs_server)
    async with open_socket(docs_server.process.socket_url, token) as socket:
        positions = socket.seen[0]["data"]["positions"]
    async with docs_server.process.client(token) as client:
        await client.put(f"/deployments/{deployment_id}/status", json={"status": "running"})
        await client.post(f"/deployments/{deployment_id}/logs", json={"firstLine": 1, "lines": [{"text": "one"}]})
    wanted = printed["data"]["subscriptions"]
    wanted[1] |= {"deployment_id": deployment_id, "from_line": 1}
    async with open_socket(docs_server.process.socket_url, token, positions=positions, subscriptions=wanted) as socket:
        assert socket.seen[0]["data"]["refused"] == []
        missed: set[str] = set()
        while missed != {"DEPLOYMENT_STATUS_CHANGED", "DEPLOYMENT_LOGS_UPDATE"}:
            message = await socket.receive()
            if message["data"].get("deploymentId") == deployment_id:
                missed.add(message["type"])


async def test_who_answers_no_ping_is_closed_with_4012(tmp_path: Path) -> None:
    """Heartbeat: who says nothing is closed with 4012."""
    assert "Who says nothing is closed with 4012" in read(PAGE)
    async with server_process(tmp_path, {"HEARTBEAT_SECONDS": "0.2", "PONG_TIMEOUT_SECONDS": "0.2"}) as server:
        uri = parse_uri(server.socket_url)
        client = ClientProtocol(uri)
        reader, writer = await asyncio.open_connection(uri.host, uri.port)
        try:
            client.send_request(client.connect())
            writer.writelines(client.data_to_send())
            client.receive_data(await reader.readuntil(b"\r\n\r\n"))
            token = await server.login()
            client.send_text(json.dumps({"type": "auth", "token": token}).encode())
            writer.writelines(client.data_to_send())
            async with asyncio.timeout(10):
                while client.close_rcvd is None and (data := await reader.read(4096)):
                    client.receive_data(data)  # the pongs that it makes are never sent
            assert client.close_rcvd is not None
            assert client.close_rcvd.code == 4012
        finally:
            writer.close()


async def test_printed_json_is_json() -> None:
    """Each json block of the documentation is one JSON value; messages in it have a type that exists."""
    kinds = {member.value for member in WebSocketEventType}
    for block in all_blocks("json"):
        value = json.loads(block.text)
        name = value.get("type", "")
        assert not name.isupper() or name in kinds, block.place
