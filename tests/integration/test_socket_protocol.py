"""The wire protocol, sentence by sentence, against a real server process."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from backend.app.contract.hashes import contract_hash
from backend.app.schemas.websocket_events import core_catalogue
from tests.integration.people import People, make_people
from tests.integration.server_process import PASSWORD, ServerProcess, server_process
from tests.integration.sockets import Socket, open_socket

pytestmark = pytest.mark.asyncio(loop_scope="module")

SETTINGS = {
    "AUTH_TIMEOUT_SECONDS": "1",
    "INBOUND_PER_MINUTE": "6000",
    "INBOUND_BURST": "1000",
    "MAX_SUBSCRIPTIONS": "25",
    "MAX_CONNECTIONS_PER_USER": "5",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(
    module_database: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ServerProcess]:
    folder: Path = tmp_path_factory.mktemp("protocol")
    async with server_process(folder, {**SETTINGS, **module_database}) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def people(server: ServerProcess) -> People:
    return await make_people(server)


async def create(server: ServerProcess, token: str, name: str = "web") -> str:
    async with server.client(token) as client:
        answer = await client.post("/deployments", json={"name": name})
        assert answer.status_code == 201, answer.text
        deployment_id: str = answer.json()["id"]
        return deployment_id


async def append(server: ServerProcess, token: str, deployment_id: str, first: int, *texts: str) -> None:
    async with server.client(token) as client:
        body = {"firstLine": first, "lines": [{"text": text} for text in texts]}
        answer = await client.post(f"/deployments/{deployment_id}/logs", json=body)
        assert answer.status_code == 200, answer.text


async def set_status(server: ServerProcess, token: str, deployment_id: str, status: str) -> None:
    async with server.client(token) as client:
        answer = await client.put(f"/deployments/{deployment_id}/status", json={"status": status})
        assert answer.status_code == 200, answer.text


# ---- the auth phase -------------------------------------------------------------------------------


async def test_the_first_answer_is_auth_login_success(server: ServerProcess, people: People) -> None:
    """Answer: AUTH_LOGIN_SUCCESS with the payload of the catalogue plus positions, heartbeatSeconds, refused."""
    async with open_socket(server.socket_url, people.tokens["olga"]) as socket:
        data = socket.seen[0]["data"]
        assert data["userId"] == people.ids["olga"]
        assert data["username"] == "olga"
        assert data["organizationId"] == people.organizations["first"]
        assert data["refused"] == []
        assert data["heartbeatSeconds"] == 20
        own = data["positions"][f"org:{people.organizations['first']}"]
        assert own["epoch"]
        assert own["offset"] >= 0


@pytest.mark.parametrize("path", ["/api/v1/ws", "/api/v1/ws/"])
async def test_both_paths_serve(server: ServerProcess, people: People, path: str) -> None:
    """WebSocket at `/api/v1/ws` and `/api/v1/ws/` (browsers already deployed use the second)."""
    url = server.url.replace("http", "ws", 1) + path
    async with open_socket(url, people.tokens["vic"]):
        pass


async def test_the_token_may_stand_at_top_level(server: ServerProcess, people: People) -> None:
    """The first message is `auth` with the token at top level or inside `data`; its `id` is echoed."""
    async with open_socket(server.socket_url) as socket:
        await socket.send("auth", token=people.tokens["olga"], id="first")
        welcome = await socket.receive()
        assert (welcome["type"], welcome["reply_to"]) == ("AUTH_LOGIN_SUCCESS", "first")


async def test_a_bearer_header_replaces_the_first_message(server: ServerProcess, people: People) -> None:
    """Programs may send an `Authorization: Bearer` header instead."""
    headers = {"Authorization": f"Bearer {people.tokens['olga']}"}
    async with connect(server.socket_url, additional_headers=headers) as connection:
        socket = Socket(connection)
        assert (await socket.receive())["type"] == "AUTH_LOGIN_SUCCESS"
        assert (await socket.ask("ping"))["type"] == "pong"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"type": "ping"}, "Authentication required"),
        ({"type": "subscribe", "data": {"event_type": "*"}}, "Authentication required"),
        ({"type": "auth", "token": "nonsense"}, "Invalid token"),
        ({"type": "auth", "data": {"token": "a.b.c"}}, "Invalid token"),
        ({"type": "auth"}, "Invalid token"),
        ([1], "Authentication required"),
    ],
)
async def test_a_failed_authentication_closes_1008(server: ServerProcess, message: Any, reason: str) -> None:
    """1008: authentication failed; the reason says how (deployed browsers rely on it)."""
    async with open_socket(server.socket_url) as socket:
        await socket.connection.send(json.dumps(message))
        assert await socket.closed() == (1008, reason)
        assert socket.seen == []


async def test_silence_is_closed_after_the_time_out(server: ServerProcess) -> None:
    """The first message must come within the time-out."""
    async with open_socket(server.socket_url) as socket:
        assert await socket.closed() == (1008, "Authentication timeout")


async def test_a_token_in_the_address_is_refused_and_not_logged(server: ServerProcess, people: People) -> None:
    """A token in the URL is refused and never logged."""
    token = people.tokens["olga"]
    with pytest.raises(InvalidStatus) as refused:
        async with connect(f"{server.socket_url}?token={token}"):
            pass
    assert refused.value.response.status_code == 400
    assert token not in server.log.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("origin", "is_allowed"),
    [("same", True), ("https://evil.example", False), ("null", False), ("http://127.0.0.1:1", False)],
)
async def test_only_the_same_origin_may_connect(
    server: ServerProcess, people: People, origin: str, is_allowed: bool
) -> None:
    """Origin: exact-match allow-list, same origin by default, `null` refused."""
    given = server.url if origin == "same" else origin
    if is_allowed:
        async with connect(server.socket_url, origin=given):  # type: ignore[arg-type]
            return
    with pytest.raises(InvalidStatus) as refused:
        async with connect(server.socket_url, origin=given):  # type: ignore[arg-type]
            pass
    assert refused.value.response.status_code == 403


async def test_subscriptions_of_the_auth_message_hold_and_refused_ones_are_listed(
    server: ServerProcess, people: People
) -> None:
    """One that is refused is listed in the reply with its code, the others stand."""
    wanted = [{"event_type": "DEPLOYMENT_CREATED"}, {"event_type": "NOPE"}]
    async with open_socket(server.socket_url, people.tokens["olga"], subscriptions=wanted) as socket:
        refused = socket.seen[0]["data"]["refused"]
        assert [(item["event_type"], item["code"]) for item in refused] == [("NOPE", "unknown_type")]
        deployment_id = await create(server, people.tokens["olga"])
        event = await socket.until("DEPLOYMENT_CREATED")
        assert event["data"]["deploymentId"] == deployment_id


async def test_a_client_is_told_which_of_its_types_are_not_the_servers(server: ServerProcess, people: People) -> None:
    """The answer to `auth` has the server's hashes, and the names whose hashes differ; absent when none."""
    token = people.tokens["olga"]
    async with open_socket(server.socket_url, token, contract={"core": "x", "gone": "y"}) as socket:
        told = socket.seen[0]["data"]
        assert told["contractMismatch"] == ["core", "gone"]
    assert told["contract"]["core"] == contract_hash(core_catalogue())
    for same in (told["contract"], None):
        async with open_socket(server.socket_url, token, **({} if same is None else {"contract": same})) as socket:
            assert "contractMismatch" not in socket.seen[0]["data"]
            assert socket.seen[0]["data"]["contract"] == told["contract"]


