"""The failure notifier on a real server, and after a crash that makes it handle the event again."""

from pathlib import Path
from typing import Any

from tests.integration.server_process import ServerProcess, server_process
from tests.waiting import eventually

SETTINGS = {
    "PLUGIN__FAILURE_NOTIFIER__LINES": "3",
    "PLUGIN_RETRY_SECONDS": "0.1",
    "NODE_LEASE_SECONDS": "1",
    # No cursor is stored before the kill: the next start handles the failure again.
    "PLUGIN_CURSOR_SECONDS": "60",
}


async def notified(server: ServerProcess) -> list[dict[str, Any]]:
    """Return the notifications of the organization."""
    async with server.client(await server.login()) as client:
        answer = await client.get("/notifications")
        answer.raise_for_status()
        items: list[dict[str, Any]] = answer.json()["items"]
        return items


async def test_a_failure_is_notified_once_also_when_it_is_handled_again_after_a_crash(
    own_database: dict[str, str], tmp_path: Path
) -> None:
    """The server is killed when the notification is there and no cursor is: the next start handles the event again."""
    settings = {**SETTINGS, **own_database}
    async with server_process(tmp_path, settings) as server:
        async with server.client(await server.login()) as client:
            deployment = (await client.post("/deployments", json={"name": "shop"})).json()["id"]
            path = f"/deployments/{deployment}"
            (await client.put(f"{path}/status", json={"status": "running"})).raise_for_status()
            lines = [{"text": f"line {number}"} for number in range(1, 6)]
            (await client.post(f"{path}/logs", json={"firstLine": 1, "lines": lines})).raise_for_status()
            failed = {"status": "failed", "reason": "no disk", "exitCode": 3}
            (await client.put(f"{path}/status", json=failed)).raise_for_status()

        async def is_there() -> bool:
            return len(await notified(server)) == 1

        await eventually(is_there, 10)
        server.process.kill()
        await server.process.wait()
    async with server_process(tmp_path, settings) as server:
        async with server.client(await server.login()) as client:

            async def is_handled_again() -> bool:
                shown = (await client.get("/plugins/failure_notifier")).json()
                return bool(shown["calls"] >= 2 and shown["waiting"] == 0)

            await eventually(is_handled_again, 20)
            assert (await client.get("/plugins/failure_notifier")).json()["failures"] == 0
        (item,) = await notified(server)
    assert item["title"] == "Deployment failed: shop"
    assert item["message"] == "no disk; exit code 3\n\nline 3\nline 4\nline 5"
    assert (item["level"], item["deploymentId"]) == ("error", deployment)
