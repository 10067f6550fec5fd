"""`serve --reload-plugins`: what an author saves is what runs, and what is broken changes nothing."""

from pathlib import Path

from tests.integration.server_process import server_process
from tests.waiting import eventually

PLUGIN = """
from backend.app.websocket.plugin import WebSocketPlugin

class SavedPlugin(WebSocketPlugin):
    version = "{version}"
"""


async def test_a_file_that_is_saved_is_reloaded(own_database: dict[str, str], tmp_path: Path) -> None:
    """Changed, broken, mended, a second file: each within a few looks; the server was never told."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    file = folder / "saved.py"
    file.write_text(PLUGIN.format(version="1"), encoding="utf-8")
    settings = {"PLUGINS_DIR": str(folder), "RELOAD_PLUGINS": "true", "PLUGIN_WATCH_SECONDS": "0.1", **own_database}
    async with server_process(tmp_path, settings) as server, server.client(await server.login()) as client:

        async def becomes(name: str, **expected: object) -> None:
            async def is_so() -> bool:
                shown = (await client.get(f"/plugins/{name}")).json()
                return all(shown.get(key) == value for key, value in expected.items())

            await eventually(is_so, 20)

        await becomes("saved", version="1", generation=1)
        file.write_text(PLUGIN.format(version="2"), encoding="utf-8")
        await becomes("saved", version="2", generation=2, reloadError=None)
        file.write_text("class SavedPlugin(", encoding="utf-8")

        async def is_refused() -> bool:
            shown = (await client.get("/plugins/saved")).json()
            return "was never closed" in str(shown["reloadError"]) and shown["version"] == "2"

        await eventually(is_refused, 20)
        file.write_text(PLUGIN.format(version="3"), encoding="utf-8")
        await becomes("saved", state="enabled", version="3", generation=3, reloadError=None)
        second = PLUGIN.format(version="1").replace("Saved", "Second")
        (folder / "second.py").write_text(second, encoding="utf-8")
        await becomes("second", state="enabled", version="1")
        (folder / "second.py").unlink()
        (folder / "_helper.py").write_text("raise ValueError('it is no plugin')", encoding="utf-8")
        file.write_text(PLUGIN.format(version="4"), encoding="utf-8")
        await becomes("saved", version="4", generation=4)
        await becomes("second", state="enabled")


async def test_without_a_folder_it_is_said(tmp_path: Path, own_database: dict[str, str]) -> None:
    """Nothing is watched, and the log says why."""
    async with server_process(tmp_path, {"RELOAD_PLUGINS": "true", **own_database}) as server:
        told = [record["message"] for record in server.logged() if record["level"] == "WARNING"]
    assert "no plugin file is watched: WINDFLOW_PLUGINS_DIR names no folder" in told
