"""How many connections a server takes follows from its file descriptors. In processes with limits of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
PROGRAM = """
import resource
from backend.app.cli.descriptors import raise_descriptor_limit
from backend.app.config import Settings
raise_descriptor_limit()
settings = Settings()
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], settings.max_connections, settings.max_tcp_connections)
"""


@pytest.mark.parametrize(
    ("soft", "hard", "limit", "sockets", "connections"),
    [
        (1000, 1000, 1000, 800, 900),
        (256, 256, 256, 204, 208),
        (128, 128, 128, 80, 80),
        (256, 4096, 4096, 3276, 3687),
    ],
)
def test_defaults_follow_from_the_limit(soft: int, hard: int, limit: int, sockets: int, connections: int) -> None:
    """MAX_CONNECTIONS is 80 % of the descriptor limit, whose soft value is raised to the hard one."""
    command = f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$@"'
    done = subprocess.run(
        ["sh", "-c", command, "sh", sys.executable, "-c", PROGRAM],
        cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.split() == [str(limit), str(sockets), str(connections)]
