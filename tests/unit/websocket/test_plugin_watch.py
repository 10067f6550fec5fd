"""What the watch on plugin files looks at, and that it waits for a file to be written to its end."""

import asyncio
from pathlib import Path
from typing import Any

from backend.app.schemas.errors import ErrorCode, WindFlowError
from backend.app.websocket.plugin_watch import PluginWatch, look_at
from tests.plugin_world import until


def test_it_looks_at_what_discovery_takes(tmp_path: Path) -> None:
    """Files, and folders with an `__init__.py`, but nothing that is hidden or private; no folder, nothing."""
    for name in ("one.py", "_two.py", ".three.py", "four.txt", "five/__init__.py", "five/part.py", "six/part.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("", encoding="utf-8")
    assert [place.name for place in look_at(tmp_path)] == ["five", "one.py"]
    before = look_at(tmp_path)
    (tmp_path / "five" / "part.py").write_text("x = 1", encoding="utf-8")
    after = look_at(tmp_path)
    assert [place.name for place in after if after[place] != before[place]] == ["five"]
    assert look_at(tmp_path / "nowhere") == {}


async def test_a_file_that_grows_is_waited_for(tmp_path: Path) -> None:
    """It is taken once, when it looked the same twice; a reload that fails does not end the watch."""
    file = tmp_path / "one.py"
    file.write_text("", encoding="utf-8")
    taken: list[str] = []

    class Reloads:
        def at(self, place: Path) -> list[str]:
            return ["one"] if place.stem == "one" else []

        async def reload(self, name: str) -> None:
            taken.append(file.read_text(encoding="utf-8"))
            raise WindFlowError(ErrorCode.RELOAD_FAILED)

        def load(self, place: Any) -> None:
            taken.append(place.name)

    watch = asyncio.create_task(PluginWatch(Reloads(), tmp_path, 0.05).run())  # type: ignore[arg-type]
    await asyncio.sleep(0.1)
    text = ""
    for number in range(15):
        text += f"x{number} = 1\n"
        file.write_text(text, encoding="utf-8")
        await asyncio.sleep(0.02)
    await until(lambda: taken[-1:] == [text])
    (tmp_path / "new.py").write_text("", encoding="utf-8")
    await until(lambda: taken[-1:] == ["new"])
    assert taken.count(text) == 1
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)
