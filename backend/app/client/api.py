"""`WindFlowClient`: one server, one identity; REST calls and event streams.

What the command line and programs use. Where the identity comes from, first wins: the `token`
argument, else the login in the credentials file, which renews itself.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx

from backend.app.client.address import normalize_server_url
from backend.app.client.backoff import ONCE, RetryPolicy
from backend.app.client.credentials import Credentials, CredentialStore, config_dir
from backend.app.client.errors import ApiError, NotLoggedIn
from backend.app.client.rest import Answer, RestClient, Timeouts
from backend.app.client.tokens import NoToken, StaticToken, StoredLogin, TokenSource

if TYPE_CHECKING:
    from backend.app.client.items import Subscription
    from backend.app.client.stream import EventStream

PAGE_ITEMS = 200
"""Items asked for with one request of a list."""


class WindFlowClient:
    """Talks to one server as one user. `async with` closes its connections.

    `server_url` may miss its scheme (`http`). Raises ValueError for an address that is none.
    """

    def __init__(
        self,
        server_url: str,
        *,
        token: str | None = None,
        token_origin: str = "the given token",
        store: CredentialStore | None = None,
        policy: RetryPolicy | None = None,
        timeouts: Timeouts | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.server_url = normalize_server_url(server_url)
        self.rest = RestClient(self.server_url, policy=policy, timeouts=timeouts, transport=transport)
        self.store = store or CredentialStore(config_dir())
        self.tokens: TokenSource = (
            StaticToken(self.server_url, token, token_origin)
            if token
            else StoredLogin(self.server_url, self.store, self._refresh)
        )

    async def __aenter__(self) -> "WindFlowClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all HTTP connections; event streams are closed by who opened them."""
        await self.rest.close()

    # Identity

    async def login(self, username: str, password: str) -> Credentials:
        """Log in, keep the credentials, and use them from now on. Raises ApiError `invalid_credentials`."""
        answer = await self.rest.call(
            "POST",
            "auth/login",
            form={"username": username, "password": password},
            policy=RetryPolicy(attempts=2, give_up_seconds=2),
            is_keyed=False,
        )
        return self._keep(Credentials.from_answer(answer.body, username))

    async def login_with_token(self, token: str) -> dict[str, Any]:
        """Check a token with the server, keep it, and use it from now on; return its user."""
        self.tokens = StaticToken(self.server_url, token)
        user: dict[str, Any] = await self.get("auth/me")
        self._keep(Credentials(access_token=token, username=user.get("username")))
        return user

    async def logout(self, *, everywhere: bool = False) -> None:
        """End the session on the server (`everywhere`: all of the user's) and forget the credentials.

        They are forgotten even when the server cannot be reached; its error is raised afterwards.
        """
        try:
            await self.post("auth/logout", {"all": True} if everywhere else {}, policy=RetryPolicy(attempts=2))
        finally:
            self.store.remove(self.server_url)
            self.tokens = NoToken(self.server_url)

    def _keep(self, credentials: Credentials) -> Credentials:
        self.store.write(self.server_url, credentials)
        self.store.set_default_server(self.server_url)
        self.tokens = StoredLogin(self.server_url, self.store, self._refresh)
        return credentials

    async def _refresh(self, refresh_token: str) -> Credentials:
        answer = await self.rest.call("POST", "auth/refresh", body={"refreshToken": refresh_token}, is_keyed=False)
        return Credentials.from_answer(answer.body, None)

    # REST

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        policy: RetryPolicy | None = None,
        is_keyed: bool = True,
    ) -> Answer:
        """Send an authenticated request (path below `/api/v1`). Raises as `RestClient.call`.

        Where nobody is logged in and no server is there either, the missing server is what is told.
        """
        try:
            return await self.rest.call(
                method,
                path,
                tokens=self.tokens,
                body=body,
                params=params,
                headers=headers,
                policy=policy,
                is_keyed=is_keyed,
            )
        except NotLoggedIn:
            with contextlib.suppress(ApiError):
                await self.rest.call("GET", f"{self.server_url}/livez", policy=ONCE)
            raise

    async def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        """Return the JSON of a GET."""
        return (await self.request("GET", path, params=params)).body

    async def post(self, path: str, body: Any = None, *, policy: RetryPolicy | None = None) -> Any:
        """Return the JSON that answers a POST, None for an empty answer."""
        return (await self.request("POST", path, body=body if body is not None else {}, policy=policy)).body

    async def patch(self, path: str, body: Any) -> Any:
        """Return the new state after a PATCH."""
        return (await self.request("PATCH", path, body=body)).body

    async def delete(self, path: str) -> None:
        """Send a DELETE."""
        await self.request("DELETE", path)

    async def items(
        self, path: str, params: Mapping[str, Any] | None = None, *, limit: int | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield the items of a list, page after page, at most `limit` of them."""
        left = limit
        cursor: str | None = None
        while left is None or left > 0:
            size = PAGE_ITEMS if left is None else min(left, PAGE_ITEMS)
            page = await self.get(path, {**(params or {}), "limit": size, "cursor": cursor})
            for item in page["items"][:size]:
                yield item
            if left is not None:
                left -= len(page["items"])
            cursor = page.get("nextCursor")
            if not cursor:
                return

    # Events

    def events(
        self,
        *subscriptions: "Subscription",
        positions: Mapping[str, Any] | None = None,
        give_up_seconds: float | None = None,
        on_lost: Callable[[str, float], None] | None = None,
    ) -> "EventStream":
        """Return a stream of events, to be used with `async with` and `async for`; it reconnects by itself.

        With the `positions` of an earlier stream it goes on where that was.
        """
        from backend.app.client.stream import EventStream

        return EventStream(
            self.server_url,
            self.tokens,
            subscriptions,
            positions=positions,
            give_up_seconds=give_up_seconds,
            on_lost=on_lost,
        )


def path_segment(text: str) -> str:
    """Quote an id or name for use in a path."""
    return quote(text, safe="")
