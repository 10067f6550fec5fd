"""Where a client's access token comes from: given once (API token, CI job), or a login that renews itself.

Asked before every request and every socket authentication. One refresh at a time, in this
process and across processes: a refresh token works once.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from filelock import Timeout

from backend.app.client.credentials import Credentials, CredentialStore
from backend.app.client.errors import ApiError, ClientError, NotLoggedIn

Refresh = Callable[[str], Awaitable[Credentials]]
"""Exchanges a refresh token for new credentials (without user name)."""


class TokenSource(Protocol):
    """Gives access tokens for one server."""

    async def token(self, rejected: str | None = None) -> str:
        """Return a token that is good for a while, and is not `rejected`; raise NotLoggedIn if there is none."""
        ...

    def expires_at(self) -> float | None:
        """Return when the last returned token ends (Unix seconds), None if that is not known."""
        ...


class StaticToken:
    """A token from `WINDFLOW_TOKEN` or an API token: it cannot be renewed here."""

    def __init__(self, server_url: str, token: str, origin: str = "the given token") -> None:
        self._server_url = server_url
        self._token = token
        self._origin = origin

    async def token(self, rejected: str | None = None) -> str:
        """Return the token; raise NotLoggedIn once the server rejected it."""
        if rejected == self._token:
            raise NotLoggedIn(self._server_url, f"the server does not take {self._origin} (expired or revoked)")
        return self._token

    def expires_at(self) -> float | None:
        """Return None: its end is the server's to know."""
        return None


class NoToken:
    """Nobody is logged in: the first request that needs a token says so."""

    def __init__(self, server_url: str) -> None:
        self._server_url = server_url

    async def token(self, rejected: str | None = None) -> str:
        """Raise NotLoggedIn."""
        raise NotLoggedIn(self._server_url, f"you are not logged in to {self._server_url}")

    def expires_at(self) -> float | None:
        """Return None."""
        return None


class StoredLogin:
    """The login kept in a credentials file, renewed shortly before its end or when the server rejects it."""

    def __init__(
        self,
        server_url: str,
        store: CredentialStore,
        refresh: Refresh,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._server_url = server_url
        self._store = store
        self._refresh = refresh
        self._clock = clock
        self._turn = asyncio.Lock()
        self._current: Credentials | None = None

    async def token(self, rejected: str | None = None) -> str:
        """Return the access token, renewing it first where needed.

        Raise NotLoggedIn when there is no login or its session ended, ServerUnreachable when renewing
        got no answer. Cancelling while another process renews leaves the file as it is.
        """
        current = self._current or self._read()
        if self._is_good(current, rejected):
            self._current = current
            return current.access_token
        async with self._turn:
            try:
                async with self._store.lock(self._server_url):
                    current = await self._renew(rejected)
            except Timeout as error:
                raise ClientError("another windflow command holds the credentials file for too long") from error
        self._current = current
        return current.access_token

    def expires_at(self) -> float | None:
        """Return the end of the last returned token (Unix seconds)."""
        return self._current.expires_at if self._current else None

    def _is_good(self, credentials: Credentials, rejected: str | None) -> bool:
        return credentials.access_token != rejected and not credentials.is_ending(self._clock())

    def _read(self) -> Credentials:
        credentials = self._store.read(self._server_url)
        if credentials is None:
            raise NotLoggedIn(self._server_url, f"you are not logged in to {self._server_url}")
        return credentials

    async def _renew(self, rejected: str | None) -> Credentials:
        """Renew under the lock, unless another process did while this one waited for it."""
        current = self._read()
        if self._is_good(current, rejected):
            return current
        if current.refresh_token is None:
            raise NotLoggedIn(self._server_url, "the server does not take the stored token (expired or revoked)")
        try:
            answer = await self._refresh(current.refresh_token)
        except ApiError as error:
            if error.status != 401:
                raise
            self._store.remove(self._server_url)
            raise NotLoggedIn(self._server_url, "your session ended") from error
        renewed = Credentials(
            access_token=answer.access_token,
            username=current.username,
            refresh_token=answer.refresh_token,
            expires_at=answer.expires_at,
            lifetime_seconds=answer.lifetime_seconds,
        )
        self._store.write(self._server_url, renewed)
        return renewed