async def test_connections_of_one_user_are_capped(server: ServerProcess, people: People) -> None:
    """4504: too many connections of this user."""
    async with AsyncExitStack() as stack:
        for _ in range(5):
            await stack.enter_async_context(open_socket(server.socket_url, people.tokens["ada"]))
        async with open_socket(server.socket_url) as socket:
            await socket.send("auth", {"token": people.tokens["ada"]})
            assert (await socket.closed())[0] == 4504


# ---- commands --------------------------------------------------------------------------------------


async def test_ping_in_all_three_spellings(server: ServerProcess, people: People) -> None:
    """`ping`, the bare text `ping`, and WEBSOCKET_PING are all answered."""
    async with open_socket(server.socket_url, people.tokens["vic"]) as socket:
        assert (await socket.ask("ping"))["type"] == "pong"
        await socket.connection.send("ping")
        assert (await socket.receive())["type"] == "pong"
        pong = await socket.ask("WEBSOCKET_PING", {"n": 1})
        assert (pong["type"], pong["data"]) == ("WEBSOCKET_PONG", {"n": 1})


@pytest.mark.parametrize(
    ("event_type", "expected"),
    [
        ("DEPLOYMENT_CREATED", ["DEPLOYMENT_CREATED"]),
        (["NOTIFICATION_SENT", "DEPLOYMENT_CREATED"], ["DEPLOYMENT_CREATED", "NOTIFICATION_SENT"]),
        ("NOTIFICATION_*", ["NOTIFICATION_SENT", "NOTIFICATION_READ"]),
    ],
)
async def test_subscribe_takes_names_lists_and_wildcards(
    server: ServerProcess, people: People, event_type: Any, expected: list[str]
) -> None:
    """`event_type`: name, list, `DEPLOYMENT_*` or `*`; the reply lists the types and has positions."""
    async with open_socket(server.socket_url, people.tokens["vic"]) as socket:
        reply = await socket.ask("subscribe", {"event_type": event_type})
        assert (reply["type"], reply["data"]["event_types"]) == ("subscribed", expected)
        assert f"org:{people.organizations['first']}" in reply["data"]["positions"]
        gone = await socket.ask("unsubscribe", {"event_type": event_type})
        assert (gone["type"], gone["data"]["event_types"]) == ("unsubscribed", expected)


