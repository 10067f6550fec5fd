"""The webhook plugin on a real server: a receiver that is down, and a server that is restarted meanwhile."""

import base64
import hashlib
import hmac
from pathlib import Path

from tests.integration.server_process import ServerProcess, server_process
from tests.plugin_world import until
from tests.waiting import eventually
from tests.webhook_receiver import Received, receiver

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
SHORT = {
    "PLUGIN_RETRY_SECONDS": "0.1",
    "PLUGIN_RETRY_MAX_SECONDS": "0.2",
    "PLUGIN_TIMEOUT_SECONDS": "1",
    "BREAKER_OPEN_SECONDS": "0.3",
    "NODE_LEASE_SECONDS": "1",
    "PLUGIN__WEBHOOK__SECRET": SECRET,
    "PLUGIN__WEBHOOK__EVENTS": "DEPLOYMENT_CREATED",
    "PLUGIN__WEBHOOK__JITTER_SECONDS": "0.05",
}


def is_signed(request: Received) -> bool:
    """Verify a request as a receiver does."""
    headers = request.headers
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + request.body
    digest = hmac.new(base64.b64decode(SECRET.removeprefix("whsec_")), signed, hashlib.sha256).digest()
    return hmac.compare_digest("v1," + base64.b64encode(digest).decode(), headers["webhook-signature"])


async def deploy(server: ServerProcess, count: int) -> set[str]:
    """Create deployments and return their ids."""
    made = set()
    async with server.client(await server.login()) as client:
        for number in range(count):
            answer = await client.post("/deployments", json={"name": f"d{number}"})
            answer.raise_for_status()
            made.add(answer.json()["id"])
    return made


async def test_a_receiver_that_was_down_gets_each_delivery_later_also_after_a_restart(
    own_database: dict[str, str], tmp_path: Path
) -> None:
    """Ten events; the receiver answers 503, the server restarts, the receiver comes back: ten signed, stable ids."""
    async with receiver("503 Service Unavailable") as there:
        settings = {
            **SHORT,
            **own_database,
            "PLUGIN__WEBHOOK__URLS": f"http://127.0.0.1:{there.port}/hook",
            "PLUGIN__WEBHOOK__ALLOW_NETWORKS": "127.0.0.0/8",
        }
        async with server_process(tmp_path, settings) as server:
            made = await deploy(server, 10)
            await until(lambda: len(there.received) >= 5)
        refused = {each.json["subject"]: each.headers["webhook-id"] for each in there.received}
        there.received.clear()
        there.answer = "204 No Content"
        async with server_process(tmp_path, settings):
            await until(lambda: {each.json["subject"] for each in there.received} >= made, 30)
        delivered = {each.json["subject"]: each.headers["webhook-id"] for each in there.received}
        assert set(delivered) == made
        assert len(set(delivered.values())) == 10
        assert refused.items() <= delivered.items()
        assert all(is_signed(each) for each in there.received)
        assert len(there.received) == 10


async def test_a_name_that_resolves_to_this_machine_is_refused_on_a_server(
    own_database: dict[str, str], tmp_path: Path
) -> None:
    """The reason stands on the plugin's page, and nothing reaches the receiver."""
    async with receiver() as there:
        settings = {**SHORT, **own_database, "PLUGIN__WEBHOOK__URLS": f"http://localhost:{there.port}/hook"}
        async with server_process(tmp_path, settings) as server:
            await deploy(server, 1)
            async with server.client(await server.login()) as client:

                async def is_refused() -> bool:
                    shown = (await client.get("/plugins/webhook")).json()
                    return "not a public address" in str(shown["lastError"])

                await eventually(is_refused, 10)
        assert there.received == []
