"""The one way to a password check: an attempt waits for its turn, or is refused with a time to come back.

Login and password change go through it; see `login_limiter` for what is counted.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from backend.app.auth.login_limiter import LoginLimiter, login_keys
from backend.app.schemas.errors import ErrorCode, WindFlowError


@dataclass(slots=True)
class Attempt:
    """How an attempt went; what says nothing (a broken database) counts as neither."""

    is_success: bool | None = None


class LoginGate:
    """Lets password checks through, no more at once than may still fail."""

    def __init__(self, limiter: LoginLimiter, max_waiting: int = 1_000) -> None:
        self._limiter = limiter
        self._max_waiting = max_waiting
        self._waiting = 0
        self._ended = asyncio.Event()

    @asynccontextmanager
    async def attempt(self, username: str, address: str | None) -> AsyncIterator[Attempt]:
        """Hold an attempt for an account from an address; the block sets `is_success`.

        Raise `rate_limited` with the time to wait after too many failures, or when too many wait.
        """
        keys = login_keys(username, address)
        await self._admit(keys)
        attempt = Attempt()
        try:
            yield attempt
        finally:
            self._limiter.end(keys, is_failure=attempt.is_success is False, is_success=attempt.is_success is True)
            self._ended.set()
            self._ended = asyncio.Event()

    async def _admit(self, keys: Sequence[str]) -> None:
        while True:
            wait_seconds = self._limiter.retry_after_seconds(keys)
            if wait_seconds > 0:
                raise WindFlowError(
                    ErrorCode.RATE_LIMITED, "too many wrong logins: wait", retry_after_seconds=wait_seconds
                )
            if self._limiter.begin(keys):
                return
            if self._waiting >= self._max_waiting:
                raise WindFlowError(ErrorCode.RATE_LIMITED, "too many logins at once", retry_after_seconds=1)
            self._waiting += 1
            try:
                await self._ended.wait()
            finally:
                self._waiting -= 1
