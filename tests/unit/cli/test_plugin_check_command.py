"""`windflow plugin check FILE`: what is in a file, or what is wrong with it."""

from pathlib import Path

import pytest

from backend.app.cli.app import run
from tests.integration.cli_process import Person

GOOD = """
from backend.app.websocket.plugin import WebSocketPlugin

class GreeterPlugin(WebSocketPlugin):
    event_types = ["DEPLOYMENT_CREATED"]
"""


@pytest.mark.parametrize(
    ("content", "status", "out", "err"),
    [
        (GOOD, 0, "greeter: handles DEPLOYMENT_CREATED", ""),
        ("\nimport nothing_here\n", 1, "", "No module named 'nothing_here', line 2"),
        ("x = 1\n", 1, "", "no plugin in it"),
        (GOOD.replace("DEPLOYMENT_CREATED", "DEPLOYMENT_MADE"), 1, "", "DEPLOYMENT_MADE"),
    ],
)
async def test_a_plugin_file_is_loaded_as_the_server_would(
    tmp_path: Path, content: str, status: int, out: str, err: str
) -> None:
    """Exit 0 and what it handles, or 1 and one line with file and reason."""
    file = tmp_path / "some_plugin.py"
    file.write_text(content)
    done = await Person("http://127.0.0.1:9", tmp_path / "home").run("plugin", "check", str(file))
    assert done.status == status, done.err
    assert out in done.out
    assert err in done.err
    assert "Traceback" not in done.err


PER_CONNECTION = """
from backend.app.websocket.plugin import WebSocketPlugin

class VisitPlugin(WebSocketPlugin):
    shared = 0

    def __init__(self):
        self.made = 0

    async def initialize(self, context):
        self.made = self.shared = self.opened = 1

    async def handle_event(self, event_type, event_data, context):
        self.later = self.made + self.shared
        return self.opened

    async def handle_message(self, message, context):
        return {"data": self.opened}
"""


def test_what_only_a_connection_has_is_warned_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With attribute, hook and line; a warning alone is no failure, and a look at the connection makes it none."""
    file = tmp_path / "visit.py"
    file.write_text(PER_CONNECTION)
    assert run(["plugin", "check", str(file)]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("windflow: visit: warning: handle_event reads `opened`, which is assigned in initialize()")
    assert line.endswith("assign it in __init__ or startup(), line 15")
    file.write_text(PER_CONNECTION.replace("return self.opened", "return context.websocket and self.opened"))
    assert run(["plugin", "check", str(file)]) == 0
    assert capsys.readouterr().err == ""


def test_several_files_are_checked_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a server would load them: two plugins of one name are found, and every file is said something of."""
    for name, content in (("a", GOOD), ("b", GOOD), ("c", "x = 1\n")):
        (tmp_path / f"{name}.py").write_text(content)
    assert run(["plugin", "check", *(str(tmp_path / f"{name}.py") for name in "abc")]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines() == ["greeter: handles DEPLOYMENT_CREATED"]
    duplicate, empty = err.splitlines()
    assert "greeter: plugin greeter: name: is in use by another instance" in duplicate
    assert empty.startswith("windflow: c: there is no plugin in it")
