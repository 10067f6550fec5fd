"""What ends or changes access acts on open sockets of a running server, also on one that is just being opened."""

from pathlib import Path

from tests.integration.server_process import server_process
from tests.integration.sockets import open_socket
from tests.plugin_world import until

SLOW_PLUGIN = """
import asyncio
from pathlib import Path
from backend.app.websocket.plugin import WebSocketPlugin
class SlowPlugin(WebSocketPlugin):
    async def initialize(self, context):
        Path("entered").touch()
        while not Path("go").exists():
            await asyncio.sleep(0.01)
"""


async def test_a_revoked_api_tokens_socket_closes_4503(own_database: dict[str, str], tmp_path: Path) -> None:
    """Revoke an API token: it and its open connections end at once; the login's own socket stays."""
    async with server_process(tmp_path, own_database) as server:
        token = await server.login()
        async with server.client(token) as client:
            made = (await client.post("/auth/tokens", json={"name": "ci", "role": "viewer"})).json()
            async with (
                open_socket(server.socket_url, made["secret"]) as ended,
                open_socket(server.socket_url, token) as other,
            ):
                assert (await client.delete(f"/auth/tokens/{made['id']}")).status_code == 204
                assert await ended.closed() == (4503, "token_revoked")
                assert (await other.ask("ping"))["type"] == "pong"


async def test_a_session_that_ends_while_its_socket_is_opened_closes_it(
    own_database: dict[str, str], tmp_path: Path
) -> None:
    """Logout acts on all sockets of that session: also on one whose plugins are still being initialized."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "slow.py").write_text(SLOW_PLUGIN, encoding="utf-8")
    settings = {"PLUGINS_DIR": str(tmp_path / "plugins"), "PLUGIN_TIMEOUT_SECONDS": "30"}
    async with server_process(tmp_path, settings | own_database) as server:
        token = await server.login()
        async with open_socket(server.socket_url) as socket, server.client(token) as client:
            await socket.send("auth", {"token": token})
            await until((tmp_path / "entered").exists)
            assert (await client.post("/auth/logout")).status_code == 204
            (tmp_path / "go").touch()
            assert (await socket.closed())[0] == 4503
