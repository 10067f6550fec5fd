"""Who sessions stand for: callers that wait together share one read; each gets its own answer."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from backend.app.config import Settings
from backend.app.database import Database, Transaction
from backend.app.models import Session, User
from backend.app.models.columns import now
from backend.app.operations.principals import SessionPrincipals, UserInactive
from backend.app.operations.session_rows import open_session
from backend.app.realtime.event import Event
from backend.app.schemas.errors import ErrorCode, WindFlowError
from tests.identity_http import PEOPLE, Identity


class CountedReads(SessionPrincipals):
    """Counts the reads, and fails when it is told to."""

    def __init__(self, db: Database, **limits: Any) -> None:
        super().__init__(db, **{"most": 500, "group_seconds": 0.001, **limits})
        self.sizes: list[int] = []
        self.error: Exception | None = None

    async def _read(self, session_ids: list[str]) -> Any:
        self.sizes.append(len(session_ids))
        if self.error is not None:
            raise self.error
        return await super()._read(session_ids)


@pytest.fixture
async def sessions(database: Database, settings: Settings, committed: list[Event]) -> dict[str, str]:
    """A session of each of the people."""
    await Identity(database, settings, committed).fill()

    def unit(tx: Transaction) -> dict[str, str]:
        opened = {}
        for name in PEOPLE:
            user = tx.session.get(User, name)
            assert user is not None
            session, _ = open_session(tx, user, address=None, client=None, seconds=60)
            tx.session.flush()
            opened[name] = session.id
        return opened

    return await database.write(unit)


async def test_callers_that_wait_together_share_reads(database: Database, sessions: dict[str, str]) -> None:
    """A restart brings everyone back at once: one read for many, each answered with who they are."""
    reads = CountedReads(database)
    found = await asyncio.gather(*(reads.read(name, sessions[name], None) for name in list(PEOPLE) * 10))
    assert [principal.user_id for principal in found] == list(PEOPLE) * 10
    assert found[0].is_superuser
    assert found[-1].organization_id == "o2"
    assert sum(reads.sizes) <= len(PEOPLE) + 1


async def test_one_read_looks_up_at_most_so_many(database: Database, sessions: dict[str, str]) -> None:
    """A group is bounded; who does not fit is in the next one."""
    reads = CountedReads(database, most=2)
    found = await asyncio.gather(*(reads.read(name, sessions[name], None) for name in PEOPLE))
    assert [principal.user_id for principal in found] == list(PEOPLE)
    assert max(reads.sizes) == 2


async def test_each_caller_is_refused_for_its_own_reason(database: Database, sessions: dict[str, str]) -> None:
    """An ended, an expired, a foreign and an unknown session beside a good one."""

    def unit(tx: Transaction) -> None:
        tx.conn.execute(update(Session).where(Session.id == sessions["ada"]).values(ended_at=now()))
        tx.conn.execute(
            update(Session).where(Session.id == sessions["oli"]).values(expires_at=now() - timedelta(seconds=1))
        )
        tx.conn.execute(update(User).where(User.id == "vic").values(is_active=False))

    await database.write(unit)
    reads = CountedReads(database)
    asked = [("ada", "ada"), ("oli", "oli"), ("vic", "vic"), ("root", "bob"), ("bob", "bob")]
    results = await asyncio.gather(
        *(reads.read(user, sessions[session], None) for user, session in asked),
        reads.read("bob", "no such session", None),
        return_exceptions=True,
    )
    codes = [error.code if isinstance(error, WindFlowError) else None for error in results]
    not_authenticated = ErrorCode.NOT_AUTHENTICATED
    assert codes == [not_authenticated, ErrorCode.TOKEN_EXPIRED, *[not_authenticated] * 2, None, not_authenticated]
    assert isinstance(results[3], UserInactive)


async def test_a_failed_read_is_told_to_everyone_who_waited_for_it(
    database: Database, sessions: dict[str, str]
) -> None:
    """Nobody is left waiting, and the next caller is served again."""
    reads = CountedReads(database)
    reads.error = OSError("gone")
    results = await asyncio.gather(*(reads.read(name, sessions[name], None) for name in PEOPLE), return_exceptions=True)
    assert all(isinstance(error, OSError) for error in results)
    reads.error = None
    assert (await reads.read("ada", sessions["ada"], None)).user_id == "ada"


async def test_a_cancelled_caller_hurts_nobody_else(database: Database, sessions: dict[str, str]) -> None:
    """The others of its group are answered."""
    reads = CountedReads(database)
    first = asyncio.create_task(reads.read("ada", sessions["ada"], None))
    second = asyncio.create_task(reads.read("ada", sessions["ada"], None))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).user_id == "ada"
    assert first.cancelled() or await asyncio.gather(first, return_exceptions=True)
