"""The guide's first commands, as printed, in an empty folder: they end with a plugin, and its test passing."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from tests.docs.examples import GUIDE
from tests.docs.markdown_files import blocks


def test_a_first_plugin_in_an_empty_folder(tmp_path: Path) -> None:
    """The block of `plugin new`: the plugin loads, and its own test passes, a running server in it."""
    (block,) = [each for each in blocks(GUIDE, "sh") if "windflow plugin new" in each.text]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "WINDFLOW_"))}
    path = os.pathsep.join((str(Path(sys.executable).parent), kept.get("PATH", os.defpath)))
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        ["sh", "-e", "-c", block.text],
        cwd=tmp_path, env={**kept, "PATH": path}, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    seconds = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    # Printed and not bounded: the first is as much a matter of what else the machine does.
    print(f"\nthe guide's first plugin: {seconds:.1f} s, {busy:.1f} s of them on a processor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    assert "my_first: handles DEPLOYMENT_STATUS_CHANGED" in done.stdout
