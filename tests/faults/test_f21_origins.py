"""Row F21: a wrong, missing or `null` Origin, and tokens in the address of a request."""

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
import pytest_asyncio

from tests.faults.control import control
from tests.faults.faulty_world import World, faulty_world
from tests.faults.raw_socket import RawSocket

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONSOLE = "https://console.example"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory, module_database: dict[str, str]) -> AsyncIterator[World]:
    settings = {**module_database, "ALLOWED_ORIGINS": CONSOLE}
    async with faulty_world(tmp_path_factory.mktemp("origins"), settings) as made:
        yield made


async def upgrade(world: World, headers: dict[str, str], query: str = "") -> int:
    """Ask for an upgrade; return the status, 101 where it is done."""
    async with await RawSocket.connect(world.server.url) as socket:
        request = socket.upgrade_request(headers)
        await socket.send(request.replace(b"/api/v1/ws ", f"/api/v1/ws{query} ".encode(), 1))
        return int((await socket.http_head()).split(b" ", 2)[1])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    """A client without credentials."""
    async with httpx.AsyncClient(base_url=world.server.url, timeout=30) as made:
        yield made


async def stream(client: httpx.AsyncClient, headers: dict[str, str], query: str = "") -> int:
    """Ask for an event stream; return the status."""
    async with client.stream("GET", f"/api/v1/events{query}", headers=headers) as answer:
        return answer.status_code


async def test_f21_only_the_own_and_the_allowed_origins_open_anything(world: World, client: httpx.AsyncClient) -> None:
    """Wrong and `null` Origin: refused; missing, own and allowed: served. No refusal is an ERROR of the server."""
    host = world.server.url.removeprefix("http://")
    token = {"Authorization": f"Bearer {world.tokens['rude']}"}
    wrong = [
        "null", "https://foreign.example", f"{CONSOLE}.foreign.example", "https://foreign.example#" + CONSOLE,
        CONSOLE.upper(), CONSOLE + "/", CONSOLE + ":444", f"http://{host}.foreign.example", "http://127.0.0.1:1",
        f"ftp://{host}", f"file://{host}", "http://127.0.0.1:port", "", "*", f"{CONSOLE}, {CONSOLE}",
    ]  # fmt: skip
    async with control(*world.control):
        for origin in wrong:
            assert await upgrade(world, {"Origin": origin}) == 403, origin
            assert await upgrade(world, {"Origin": origin, **token}) == 403, origin
            assert await stream(client, {"Origin": origin, **token}) == 403, origin
        for origin in (CONSOLE, f"http://{host}"):
            assert await upgrade(world, {"Origin": origin}) == 101, origin
            assert await stream(client, {"Origin": origin, **token}) == 200, origin
        assert await upgrade(world, token) == 101
        assert await stream(client, token) == 200


async def test_f21_a_socket_without_origin_needs_a_token(world: World) -> None:
    """Missing Origin: nothing is served before a bearer token came, and there is no cookie to steal."""
    async with await RawSocket.connect(world.server.url) as socket:
        assert await socket.upgrade({"Cookie": f"token={world.tokens['rude']}"}) == 101
        await socket.send_json("subscribe", {"event_type": "*"})
        assert await socket.closed() == (1008, "Authentication required")


@pytest.mark.parametrize("name", ["token", "access_token", "TOKEN", "%74oken"])
async def test_f21_a_token_in_the_address_is_refused_and_in_no_log(
    world: World, client: httpx.AsyncClient, name: str
) -> None:
    """Token in the address: refused, also beside good credentials; what was sent stands in no file of the server."""
    headers = {"Authorization": f"Bearer {world.tokens['rude']}"}
    opaque = "opaque-secret-of-" + name.strip("%").lower()
    for secret in (world.tokens["rude"], opaque):
        query = f"?a=b&{name}={secret}"
        assert await upgrade(world, {}, query) == 400
        assert await upgrade(world, headers, query) == 400
        assert await stream(client, headers, query) == 400
        for path in (f"/api/v1/deployments{query}", f"/api/v1/nothing{query}", f"/{quote(query)}"):
            assert (await client.get(path)).status_code in (401, 404)
        assert not found_in_files(world, secret)


def found_in_files(world: World, secret: str) -> list[Path]:
    """Return the files of the server that hold a text."""
    folder = Path(world.server.log).parent
    return [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