async def test_events_reach_subscribers_of_the_organization_only(server: ServerProcess, people: People) -> None:
    """Everyone of the organization who subscribed gets the event; nobody of another one does."""
    async with (
        open_socket(server.socket_url, people.tokens["vic"]) as vic,
        open_socket(server.socket_url, people.tokens["olga"]) as silent,
        open_socket(server.socket_url, people.tokens["bob"]) as bob,
    ):
        await vic.ask("subscribe", {"event_type": "*"})
        await bob.ask("subscribe", {"event_type": "*"})
        deployment_id = await create(server, people.tokens["olga"])
        event = await vic.until("DEPLOYMENT_CREATED")
        assert event["data"]["deploymentId"] == deployment_id
        assert event["stream"] == f"org:{people.organizations['first']}"
        assert event["offset"] > 0
        assert event["id"]
        for other in (silent, bob):
            await other.ask("ping")
            assert "DEPLOYMENT_CREATED" not in [message["type"] for message in other.seen]


async def test_a_deployment_narrows_a_subscription(server: ServerProcess, people: People) -> None:
    """With `deployment_id` only that deployment's events come."""
    first, second = await create(server, people.tokens["olga"]), await create(server, people.tokens["olga"])
    async with open_socket(server.socket_url, people.tokens["vic"]) as socket:
        await socket.ask("subscribe", {"event_type": "DEPLOYMENT_*", "deployment_id": second})
        await append(server, people.tokens["olga"], first, 1, "not mine")
        await append(server, people.tokens["olga"], second, 1, "mine", "too")
        event = await socket.until("DEPLOYMENT_LOGS_UPDATE")
        assert event["data"] == {"deploymentId": second, "logs": ["mine", "too"], "firstLine": 1}


@pytest.mark.parametrize("command", ["deployment_logs", "subscribe"])
async def test_the_logs_of_one_deployment_are_its_logs_status_and_progress(
    server: ServerProcess, people: People, command: str
) -> None:
    """`deployment_logs` means that deployment's logs, status and progress."""
    deployment_id = await create(server, people.tokens["olga"])
    legacy = {"event_type": "deployment_logs"} if command == "subscribe" else {}
    data = {"deployment_id": deployment_id, **legacy}
    async with open_socket(server.socket_url, people.tokens["vic"]) as socket:
        reply = await socket.ask(command, data)
        assert set(reply["data"]["event_types"]) == {
            "DEPLOYMENT_LOGS_UPDATE",
            "DEPLOYMENT_STATUS_CHANGED",
            "DEPLOYMENT_PROGRESS",
        }
        await set_status(server, people.tokens["olga"], deployment_id, "running")
        changed = await socket.until("DEPLOYMENT_STATUS_CHANGED")
        assert (changed["data"]["oldStatus"], changed["data"]["newStatus"]) == ("pending", "running")


@pytest.mark.parametrize("deployment_id", ["nothing", "foreign"])
async def test_a_foreign_deployment_is_answered_like_one_that_does_not_exist(
    server: ServerProcess, people: People, deployment_id: str
) -> None:
    """A deployment of another organization is answered exactly like one that does not exist."""
    if deployment_id == "foreign":
        deployment_id = await create(server, people.tokens["bob"])
    async with open_socket(server.socket_url, people.tokens["vic"]) as socket:
        reply = await socket.ask("subscribe", {"event_type": "*", "deployment_id": deployment_id})
        assert reply["data"] == {"code": "not_found", "message": "deployment not found", "details": None}


