"""The one way to a password check: an attempt waits for its turn, or is refused with a time to come back.

Login and password change go through it; see `login_limiter` for what is counted. An account with too many
failures is closed to strangers only: its owner is asked for the place, and counted there apart.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from backend.app.auth.login_limiter import LoginLimiter, login_keys
from backend.app.schemas.errors import ErrorCode, WindFlowError


@dataclass(slots=True)
class Attempt:
    """How an attempt went; what says nothing (a broken database) counts as neither."""

    is_success: bool | None = None


Place = Callable[[], Awaitable[str | None]]
"""Finds the name of a place where the account's owner was before, if the attempt comes from one."""


class LoginGate:
    """Lets password checks through, no more at once than may still fail."""

    def __init__(self, limiter: LoginLimiter, max_waiting: int = 1_000) -> None:
        self._limiter = limiter
        self._max_waiting = max_waiting
        self._waiting = 0
        self._ended = asyncio.Event()

    @asynccontextmanager
    async def attempt(self, username: str, address: str | None, place: Place) -> AsyncIterator[Attempt]:
        """Hold an attempt for an account from an address; the block sets `is_success`.

        `place` is asked only once the account failed too often elsewhere. Raise `rate_limited` with the time
        to wait after too many failures, or when too many wait.
        """
        keys = await self._admit(username, address, place)
        attempt = Attempt()
        try:
            yield attempt
        finally:
            self._limiter.end(keys, is_failure=attempt.is_success is False, is_success=attempt.is_success is True)
            self._ended.set()
            self._ended = asyncio.Event()

    async def _admit(self, username: str, address: str | None, place: Place) -> Sequence[str]:
        keys = login_keys(username, address)
        is_at_own_place = False
        while True:
            wait_seconds = self._limiter.retry_after_seconds(keys)
            if wait_seconds > 0:
                is_for_address = self._limiter.retry_after_seconds(keys[1:]) > 0
                if not (is_at_own_place or is_for_address) and (own := await place()) is not None:
                    keys, is_at_own_place = login_keys(username, address, own), True
                    continue
                raise WindFlowError(
                    ErrorCode.RATE_LIMITED, "too many wrong logins: wait", retry_after_seconds=wait_seconds
                )
            if self._limiter.begin(keys):
                return keys
            if self._waiting >= self._max_waiting:
                raise WindFlowError(ErrorCode.RATE_LIMITED, "too many logins at once", retry_after_seconds=1)
            self._waiting += 1
            try:
                await self._ended.wait()
            finally:
                self._waiting -= 1
