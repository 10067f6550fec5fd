"""`windflow plugin check FILE`: what is in a file, or what is wrong with it."""

from pathlib import Path

import pytest

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
