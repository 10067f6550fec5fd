"""Runs Python in another folder, as in a repository of somebody who has WindFlow installed."""

import os
import subprocess
import sys
from pathlib import Path

PLAIN = ("-p", "no:cacheprovider", "-p", "no:asyncio")
"""pytest without what a repository of an author need not have installed."""


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, with nothing of this repository but the installed package."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "WINDFLOW_"))}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=100
    )