async def test_only_superusers_choose_an_organization(server: ServerProcess, people: People) -> None:
    """A superuser chooses organizations when subscribing."""
    chosen = {"event_type": "DEPLOYMENT_CREATED", "organization_id": people.organizations["second"]}
    async with (
        open_socket(server.socket_url, people.tokens["ada"]) as ada,
        open_socket(server.socket_url, people.tokens["admin"]) as root,
    ):
        assert (await ada.ask("subscribe", chosen))["data"]["code"] == "forbidden"
        assert (await root.ask("subscribe", chosen))["type"] == "subscribed"
        deployment_id = await create(server, people.tokens["bob"])
        assert (await root.until("DEPLOYMENT_CREATED"))["data"]["deploymentId"] == deployment_id


@pytest.mark.parametrize(
    ("kind", "data", "code"),
    [
        ("nonsense", {}, "unknown_type"),
        ("subscribe", {}, "invalid_message"),
        ("subscribe", {"event_type": 5}, "invalid_message"),
        ("subscribe", {"event_type": "DEPLOYMENT_CREATED", "colour": "red"}, "invalid_message"),
        ("subscribe", {"event_type": []}, "invalid_message"),
        ("subscribe", {"event_type": ["X"] * 10_000}, "invalid_message"),
        ("subscribe", {"event_type": "deployment_logs"}, "invalid_message"),
        ("subscribe", {"event_type": "DEPLOYMENT_LOGS_UPDATE", "from_line": 1}, "invalid_message"),
        ("deployment_logs", {}, "invalid_message"),
        ("DEPLOYMENT_CREATED", {"deploymentId": "x", "deploymentName": "y"}, "not_sendable"),
        ("CUSTOM_EVENT", {}, "not_sendable"),
        ("NOTIFICATION_READ", {"notificationIds": []}, "invalid_payload"),
        ("NOTIFICATION_READ", {"notificationIds": ["nothing"]}, "not_found"),
        ("auth", {}, "invalid_message"),
        ("auth", {"token": "x"}, "not_authenticated"),
    ],
)
async def test_what_is_refused_is_told_and_the_connection_lives(
    server: ServerProcess, people: People, kind: str, data: dict[str, Any], code: str
) -> None:
    """A refused message gets WEBSOCKET_ERROR {code, message, details} and the connection lives."""
    async with open_socket(server.socket_url, people.tokens["vic"]) as socket:
        reply = await socket.ask(kind, data)
        assert (reply["type"], reply["data"]["code"]) == ("WEBSOCKET_ERROR", code)
        assert reply["data"]["message"]
        assert (await socket.ask("ping"))["type"] == "pong"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("garbage", "invalid_json"),
        ("", "invalid_json"),
        ('{"type": "ping"', "invalid_json"),
        ('{"type": "ping"}{"type": "ping"}', "invalid_json"),
        ('{"type": "ping", "data": {"x": NaN}}', "invalid_json"),
        ('{"type": "ping", "data": {"x": "\\ud800"}}', "invalid_json"),
        ("[" * 1000 + "]" * 1000, "invalid_json"),
        ("[1]", "invalid_message"),
        ("42", "invalid_message"),
        ("{}", "invalid_message"),
        ('{"type": 5}', "invalid_message"),
        ('{"type": "ping", "data": 5}', "invalid_message"),
    ],
)
async def test_malformed_messages_are_told(server: ServerProcess, people: People, text: str, code: str) -> None:
    """A malformed message gets an error of the table; silence is never the answer."""
    async with open_socket(server.socket_url, people.tokens["vic"]) as socket:
        await socket.connection.send(text)
        assert (await socket.until("WEBSOCKET_ERROR"))["data"]["code"] == code
        assert (await socket.ask("ping"))["type"] == "pong"


async def test_a_binary_message_closes_1003(server: ServerProcess, people: People) -> None:
    """1003: a binary message."""
    async with open_socket(server.socket_url, people.tokens["vic"]) as socket:
        await socket.connection.send(b"\x00")
        assert (await socket.closed())[0] == 1003


async def test_a_message_over_the_limit_closes_1009(server: ServerProcess, people: People) -> None:
    """1009: a message over 64 KiB."""
    async with open_socket(server.socket_url, people.tokens["vic"]) as socket:
        await socket.connection.send(json.dumps({"type": "ping", "data": {"x": "y" * 70_000}}))
        assert (await socket.closed())[0] == 1009


