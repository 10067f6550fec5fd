"""What all tests share: databases of their own, on every server that the machine offers.

A missing service skips its tests with a reason; WINDFLOW_TEST_REQUIRE names those that must
be there. Each test process makes and drops its own PostgreSQL database.
"""

import os
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest
from pydantic import SecretStr

from backend.app.config import Settings
from backend.app.database import Base, Database
from backend.app.realtime.event import Event
from backend.app.realtime.unit_of_work import write_hooks
from benchmarks.build import NO_COMPILER
from benchmarks.build import compiler as find_compiler
from tests.proving import IS_PROVING
from tests.proving_report import Report
from tests.services import PROVIDE_POSTGRES, postgres_database, require_or_skip, server_database, skip_reasons

for _name in [name for name in os.environ if name.startswith("WINDFLOW_") and not name.startswith("WINDFLOW_TEST_")]:
    del os.environ[_name]  # a developer's own settings must not decide what the tests see


# No deadline for an example: how long one takes on a busy machine is not what is tested.
hypothesis.settings.register_profile("test", deadline=None, print_blob=True)
hypothesis.settings.register_profile("prove", deadline=None, print_blob=True, max_examples=2000)
hypothesis.settings.load_profile("prove" if IS_PROVING else "test")


def pytest_configure(config: pytest.Config) -> None:
    """Have what a proving run measures written to its page."""
    config.pluginmanager.register(Report(), "windflow-figures")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in the closing lines how many tests were skipped, for each reason."""
    reasons = skip_reasons(terminalreporter.stats.get("skipped", []))
    if reasons:
        terminalreporter.write_sep("=", "skipped, by reason")
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count} skipped: {reason}")


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The address of an empty PostgreSQL database of this test process."""
    try:
        with postgres_database(f"windflow_test_{os.getpid()}_{uuid.uuid4().hex[:8]}") as url:
            yield url
    except OSError as error:
        require_or_skip("postgres", f"no PostgreSQL: {error}; {PROVIDE_POSTGRES}")


@pytest.fixture(scope="session")
def compiler() -> None:
    """Nothing, where there is a C compiler for the programs of benchmarks/."""
    if find_compiler() is None:
        require_or_skip("compiler", NO_COMPILER)


DATABASES = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    """Each test that asks for it runs on SQLite and on PostgreSQL. None means SQLite in the data folder."""
    if request.param == "sqlite":
        return None
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(scope="module", params=DATABASES)
def module_database(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """The settings of the one server of a module: its tests run once for each kind of database."""
    with server_database(request.param) as settings:
        yield settings


@pytest.fixture(params=DATABASES)
def own_database(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """The settings of a server of one test: it runs once for each kind of database."""
    with server_database(request.param) as settings:
        yield settings


@pytest.fixture
def settings(tmp_path: Path, database_url: str | None) -> Settings:
    """Settings with short durations and a data folder of their own."""
    return Settings(
        data_dir=tmp_path / "data",
        database_url=database_url,
        port=0,
        log_format="text",
        admin_password=SecretStr("correct horse"),
        database_timeout_seconds=5,
        plugin_timeout_seconds=0.5,
        plugin_cancel_grace_seconds=0.2,
    )


@pytest.fixture
def committed() -> list[Event]:
    """The events that were committed on `database`, in order."""
    return []


@pytest.fixture
async def database(settings: Settings, committed: list[Event]) -> AsyncIterator[Database]:
    """A connected database with empty tables; its events are collected in `committed`."""
    database = Database()
    await database.connect(settings, write_hooks("node-test", committed.append))
    try:
        await database.create_tables()
        await clear(database)
        yield database
    finally:
        await database.disconnect()


async def clear(database: Database) -> None:
    """Empty every table."""

    def empty(tx: object) -> None:
        for table in reversed(Base.metadata.sorted_tables):
            tx.conn.execute(table.delete())  # type: ignore[attr-defined]

    await database.write(empty)
