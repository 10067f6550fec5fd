"""`windflow plugin new NAME`: what it writes works as it is; what it refuses it refuses with the rule."""

import re
from pathlib import Path

import pytest

from backend.app.cli.app import run as windflow
from backend.app.websocket.discovery import discover_file
from backend.app.websocket.plugin import WebSocketPluginManager
from tests.elsewhere import PLAIN, run

Capture = pytest.CaptureFixture[str]


def new(capsys: Capture, *arguments: str) -> tuple[int, str, str]:
    """Run `plugin new` and return status, output, and errors in one line."""
    status = windflow(["plugin", "new", *arguments])
    out, err = capsys.readouterr()
    return status, out, re.sub(r"[\s│]+", " ", err)


def test_a_new_plugin_and_its_test_work_as_they_are(capsys: Capture, tmp_path: Path) -> None:
    """The test that it writes passes in an empty folder, with a real server in it."""
    directory = tmp_path / "some where"
    status, out, err = new(capsys, "bell", "--directory", str(directory))
    assert (status, err) == (0, "")
    assert f"python -m pytest {directory}" in out
    assert f"WINDFLOW_PLUGINS_DIR={directory} windflow serve" in out
    done = run(tmp_path, "-m", "pytest", "-q", "-W", "error", *PLAIN, str(directory))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


@pytest.mark.parametrize("name", ["a", "a_b", "v_2", "failure_bell", "x__y", "trailing_"])
def test_a_plugin_has_the_name_that_was_asked_for(capsys: Capture, tmp_path: Path, name: str) -> None:
    """Also one that a class's name cannot say."""
    assert (new(capsys, name, "--dir", str(tmp_path)))[0] == 0
    manager = WebSocketPluginManager()
    discover_file(manager, tmp_path / f"{name}.py")
    assert [plugin.name for plugin in manager.plugins] == [name]


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("Bell", "must be lower-case letters, digits and underscores, and begin with a letter"),
        ("../bell", "must be lower-case letters"),
        ("2bell", "begin with a letter"),
        ("b" * 65, "at most 64 characters, has 65"),
        ("class", "must not be a word of Python's own"),
        ("bell_plugin", "must not end with _plugin: the class gets that; say bell"),
        ("audit_logger", "is the name of a plugin that comes with WindFlow"),
    ],
)
def test_a_bad_name_is_refused(capsys: Capture, tmp_path: Path, name: str, rule: str) -> None:
    """With the rule that it breaks, and nothing is written."""
    status, _, err = new(capsys, name, "--directory", str(tmp_path / "plugins"))
    assert status == 2
    assert rule in err
    assert not (tmp_path / "plugins").exists()


@pytest.mark.parametrize("existing", ["bell.py", "tests/test_bell.py"])
def test_what_exists_is_not_touched(capsys: Capture, tmp_path: Path, existing: str) -> None:
    """Neither of the two files is written if one exists."""
    file = tmp_path / existing
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    status, _, err = new(capsys, "bell", "--directory", str(tmp_path))
    assert status == 2
    assert "exists; nothing was written" in err
    assert list(tmp_path.rglob("*.py")) == [file]
    assert file.read_text() == "mine"
