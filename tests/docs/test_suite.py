"""The suite itself: services that are absent, and the mode that it runs in."""

import asyncio
import os
import subprocess
import sys

from tests.docs.markdown_files import ROOT

FILES = ("tests/unit/database/test_writer.py", "tests/docs/test_specification_plugins.py")
CLOSED_PORT = "postgresql://postgres@127.0.0.1:9/postgres"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the suite's PostgreSQL tests of two files with no PostgreSQL there."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "WINDFLOW_"))}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "postgres", *arguments, *FILES],
        env={**inherited, "WINDFLOW_TEST_POSTGRES_URL": CLOSED_PORT, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_what_is_absent_is_skipped_and_counted_by_reason() -> None:
    """Skipped with a line that says how to provide it, and counted by reason in the closing lines."""
    for workers in ([], ["-n", "2"]):
        done = run(*workers)
        assert done.returncode == 0, done.stdout
        (line,) = [line for line in done.stdout.splitlines() if " skipped: " in line]
        count, _, reason = line.partition(" skipped: ")
        assert reason.startswith("no PostgreSQL: ")
        assert reason.endswith("start one or set WINDFLOW_TEST_POSTGRES_URL")
        assert f"\n{count} skipped" in done.stdout.split(line)[1]
        assert int(count) > 10


def test_what_is_absent_and_required_is_a_failure() -> None:
    """WINDFLOW_TEST_REQUIRE turns absence into failure."""
    done = run(WINDFLOW_TEST_REQUIRE="redis,postgres")
    assert done.returncode == 1
    assert "postgres is required by WINDFLOW_TEST_REQUIRE: no PostgreSQL" in done.stdout
    assert "skipped" not in done.stdout.splitlines()[-1]


async def test_asyncio_debug_is_on_in_tests() -> None:
    """Coroutines that nobody awaits and calls from a wrong thread are found while the tests run."""
    assert asyncio.get_running_loop().get_debug()
