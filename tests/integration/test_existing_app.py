"""`examples/existing_app.py` as a process of uvicorn: the application's own routes, and all of WindFlow beside them."""

import asyncio
import os
import sys
from pathlib import Path

import httpx

from tests.integration.server_process import PASSWORD, START_SECONDS, ServerProcess
from tests.integration.sockets import open_socket
from tests.integration.spools import free_port

ROOT = Path(__file__).parents[2]


async def test_three_lines_add_windflow_to_an_existing_application(
    own_database: dict[str, str], tmp_path: Path
) -> None:
    """A client subscribes at the socket and gets what another one does over REST; the old route still answers."""
    port, log = free_port(), tmp_path / "server.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WINDFLOW_")}
    environment |= {"WINDFLOW_ADMIN_PASSWORD": PASSWORD, "WINDFLOW_DATA_DIR": str(tmp_path / "data")}
    environment |= {f"WINDFLOW_{name}": value for name, value in own_database.items()} | {"PYTHONPATH": str(ROOT)}
    with log.open("ab") as sink:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "uvicorn", "examples.existing_app:app", "--port", str(port),
            cwd=tmp_path, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=sink, stderr=sink,
        )  # fmt: skip
    server = ServerProcess(process, f"http://127.0.0.1:{port}", log)
    try:
        async with httpx.AsyncClient(base_url=server.url) as client:
            async with asyncio.timeout(START_SECONDS):
                while True:
                    try:
                        assert (await client.get("/hello")).json() == {"greetings": 1}
                        break
                    except httpx.TransportError:
                        assert process.returncode is None, log.read_text(encoding="utf-8")
                        await asyncio.sleep(0.05)
            refused = await client.get("/api/v1/deployments")
            assert (refused.status_code, refused.json()["code"]) == (401, "not_authenticated")
        token = await server.login()
        wanted = [{"event_type": "DEPLOYMENT_CREATED"}]
        async with (
            server.client(token) as rest,
            open_socket(server.socket_url, token, subscriptions=wanted) as socket,
        ):
            made = await rest.post("/deployments", json={"name": "shop"})
            assert made.status_code == 201
            message = await socket.until("DEPLOYMENT_CREATED")
            assert message["data"]["deploymentId"] == made.json()["id"]
    finally:
        status = await server.stop()
    assert "Application shutdown complete" in log.read_text(encoding="utf-8"), status
