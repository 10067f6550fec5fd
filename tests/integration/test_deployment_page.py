"""The link that `windflow deploy` prints leads to a page that says how to go on, and to nothing that is secret."""

import re
import shlex
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from tests.integration.cli_process import Person
from tests.integration.server_process import PASSWORD, ServerProcess, server_process

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerProcess]:
    folder: Path = tmp_path_factory.mktemp("page")
    async with server_process(folder) as running:
        yield running


async def get(address: str, **more: dict[str, str]) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.get(address, **more)  # type: ignore[arg-type]


async def test_the_printed_link_leads_to_the_commands_that_follow_the_deployment(
    server: ServerProcess, tmp_path: Path
) -> None:
    """`deploy` prints a link; who clicks it can go on: the commands of the page work as they stand there."""
    person = await Person(server.url, tmp_path).login("admin", PASSWORD)
    done = await person.run("deploy", "--", "echo", "the secret output")
    link = re.search(r"http\S+/deployments/\S+", done.err)
    assert link, done.err
    page = await get(link[0])
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "secret output" not in page.text
    assert "echo" not in page.text
    printed = re.search(r"<pre>windflow login (\S+)\nwindflow watch (\S+)</pre>", page.text)
    assert printed
    (address,) = shlex.split(printed[1])
    stranger = Person(address, tmp_path / "other")
    await stranger.login("admin", PASSWORD)
    watched = await stranger.run("watch", printed[2])
    assert watched.status == 0
    assert "the secret output" in watched.out


async def test_a_deployment_that_does_not_exist_has_the_same_page(server: ServerProcess) -> None:
    """Nothing is told without a login, not even whether there is such a deployment."""
    async with server.client(await server.login()) as client:
        made = (await client.post("/deployments", json={"name": "hidden name"})).json()["id"]
    real, other = "x" * 36, "y" * 36
    pages = {name: (await get(f"{server.url}/deployments/{name}")).text for name in (made, real, other)}
    assert pages[made].replace(made, "ID") == pages[real].replace(real, "ID") == pages[other].replace(other, "ID")
    assert "hidden name" not in pages[made]


@pytest.mark.parametrize("name", ["<script>", "a b", "a%22onload", "x" * 65, "a/b", "%00"])
async def test_what_can_be_no_id_is_not_repeated(server: ServerProcess, name: str) -> None:
    """Only what an id can be is written into the page."""
    answer = await get(f"{server.url}/deployments/{name}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_the_address_of_the_request_is_data(server: ServerProcess) -> None:
    """What a client says its server is called is written as text, quoted for a shell."""
    page = await get(f"{server.url}/deployments/d1", headers={"Host": "a.example:1';<b>"})
    assert "<b>" not in page.text
