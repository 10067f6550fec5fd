"""Who a session or an API token stands for now: one read of the database, nothing from a cache.

Called by `Sessions` for every request, for each socket whose user changed, and for all sockets
together when they are compared with the database.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, Result, Row, select
from sqlalchemy.ext.asyncio import AsyncSession

from backend.app.auth.permissions import Principal
from backend.app.database import Database
from backend.app.models import ApiToken, Session, User
from backend.app.models.columns import now
from backend.app.schemas.errors import ErrorCode, WindFlowError
from backend.app.schemas.roles import Role

IDS_PER_QUERY = 1_000
"""Databases bound the parameters of one statement."""

Found = Principal | WindFlowError
"""Whom credentials stand for, or why they stand for nobody."""


class UserInactive(WindFlowError):
    """The token is sound, but its user is gone or must not log in; a socket is told so in its close reason."""

    def __init__(self) -> None:
        super().__init__(ErrorCode.NOT_AUTHENTICATED, "the user does not exist or is inactive")


class SessionPrincipals:
    """Reads who sessions stand for. Callers that wait at the same time share one read, begun after they asked.

    The first one is served at once; while reads follow one another, each waits `group_seconds` for more callers.
    """

    def __init__(self, db: Database, *, most: int, group_seconds: float) -> None:
        self._db = db
        self._most = most
        self._group_seconds = group_seconds
        self._waiting: dict[str, list[asyncio.Future[Row[Any] | None]]] = {}
        self._task: asyncio.Task[None] | None = None

    async def read(self, user_id: str, session_id: str, expires_at: datetime | None) -> Principal:
        """Return the user of a live session; `expires_at` is when the access token ends.

        Raise `not_authenticated` when the session was ended or the user is gone or inactive, `token_expired`
        when the session ran out.
        """
        future: asyncio.Future[Row[Any] | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(session_id, []).append(future)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="read sessions")
        return _of_session(await future, user_id, expires_at)

    async def _run(self) -> None:
        """Read until nobody waits; a failed read is told to everyone who waited for it."""
        try:
            while self._waiting:
                futures = dict(self._waiting.popitem() for _ in range(min(self._most, len(self._waiting))))
                try:
                    rows = await self._read(list(futures))
                except BaseException as error:
                    _fail([future for waiting in futures.values() for future in waiting], error)
                    if not isinstance(error, Exception):
                        raise
                    continue
                for session_id, waiting in futures.items():
                    for future in waiting:
                        if not future.done():
                            future.set_result(rows.get(session_id))
                if self._waiting:
                    await asyncio.sleep(self._group_seconds)
        finally:
            self._task = None

    async def _read(self, session_ids: list[str]) -> dict[str, Row[Any]]:
        async with self._db.session() as session:
            return await _session_rows(session, session_ids)


_SESSIONS = select(
    Session.id.label("session_id"),
    Session.ended_at,
    Session.expires_at,
    User.id.label("user_id"),
    User.username,
    User.organization_id,
    User.role,
    User.is_superuser,
    User.is_active,
).join(User, User.id == Session.user_id)
_TOKENS = select(User, ApiToken).join(ApiToken, ApiToken.user_id == User.id)


async def _session_rows(session: AsyncSession, session_ids: Sequence[str]) -> dict[str, Row[Any]]:
    """Return the sessions that there are of these, each with its user, by their ids."""
    found: Result[Any] = await session.execute(_SESSIONS.where(Session.id.in_(session_ids)))
    return {row.session_id: row for row in found}


def _fail(futures: list["asyncio.Future[Row[Any] | None]"], error: BaseException) -> None:
    told = error if isinstance(error, Exception) else WindFlowError(ErrorCode.STORAGE_UNAVAILABLE)
    for future in futures:
        if not future.done():
            future.set_exception(told)


async def token_principal(db: Database, which: ColumnElement[bool]) -> Principal:
    """Return whom an API token stands for: its owner, with the lesser of both roles, never as a superuser.

    Raise `not_authenticated`, or `token_expired` when it ran out.
    """
    async with db.session() as session:
        found = await session.execute(_TOKENS.where(which))
        row = found.first()
    return _of_token(row)


async def present_principals(db: Database, principals: Iterable[Principal]) -> Mapping[Principal, Found]:
    """Return what each principal is now, in one snapshot: one query for all sessions, one for all API tokens."""
    known = set(principals)
    sessions = {each.session_id for each in known if each.token_id is None and each.session_id is not None}
    tokens = {each.token_id for each in known if each.token_id is not None}
    session_rows: dict[str, Row[Any]] = {}
    token_rows: dict[str, Row[User, ApiToken]] = {}
    async with db.session() as session:
        for ids in _parts(sessions):
            session_rows |= await _session_rows(session, ids)
        for ids in _parts(tokens):
            of_tokens = await session.execute(_TOKENS.where(ApiToken.id.in_(ids)))
            token_rows.update((row.ApiToken.id, row) for row in of_tokens)
    return {each: _judged(each, session_rows, token_rows) for each in known}


def _judged(principal: Principal, sessions: Mapping[str, Row[Any]], tokens: Mapping[str, Row[User, ApiToken]]) -> Found:
    try:
        if principal.token_id is not None:
            return _of_token(tokens.get(principal.token_id))
        return _of_session(sessions.get(principal.session_id or ""), principal.user_id, principal.expires_at)
    except WindFlowError as error:
        return error


def _parts(ids: Iterable[str]) -> Iterable[Sequence[str]]:
    remaining = iter(sorted(ids))
    while part := list(islice(remaining, IDS_PER_QUERY)):
        yield part


def _of_session(row: Row[Any] | None, user_id: str, expires_at: datetime | None) -> Principal:
    if row is None or row.user_id != user_id or not row.is_active:
        raise UserInactive
    if row.ended_at is not None:
        raise WindFlowError(ErrorCode.NOT_AUTHENTICATED, "the session has ended")
    if row.expires_at <= now():
        raise WindFlowError(ErrorCode.TOKEN_EXPIRED, "the session has run out")
    role = Role(row.role)
    return Principal(
        user_id, row.username, row.organization_id, role, row.is_superuser, row.session_id, None, expires_at
    )


def _of_token(row: Row[User, ApiToken] | None) -> Principal:
    if row is None or not row.User.is_active or row.ApiToken.revoked_at is not None:
        raise WindFlowError(ErrorCode.NOT_AUTHENTICATED, "the API token is not valid")
    owner, token = row.User, row.ApiToken
    if token.expires_at is not None and token.expires_at <= now():
        raise WindFlowError(ErrorCode.TOKEN_EXPIRED, "the API token has run out")
    owners_role = Role.ADMIN if owner.is_superuser else Role(owner.role)
    role = Role(token.role) if owners_role.includes(Role(token.role)) else owners_role
    return Principal(
        owner.id, owner.username, owner.organization_id, role, token_id=token.id, expires_at=token.expires_at
    )
