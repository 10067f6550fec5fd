"""A real server for the tests of the documentation, with the guide's plugins as files."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from tests.docs.examples import GUIDE, plugin_blocks
from tests.integration.people import People, make_people
from tests.integration.server_process import ServerProcess, server_process


@dataclass(frozen=True, slots=True)
class DocsServer:
    """A server, the folder that it runs in, and its users."""

    process: ServerProcess
    folder: Path
    people: People


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def docs_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DocsServer]:
    folder = tmp_path_factory.mktemp("docs")
    plugins = folder / "plugins"
    plugins.mkdir()
    for block in plugin_blocks():
        if block.file == GUIDE:
            names = re.findall(r"^class (\w+)Plugin\(", block.text, re.M)
            (plugins / f"{names[0].lower()}.py").write_text(block.text, encoding="utf-8")
    settings = {
        "PLUGINS_DIR": str(plugins),
        "PLUGIN__GREETING__TEXT": "Hello",
        "PLUGIN__GREETING__LANGUAGES": '["en", "fr"]',
    }
    async with server_process(folder, settings) as process:
        yield DocsServer(process, folder, await make_people(process))