async def test_subscriptions_are_capped_and_none_is_added(server: ServerProcess, people: People) -> None:
    """too_many_subscriptions: this connection has as many as allowed."""
    deployment_id = await create(server, people.tokens["olga"])
    async with open_socket(server.socket_url, people.tokens["vic"]) as socket:
        assert (await socket.ask("subscribe", {"event_type": "*"}))["type"] == "subscribed"
        refused = await socket.ask("subscribe", {"event_type": "*", "deployment_id": deployment_id})
        assert refused["data"]["code"] == "too_many_subscriptions"


async def test_a_fresh_token_of_the_same_user_keeps_the_socket(server: ServerProcess, people: People) -> None:
    """`auth` with a fresh token of the same user: AUTH_TOKEN_REFRESH, the socket stays; another user's is refused."""
    async with open_socket(server.socket_url, people.tokens["vic"]) as socket:
        reply = await socket.ask("auth", {"token": await server.login("vic")})
        assert reply["type"] == "AUTH_TOKEN_REFRESH"
        assert reply["data"]["userId"] == people.ids["vic"]
        refused = await socket.ask("auth", {"token": people.tokens["olga"]})
        assert refused["data"]["code"] == "forbidden"


async def test_a_notification_is_read_over_the_socket_and_told_to_the_users_other_sockets(
    server: ServerProcess, people: People
) -> None:
    """NOTIFICATION_READ is published; `published` {id, stream, offset} answers a message with an id."""
    async with (
        open_socket(server.socket_url, people.tokens["vic"]) as one,
        open_socket(server.socket_url, people.tokens["vic"]) as two,
        server.client(people.tokens["olga"]) as client,
    ):
        body = {"title": "Hello", "message": "there", "userId": people.ids["vic"]}
        sent = await client.post("/notifications", json=body)
        assert sent.status_code == 201, sent.text
        event = await one.until("NOTIFICATION_SENT")
        assert event["data"]["notificationId"] == sent.json()["id"]
        reply = await one.ask("NOTIFICATION_READ", {"notificationIds": [sent.json()["id"]]})
        assert reply["type"] == "published"
        assert reply["data"]["offset"] > event["offset"]
        assert (await two.until("NOTIFICATION_READ"))["data"]["notificationIds"] == [sent.json()["id"]]


# ---- the end of a session ---------------------------------------------------------------------------


async def test_logging_out_closes_the_sessions_sockets_4503(server: ServerProcess, people: People) -> None:
    """POST /auth/logout: AUTH_LOGOUT; sockets close 4503; other sessions stay."""
    token = await server.login("vic")
    async with (
        open_socket(server.socket_url, token) as ended,
        open_socket(server.socket_url, people.tokens["vic"]) as other,
        server.client(token) as client,
    ):
        assert (await client.post("/auth/logout")).status_code == 204
        assert (await ended.closed())[0] == 4503
        assert "AUTH_LOGOUT" in [message["type"] for message in ended.seen]
        assert (await other.ask("ping"))["type"] == "pong"


async def test_a_changed_role_is_told_and_holds_at_once(server: ServerProcess, people: People) -> None:
    """Role change: SESSION_PERMISSION_CHANGED is sent and the socket goes on with the present rights."""
    async with (
        server.client(people.tokens["admin"]) as client,
        open_socket(server.socket_url, people.tokens["vic"]) as socket,
    ):
        answer = await client.patch(f"/users/{people.ids['vic']}", json={"role": "operator"})
        assert answer.status_code == 200, answer.text
        changed = await socket.until("SESSION_PERMISSION_CHANGED")
        assert changed["data"]["role"] == "operator"
        await client.patch(f"/users/{people.ids['vic']}", json={"role": "viewer"})
        await socket.until("SESSION_PERMISSION_CHANGED")


async def test_a_deactivated_user_loses_the_sockets_and_cannot_come_back(server: ServerProcess, people: People) -> None:
    """Deactivation closes 4503; a new socket is closed 1008 with `User not found or inactive`."""
    async with server.client(people.tokens["admin"]) as client:
        made = await client.post("/users", json={"username": "gone", "role": "viewer", "password": PASSWORD})
        assert made.status_code == 201, made.text
        token = await server.login("gone")
        async with open_socket(server.socket_url, token) as socket:
            answer = await client.patch(f"/users/{made.json()['id']}", json={"isActive": False})
            assert answer.status_code == 200, answer.text
            assert (await socket.closed())[0] == 4503
        async with open_socket(server.socket_url) as socket:
            await socket.send("auth", {"token": token})
            assert await socket.closed() == (1008, "User not found or inactive")
