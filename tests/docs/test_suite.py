"""The suite itself: services that are absent, and the mode that it runs in."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Sequence

from tests.docs.markdown_files import ROOT

FILES = ("tests/unit/database/test_writer.py", "tests/docs/test_specification_plugins.py")
NO_DATABASE = {
    "tests/integration/test_benchmark.py",
    "tests/integration/test_deployment_page.py",
    "tests/integration/test_http_protocol.py",
    "tests/integration/test_reference_page.py",
}
"""What these ask of a server is decided before it comes to the database."""
CLOSED_PORT = "postgresql://postgres@127.0.0.1:9/postgres"


def run(*arguments: str, files: Sequence[str] = FILES, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the suite's PostgreSQL tests of some files with no PostgreSQL there."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "WINDFLOW_"))}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "postgres", *arguments, *files],
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


def test_sqlite_and_postgresql_run_the_same_integration_suite() -> None:
    """SQLite and PostgreSQL run the same integration suite: no file is of one of them alone."""
    collected = {}
    for kind in ("postgres", "not postgres"):
        done = run("--collect-only", "-m", kind, files=("tests/integration",))
        assert done.returncode == 0, done.stdout
        found = re.findall(r"^(tests/integration/\S+\.py)::(\w+)(\S*)", done.stdout, re.MULTILINE)
        collected[kind] = {(file, name) for file, name, case in found if kind == "postgres" or "sqlite" in case}
    assert collected["postgres"] == collected["not postgres"]
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "tests/integration").glob("test_*.py")}
    assert files - {file for file, _ in collected["postgres"]} == NO_DATABASE


async def test_asyncio_debug_is_on_in_tests() -> None:
    """Coroutines that nobody awaits and calls from a wrong thread are found while the tests run."""
    assert asyncio.get_running_loop().get_debug()
