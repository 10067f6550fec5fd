"""The kill points of crash tests: honoured only where a test asks, at the time it names."""

import os
import signal
import subprocess
import sys

import pytest

from backend.app.kill_points import KillPoint

PROGRAM = """
from backend.app import kill_points
for number in range(3):
    print(number, flush=True)
    kill_points.reached("after_commit")
    kill_points.reached("before_plugin_cursor")
    kill_points.reached("during_replay")
"""


def run(**variables: str) -> "subprocess.CompletedProcess[str]":
    """Run a program that passes each point three times."""
    environment = {**os.environ, **variables}
    return subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("fault", "printed"),
    [
        ("after_commit", "0"),
        ("after_commit:3", "0 1 2"),
        ("before_plugin_cursor:2", "0 1"),
        ("during_replay:3", "0 1 2"),
    ],
)
def test_the_process_is_killed_when_the_point_is_reached_that_often(fault: str, printed: str) -> None:
    """The process kills itself with SIGKILL at the n-th time."""
    ended = run(WINDFLOW_FAULT=fault, WINDFLOW_TEST_FAULTS="1")
    assert (ended.returncode, ended.stdout.split()) == (-signal.SIGKILL, printed.split())


@pytest.mark.parametrize("test_faults", ["", "0", "true"])
def test_without_the_test_setting_nothing_happens(test_faults: str) -> None:
    """Honoured only under the test setting, whatever the other variable says."""
    ended = run(WINDFLOW_FAULT="after_commit", WINDFLOW_TEST_FAULTS=test_faults)
    assert (ended.returncode, ended.stdout.split()) == (0, ["0", "1", "2"])
    assert run(WINDFLOW_FAULT="nonsense").returncode == 0


@pytest.mark.parametrize("fault", ["nonsense", "after_commit:0", "after_commit:x", "after_commit:-1"])
def test_a_point_that_does_not_exist_is_told(fault: str) -> None:
    """A crash test that names no point must not pass for lack of a crash."""
    with pytest.raises(
        ValueError, match=r"WINDFLOW_FAULT: .* is not one of after_commit, before_plugin_cursor, during_replay"
    ):
        KillPoint({"WINDFLOW_FAULT": fault, "WINDFLOW_TEST_FAULTS": "1"})
