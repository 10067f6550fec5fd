"""Finds the services a machine offers, makes databases of one test process, and skips with a reason."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

POSTGRES_URLS = (
    "postgresql://postgres@127.0.0.1:5432/postgres",
    "postgresql://postgres:postgres@127.0.0.1:5432/postgres",
)


def required() -> set[str]:
    """The services whose absence is a failure."""
    return {name.strip() for name in os.environ.get("WINDFLOW_TEST_REQUIRE", "").split(",") if name.strip()}


def require_or_skip(service: str, reason: str) -> NoReturn:
    """Skip the test with the reason, or fail it where the service is required."""
    if service in required():
        pytest.fail(f"{service} is required by WINDFLOW_TEST_REQUIRE: {reason}")
    pytest.skip(reason)


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
            asyncio.run(_execute(url, f'CREATE DATABASE "{name}"'))
        except (OSError, asyncpg.PostgresError, TimeoutError) as error:
            reasons.append(str(error))
            continue
        try:
            yield urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
        finally:
            asyncio.run(_execute(url, f'DROP DATABASE "{name}" WITH (FORCE)'))
        return
    raise OSError("; ".join(reasons))
