"""Housekeeping: what is over goes, in bounded writes; what is of use stays."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, insert, select

from backend.app import metrics
from backend.app.config import Settings
from backend.app.database import Database, Transaction
from backend.app.models import ApiToken, IdempotencyKey, RefreshToken, Session, Ticket
from backend.app.models.columns import now
from backend.app.operations.housekeeping import Housekeeping
from backend.app.realtime.event import Event
from tests.identity_http import Http, ok, refused, serving
from tests.proving import amount

KEPT = 3600.0
LIFE = 7200.0


@pytest.fixture
async def http(database: Database, settings: Settings, committed: list[Event]) -> AsyncIterator[Http]:
    short = {
        "session_retention_seconds": KEPT,
        "refresh_token_seconds": LIFE,
        "idempotency_seconds": 60.0,
        "housekeeping_rows": 10,
    }
    async with serving(database, settings.model_copy(update=short), committed) as http:
        yield http


def housekeeping(http: Http) -> Housekeeping:
    return Housekeeping(http.world.db, http.world.settings)


async def count(http: Http, table: Any) -> int:
    ((found,),) = await http.world.rows(select(func.count()).select_from(table))
    return int(found)


def ago(seconds: float) -> Any:
    return now() - timedelta(seconds=seconds)


async def test_old_idempotency_keys_go_and_new_ones_still_answer(http: Http) -> None:
    """`Idempotency-Key`, kept for a time: afterwards its row goes; before, a retry makes nothing twice."""
    for key in ("old", "new"):
        headers = {"Idempotency-Key": key}
        ok(await http("root", "POST", "/organizations", {"name": f"org {key}"}, headers=headers), 201)
    await http.world.db.write(
        lambda tx: tx.conn.execute(
            IdempotencyKey.__table__.update().where(IdempotencyKey.key == "old").values(created_at=ago(61))  # type: ignore[attr-defined]
        )
    )
    removed = await housekeeping(http).run()
    assert removed["idempotency_keys"] == 1
    assert [row.key for row in await http.world.rows(select(IdempotencyKey.key))] == ["new"]
    again = {"Idempotency-Key": "new"}
    ok(await http("root", "POST", "/organizations", {"name": "org new"}, headers=again), 201)


async def test_sessions_that_are_over_go_with_their_tokens_and_live_ones_stay(http: Http) -> None:
    """Ended sessions go with their refresh tokens once nobody can use them; live ones stay."""
    sessions = {}
    for name in ("ada", "oli", "vic"):
        tokens = ok(await http.login(name))
        ((sessions[name],),) = await http.world.rows(select(Session.id).where(Session.user_id == name))
        ok(await http.refresh(tokens["refresh_token"]))
    await http.world.change(Session, sessions["ada"], ended_at=ago(KEPT + 1))
    await http.world.change(Session, sessions["oli"], ended_at=ago(KEPT - 60))
    removed = await housekeeping(http).run()
    assert (removed["sessions"], removed["refresh_tokens"]) == (1, 2)
    left = await http.world.rows(select(Session.user_id).order_by(Session.user_id))
    assert [row.user_id for row in left] == ["oli", "vic"]
    await http.world.change(Session, sessions["vic"], expires_at=ago(KEPT + 1))
    assert (await housekeeping(http).run())["sessions"] == 1


async def test_a_long_lived_session_keeps_only_the_tokens_that_tell_something(http: Http) -> None:
    """Used refresh tokens are kept for as long as one lives, to notice re-use; then they go, and the session lives."""
    first = ok(await http.login("ada"))["refresh_token"]
    second = ok(await http.refresh(first))["refresh_token"]
    third = ok(await http.refresh(second))["refresh_token"]
    used = await http.world.rows(select(RefreshToken.hash).where(RefreshToken.used_at.is_not(None)))
    assert len(used) == 2
    assert (await housekeeping(http).run())["refresh_tokens"] == 0
    for (digest,) in used:
        await http.world.db.write(
            lambda tx, digest=digest: tx.conn.execute(  # type: ignore[misc]
                RefreshToken.__table__.update().where(RefreshToken.hash == digest).values(used_at=ago(LIFE + 1))  # type: ignore[attr-defined]
            )
        )
    assert (await housekeeping(http).run())["refresh_tokens"] == 2
    refused(await http.refresh(first), 401, "not_authenticated")
    ok(await http.refresh(third))


async def test_api_tokens_that_are_over_go_and_usable_ones_stay(http: Http) -> None:
    """Revoked and run out API tokens go after a time; the others stay."""
    ids = [
        ok(await http("ada", "POST", "/auth/tokens", {"name": name, "role": "viewer"}), 201)["id"]
        for name in ("revoked", "ended", "fresh", "usable")
    ]
    await http.world.change(ApiToken, ids[0], revoked_at=ago(KEPT + 1))
    await http.world.change(ApiToken, ids[1], expires_at=ago(KEPT + 1))
    await http.world.change(ApiToken, ids[2], revoked_at=ago(KEPT - 60))
    assert (await housekeeping(http).run())["api_tokens"] == 2
    left = await http.world.rows(select(ApiToken.name).order_by(ApiToken.name))
    assert [row.name for row in left] == ["fresh", "usable"]


async def test_tickets_that_are_over_go(http: Http) -> None:
    """Housekeeping removes old tickets; one that can still be redeemed stays."""
    ok(await http.login("ada"))
    ((session_id,),) = await http.world.rows(select(Session.id))
    rows = [
        {
            "hash": f"h{seconds}",
            "user_id": "ada",
            "session_id": session_id,
            "created_at": now(),
            "expires_at": ago(seconds),
        }
        for seconds in (1, 100, -100)
    ]
    await http.world.db.write(lambda tx: tx.conn.execute(insert(Ticket), rows))
    assert (await housekeeping(http).run())["tickets"] == 2
    assert [row.hash for row in await http.world.rows(select(Ticket.hash))] == ["h-100"]


async def test_each_write_removes_a_bounded_number_of_rows(http: Http) -> None:
    """Bounded batches, so that the writer is never held long: also one session with very many tokens."""
    keys, tokens = amount(35, 5_000), amount(45, 5_000)
    most = amount(10, 500)
    world = http.world
    world.settings = world.settings.model_copy(update={"housekeeping_rows": most})
    ok(await http.login("ada"))
    ((session_id,),) = await world.rows(select(Session.id))

    def fill(tx: Transaction) -> None:
        tx.conn.execute(
            insert(IdempotencyKey),
            [
                {"user_id": "ada", "key": f"k{number}", "request_hash": "-", "created_at": ago(100)}
                for number in range(keys)
            ],
        )
        tx.conn.execute(
            insert(RefreshToken),
            [{"hash": f"h{number}", "session_id": session_id, "created_at": now()} for number in range(tokens)],
        )

    await world.db.write(fill)
    await world.change(Session, session_id, ended_at=ago(KEPT + 1))
    before = metrics.ROWS_REMOVED.labels("refresh_tokens")._value.get()
    writes: list[int] = []
    write = world.db.write

    async def counted(fn: Any) -> Any:
        result = await write(fn)
        writes.append(result)
        return result

    world.db.write = counted  # type: ignore[method-assign]
    removed = await housekeeping(http).run()
    assert removed == {
        "idempotency_keys": keys,
        "tickets": 0,
        "refresh_tokens": tokens + 1,
        "sessions": 1,
        "api_tokens": 0,
        "latest_values": 0,
    }
    assert max(writes) == most
    assert metrics.ROWS_REMOVED.labels("refresh_tokens")._value.get() == before + tokens + 1
    assert [await count(http, table) for table in (IdempotencyKey, RefreshToken, Session)] == [0, 0, 0]
