"""Every Python block of the documentation runs: plugins on a real manager, programs against a real server."""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from unittest.mock import AsyncMock

import pytest

from backend.app.client import WindFlowClient
from backend.app.client.credentials import CredentialStore
from backend.app.config import Settings
from backend.app.database import db
from backend.app.models.user import User
from backend.app.schemas.websocket_events import CORE_EVENTS
from backend.app.websocket.plugin_base import HOOKS, overrides
from tests.docs.conftest import DocsServer
from tests.docs.examples import GUIDE, PAYLOADS, load, plugin_blocks
from tests.docs.markdown_files import ROOT, Block, all_blocks
from tests.integration.server_process import PASSWORD
from tests.plugin_world import make_context

RUN_SECONDS = 60

PRINTS = {
    "status: success": "from websockets.asyncio.client import connect",
    "heard {'hello': 'world'}": "from backend.app.client import Event, Subscription, WindFlowClient",
    "created alpha\ncreated beta\n": "from backend.app.client import Event, EventStream, PositionLost",
}
"""What the programs that talk to a server print, by what they import."""

DRIVE_APPLICATION = """

async def drive() -> None:
    import httpx

    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            print((await client.get("/livez")).text, (await client.get("/hello")).json())
            refused = await client.get("/api/v1/system")
            print(refused.status_code, refused.json()["code"])


import asyncio

asyncio.run(drive())
"""


def kind(block: Block) -> str:
    """Tell how a block is run."""
    if block in plugin_blocks():
        return "plugin"
    if "def test_" in block.text:
        return "test"
    if "FastAPI(" in block.text:
        return "application"
    return "program" if "http://127.0.0.1:8000" in block.text else "script"


def of_kind(wanted: str) -> list[Block]:
    return [block for block in all_blocks("python") if kind(block) == wanted]


def place(block: Block) -> str:
    return block.place


def environment(**settings: str) -> dict[str, str]:
    """The environment of a process that runs an example."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WINDFLOW_")}
    return {**kept, "PYTHONPATH": str(ROOT), **{f"WINDFLOW_{name}": value for name, value in settings.items()}}


def run(folder: Path, text: str, *arguments: str, **settings: str) -> str:
    """Run a Python file in a process of its own and return what it printed."""
    file = folder / "test_example.py"
    file.write_text(text, encoding="utf-8")
    command = [sys.executable, "-W", "error", *arguments, str(file)]
    done = subprocess.run(
        command, cwd=folder, env=environment(**settings), capture_output=True, text=True, timeout=RUN_SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# ---- plugins ---------------------------------------------------------------------------------------


def test_there_is_a_payload_for_every_event() -> None:
    """The examples below cover the whole catalogue, with payloads that are valid."""
    assert list(PAYLOADS) == [spec.name for spec in CORE_EVENTS]
    for spec in CORE_EVENTS:
        spec.payload.model_validate(PAYLOADS[spec.name])


@asynccontextmanager
async def a_database(folder: Path) -> AsyncIterator[None]:
    """The process's database, empty."""
    await db.connect(Settings(data_dir=folder))
    try:
        await db.create_tables()
        yield
    finally:
        await db.disconnect()


@pytest.mark.parametrize("block", plugin_blocks(), ids=place)
async def test_plugin_examples_load_and_do_their_work_without_a_failure(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plugin examples are registered and driven on a real manager, through every hook that they have."""
    monkeypatch.chdir(tmp_path)
    manager, found = load(block, tmp_path)
    assert found
    assert [each.reason for each in found if each.reason] == []
    user = User(id="user-1", username="olga", organization_id="org-1", role="operator")
    async with a_database(tmp_path / "data"):
        context = make_context(user=user, organization_id="org-1", session=db.session, send=AsyncMock())
        await manager.startup_all(context)
        await manager.initialize_all(context)
        for plugin in manager.plugins:
            for event_type in plugin.event_types if plugin.event_types is not None else PAYLOADS:
                await manager.dispatch(event_type, PAYLOADS[event_type], context)
            for message_type in plugin.message_types:
                result = await manager.handle_message(message_type, {"type": message_type, "data": {}}, context)
                assert result.is_ok
        await manager.cleanup_all(context)
        await manager.shutdown_all()
    for plugin in manager.plugins:
        stats = manager.supervisor.stats_of(plugin.name)
        hooks = [hook for hook in HOOKS if overrides(plugin, hook) and hook != "handle_event"]
        assert (stats.failures, stats.refused, stats.last_error) == (0, 0, None)
        assert stats.calls >= len(hooks) + len(plugin.event_types or ())


def test_the_guide_has_an_example_for_every_hook(tmp_path: Path) -> None:
    """The guide has a runnable example for every hook that exists."""
    shown = set()
    for block in plugin_blocks():
        if block.file == GUIDE:
            for plugin in load(block, tmp_path)[0].plugins:
                shown |= {hook for hook in HOOKS if overrides(plugin, hook)}
    assert shown == set(HOOKS)


# ---- everything else -------------------------------------------------------------------------------


@pytest.mark.parametrize("block", of_kind("test"), ids=place)
def test_printed_tests_pass(block: Block, tmp_path: Path) -> None:
    """A test that the documentation prints passes as printed."""
    options = ["-c", os.devnull, f"--rootdir={tmp_path}", "-o", "asyncio_default_fixture_loop_scope=function"]
    arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    assert "1 passed" in run(tmp_path, block.text, *arguments)


@pytest.mark.parametrize("block", of_kind("application"), ids=place)
def test_printed_applications_serve(block: Block, tmp_path: Path) -> None:
    """WindFlow inside an application of one's own serves its routes, and refuses in its own shape."""
    printed = run(tmp_path, block.text + DRIVE_APPLICATION, ADMIN_PASSWORD=PASSWORD)
    assert printed.splitlines() == ["ok world", "401 not_authenticated"]


@pytest.mark.parametrize("block", of_kind("script"), ids=place)
def test_printed_scripts_run(block: Block, tmp_path: Path) -> None:
    """Other Python runs as printed, and prints the sentence that the text says it does."""
    text = (ROOT / block.file).read_text(encoding="utf-8")
    after = text[text.index(block.text) + len(block.text) :].removeprefix("```").strip()
    printed = run(tmp_path, block.text).strip()
    if after.startswith("prints `"):
        assert printed == after.removeprefix("prints `").partition("`")[0]


@pytest.mark.parametrize("block", of_kind("program"), ids=place)
@pytest.mark.asyncio(loop_scope="module")
async def test_printed_programs_work_with_a_running_server(
    block: Block, docs_server: DocsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Snippets that need a running server run against a real one, with the login of `windflow login`."""
    url = docs_server.process.url
    text = block.text.replace("http://127.0.0.1:8000", url).replace('"the password"', repr(PASSWORD))
    with tempfile.TemporaryDirectory() as folder:
        async with WindFlowClient(url, store=CredentialStore(Path(folder))) as client:
            await client.login("admin", PASSWORD)
        printed = await asyncio.to_thread(run, Path(folder), text, CONFIG_DIR=folder)
    (expected,) = [prints for prints, imports in PRINTS.items() if imports in block.text]
    assert expected in printed


def test_every_python_block_is_run() -> None:
    """No block is left out."""
    counts = {each: len(of_kind(each)) for each in ("plugin", "test", "application", "program", "script")}
    assert all(counts.values()), counts
    assert sum(counts.values()) == len(all_blocks("python"))
