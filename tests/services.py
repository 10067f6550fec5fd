"""Finds the services a machine offers, makes databases of one test process, and skips with a reason."""

import asyncio
import os
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import NoReturn
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

POSTGRES_URLS = (
    "postgresql://postgres@127.0.0.1:5432/postgres",
    "postgresql://postgres:postgres@127.0.0.1:5432/postgres",
)


PROVIDE_POSTGRES = "start one or set WINDFLOW_TEST_POSTGRES_URL"


def required() -> set[str]:
    """The services whose absence is a failure."""
    return {name.strip() for name in os.environ.get("WINDFLOW_TEST_REQUIRE", "").split(",") if name.strip()}


def require_or_skip(service: str, reason: str) -> NoReturn:
    """Skip the test with the reason, or fail it where the service is required."""
    if service in required():
        pytest.fail(f"{service} is required by WINDFLOW_TEST_REQUIRE: {reason}")
    pytest.skip(reason)


def skip_reasons(reports: Iterable[pytest.TestReport]) -> Counter[str]:
    """Count the skipped tests of a run by reason."""
    return Counter(
        (report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)).removeprefix("Skipped: ")
        for report in reports
    )


def _postgres_candidates() -> list[str]:
    given = os.environ.get("WINDFLOW_TEST_POSTGRES_URL")
    return [given.replace("postgresql+asyncpg://", "postgresql://")] if given else list(POSTGRES_URLS)


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url, timeout=5)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@contextmanager
def postgres_database(name: str) -> Iterator[str]:
    """Make a database, give its address, drop it; raise OSError when no server can be reached."""
    reasons = []
    for url in _postgres_candidates():
        try:
            asyncio.run(_execute(url, f"""CREATE DATABASE "{name}" ENCODING 'UTF8' TEMPLATE template0"""))
        except (OSError, asyncpg.PostgresError, TimeoutError) as error:
            reasons.append(str(error))
            continue
        try:
            yield urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
        finally:
            asyncio.run(_execute(url, f'DROP DATABASE "{name}" WITH (FORCE)'))
        return
    raise OSError("; ".join(reasons))


def database_name(settings: Mapping[str, str]) -> str:
    """Return what a server with these settings keeps its data in, as people call it."""
    return "PostgreSQL" if "DATABASE_URL" in settings else "SQLite"


@contextmanager
def server_database(kind: str) -> Iterator[dict[str, str]]:
    """Give the settings of a server on an empty database of its own: `sqlite` in its folder, or `postgres`.

    Skips with the reason, or fails where it is required, when there is no PostgreSQL.
    """
    if kind == "sqlite":
        yield {}
        return
    with ExitStack() as stack:
        try:
            url = stack.enter_context(postgres_database(f"windflow_test_{os.getpid()}_{uuid.uuid4().hex[:8]}"))
        except OSError as error:
            require_or_skip("postgres", f"no PostgreSQL: {error}; {PROVIDE_POSTGRES}")
        yield {"DATABASE_URL": url}
