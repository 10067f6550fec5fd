"""The API reference at /docs: it works without any other host, and its Authorize button logs in."""

import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
import pytest_asyncio

from tests.integration.server_process import PASSWORD, ServerProcess, server_process

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerProcess]:
    folder: Path = tmp_path_factory.mktemp("reference")
    async with server_process(folder) as running:
        yield running


class Links(HTMLParser):
    """Collects what a page refers to, and scripts written into it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.other: list[str] = []
        self.inline_scripts = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "script" and not values.get("src"):
            self.inline_scripts += 1
        for name, value in values.items():
            if name in ("src", "href") and value:
                (self.other if tag == "a" else self.loaded).append(value)


def policy(header: str) -> dict[str, list[str]]:
    """A Content-Security-Policy by directive."""
    return {name: sources for name, *sources in (part.split() for part in header.split(";"))}


async def test_the_page_and_all_that_it_loads_come_from_this_server(server: ServerProcess) -> None:
    """Works offline, no CDN: the page refers to no other host, and its policy lets browsers load from none."""
    async with httpx.AsyncClient() as client:
        page = await client.get(f"{server.url}/docs")
        assert page.status_code == 200
        links = Links(page.text)
        assert links.inline_scripts == 0
        assert len(links.loaded) == 4
        for link in (*links.loaded, *links.other):
            address = urljoin(f"{server.url}/docs", link)
            assert urlsplit(address).netloc == urlsplit(server.url).netloc
            answer = await client.get(address)
            assert answer.status_code == 200, address
            assert answer.content
            if link.endswith(".css"):
                assert re.findall(r"url\((?!\"?data:)|@import", answer.text) == []
            if link.endswith("start.js"):
                assert "//" not in answer.text
    allowed = policy(page.headers["content-security-policy"])
    assert allowed["default-src"] == ["'none'"]
    assert {source for sources in allowed.values() for source in sources} <= {
        "'none'", "'self'", "'unsafe-inline'", "data:",
    }  # fmt: skip
    assert allowed["script-src"] == ["'self'"]


@pytest.mark.parametrize("path", ["/docs/other.js", "/docs/..%2f__init__.py", "/redoc"])
async def test_nothing_else_is_served_there(server: ServerProcess, path: str) -> None:
    """Only the files of the page, and no page that loads from elsewhere."""
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{server.url}{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_authorize_sends_the_password_form_to_the_login(server: ServerProcess) -> None:
    """POST /api/v1/auth/login is the OAuth2 password form, so the OpenAPI page's Authorize button works."""
    async with httpx.AsyncClient() as client:
        document = (await client.get(f"{server.url}/openapi.json")).json()
        ((name, scheme),) = document["components"]["securitySchemes"].items()
        flow = scheme["flows"]["password"]
        # As Swagger UI sends it, with the header of a client without id and secret.
        form = {"grant_type": "password", "username": "admin", "password": PASSWORD}
        answer = await client.post(
            urljoin(server.url, flow["tokenUrl"]), data=form, headers={"Authorization": "Basic Og=="}
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["token_type"] == "bearer"
        assert document["paths"]["/api/v1/auth/me"]["get"]["security"] == [{name: []}]


async def test_below_a_proxys_path_everything_is_found_there(tmp_path: Path) -> None:
    """WINDFLOW_ROOT_PATH: the page, its files, the document and the login are below the path that a proxy takes off."""
    async with server_process(tmp_path, {"ROOT_PATH": "/windflow"}) as server, httpx.AsyncClient() as client:
        behind = server.url.removesuffix("/windflow")
        page = await client.get(f"{behind}/docs")
        assert {link.rsplit("/", 1)[0] for link in Links(page.text).loaded} == {"/windflow/docs"}
        assert '"url":"/windflow/openapi.json"' in (await client.get(f"{behind}/docs/start.js")).text
        assert (await client.get(f"{behind}/docs/swagger-ui.css")).status_code == 200
        for _ in range(2):
            document = (await client.get(f"{behind}/openapi.json")).json()
            (scheme,) = document["components"]["securitySchemes"].values()
            assert scheme["flows"]["password"]["tokenUrl"] == "/windflow/api/v1/auth/login"
        assert "Deprecat" not in server.log.read_text(encoding="utf-8")
