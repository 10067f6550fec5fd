"""Whatever is wrong with a plugin file, it is listed as failed with its reason, and the server starts."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.app.config import Settings
from backend.app.websocket.discovery import Discovered, Outcome, discover
from backend.app.websocket.plugins import default_plugins
from tests.plugin_world import make_manager

HEAD = """
from backend.app.websocket.plugin import WebSocketPlugin
from backend.app.websocket.plugins import default_plugins
"""
GOOD = HEAD + "class FinePlugin(WebSocketPlugin): pass\n"

BAD = {
    "an error that cannot be shown": """
class Shy(Exception):
    def __str__(self):
        raise RuntimeError("no text")
raise Shy
""",
    "a name that raises": """
class NamelessPlugin(WebSocketPlugin):
    @property
    def name(self):
        raise RuntimeError("no name")
""",
    "something else in default_plugins": "default_plugins.append(object())\n",
    "the class in default_plugins": """
class LatePlugin(WebSocketPlugin): pass
default_plugins.append(LatePlugin)
""",
    "a class whose signature cannot be read": """
class Unreadable:
    def __get__(self, instance, owner):
        raise RuntimeError("no signature")
class OddPlugin(WebSocketPlugin):
    __signature__ = Unreadable()
""",
    "a constructor with an error that cannot be shown": """
class Shy(Exception):
    def __str__(self):
        raise SystemExit(3)
class ShyPlugin(WebSocketPlugin):
    def __init__(self):
        raise Shy
""",
}


@pytest.fixture(autouse=True)
def _defaults() -> Iterator[None]:
    before = list(default_plugins)
    yield
    default_plugins[:] = before


def found_in(folder: Path) -> tuple[list[Discovered], dict[str, str], bool]:
    """Discover the folder's plugins; return what was found, the failures, and whether `fine` was registered."""
    manager = make_manager()
    found = discover(manager, Settings(plugins_dir=folder))
    return found, dict(manager.failures), manager.get("fine") is not None


@pytest.mark.parametrize("what", BAD)
def test_what_is_wrong_with_a_file_is_listed_and_the_others_load(what: str, tmp_path: Path) -> None:
    """A file with an error is listed as failed with its reason while the server starts."""
    (tmp_path / "a_bad.py").write_text(HEAD + BAD[what], encoding="utf-8")
    (tmp_path / "b_good.py").write_text(GOOD, encoding="utf-8")
    found, failures, is_fine = found_in(tmp_path)
    assert is_fine
    failed = [each for each in found if each.outcome is Outcome.FAILED]
    assert failed, found
    assert all(each.location.endswith("a_bad.py") and each.reason for each in failed)
    assert failures


def test_a_file_too_deep_to_read_is_only_left_out(tmp_path: Path) -> None:
    """Discovery with an allow list reads files without running them; one that cannot be read holds no allowed name."""
    (tmp_path / "a_deep.py").write_text("x = " + "-" * 100_000 + "1\n", encoding="utf-8")
    (tmp_path / "b_good.py").write_text(GOOD, encoding="utf-8")
    manager = make_manager()
    found = discover(manager, Settings(plugins_dir=tmp_path, plugins_allow=["fine"]))
    assert manager.get("fine") is not None
    assert {each.outcome for each in found if each.location.endswith("a_deep.py")} == {Outcome.SKIPPED}
