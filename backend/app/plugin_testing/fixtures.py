"""The fixtures. pytest imports this module by its entry point `pytest11`."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.app.plugin_testing.live import LiveServer
    from backend.app.plugin_testing.recording import RecordingContext
    from backend.app.plugin_testing.running import RunPlugin


@pytest.fixture
def plugin_context() -> "RecordingContext":
    """A PluginContext that keeps what a plugin broadcasts and sends, and refuses what a server would refuse."""
    from backend.app.plugin_testing.recording import recording_context

    return recording_context()


@pytest.fixture
def run_plugin(plugin_context: "RecordingContext") -> "RunPlugin":
    """`async with run_plugin(plugin, settings=…) as running`: the plugin under the real manager and supervisor.

    `plugin` is an instance, or the path of a plugin file with one plugin, which is loaded as a server would.
    """
    from backend.app.plugin_testing.running import RunPlugin

    return RunPlugin(plugin_context)


@pytest.fixture
def live_server(tmp_path: Path) -> "Iterator[Callable[..., LiveServer]]":
    """`live_server(plugins=folder, **settings)`: a server process of its own, stopped when the test ends.

    `settings` are names without `WINDFLOW_`, in any case: `live_server(plugins="plugins", plugin_threads=2)`.
    """
    from backend.app.plugin_testing.live import run_server

    with ExitStack() as servers:
        count = 0

        def start(plugins: str | Path | None = None, **settings: Any) -> "LiveServer":
            nonlocal count
            count += 1
            return servers.enter_context(run_server(tmp_path / f"live-server-{count}", plugins, settings))

        yield start
