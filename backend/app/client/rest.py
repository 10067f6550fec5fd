"""Requests to the REST API: token, idempotency key, bounded retries, errors as types.

Used by `WindFlowClient`. Every request can be repeated safely: GET, PUT, PATCH and DELETE by
their nature, POST by an Idempotency-Key that stays the same over all tries.
"""

import asyncio
import email.utils
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import uuid_utils

from backend.app.client.address import API_PATH, is_loopback
from backend.app.client.backoff import RetryPolicy
from backend.app.client.errors import ApiError, ServerUnreachable
from backend.app.client.tokens import TokenSource

USER_AGENT = "windflow-client"
_RENEWABLE = ("token_expired", "not_authenticated")
_RETRIED_STATUS = (429, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer: `body` is its JSON, None when it is empty."""

    status: int
    body: Any


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds for one try: to connect, and for each read or write after that."""

    connect_seconds: float = 5.0
    read_seconds: float = 30.0


class RestClient:
    """One keep-alive HTTP client for one server. Close it when done."""

    def __init__(
        self,
        server_url: str,
        *,
        policy: RetryPolicy | None = None,
        timeouts: Timeouts | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.server_url = server_url
        self._policy = policy or RetryPolicy()
        self._sleep = sleep
        given = timeouts or Timeouts()
        self._http = httpx.AsyncClient(
            base_url=server_url + API_PATH,
            timeout=httpx.Timeout(given.read_seconds, connect=given.connect_seconds),
            headers={"User-Agent": USER_AGENT},
            transport=transport,
            trust_env=not is_loopback(server_url),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def call(
        self,
        method: str,
        path: str,
        *,
        tokens: TokenSource | None = None,
        body: Any = None,
        form: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        policy: RetryPolicy | None = None,
        is_keyed: bool = True,
    ) -> Answer:
        """Send one request and return its answer.

        Tries again, with back-off or after the server's Retry-After, when nobody answered or the server
        is busy. With `tokens`, an expired token is renewed once. `is_keyed=False` leaves out the POST's
        Idempotency-Key, where the body itself makes a repetition harmless. Raises ApiError,
        ServerUnreachable or NotLoggedIn. A cancelled call may have reached the server.
        """
        sent = dict(headers or {})
        if method == "POST" and is_keyed:
            sent["Idempotency-Key"] = str(uuid_utils.uuid7())
        query = {name: value for name, value in (params or {}).items() if value is not None}
        request = _Request(method, path.lstrip("/"), body, form, query, sent)
        token = await tokens.token() if tokens else None
        try:
            return await self._with_retries(request, token, policy or self._policy)
        except ApiError as error:
            if tokens is None or error.status != 401 or error.code not in _RENEWABLE:
                raise
        token = await tokens.token(rejected=token)
        return await self._with_retries(request, token, policy or self._policy)

    async def _with_retries(self, request: "_Request", token: str | None, policy: RetryPolicy) -> Answer:
        started = time.monotonic()
        attempt = 0
        while True:
            attempt += 1
            wait: float | None = None
            error: ApiError | ServerUnreachable
            try:
                return await self._once(request, token)
            except ApiError as refused:
                if refused.status not in _RETRIED_STATUS:
                    raise
                error, wait = refused, refused.retry_after_seconds
            except ServerUnreachable as silent:
                error = silent
            if wait is None:
                wait = policy.backoff.delay_seconds(attempt)
            if attempt >= policy.attempts or time.monotonic() - started + wait > policy.give_up_seconds:
                raise error
            await self._sleep(wait)

    async def _once(self, request: "_Request", token: str | None) -> Answer:
        headers = dict(request.headers)
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        try:
            response = await self._http.request(
                request.method,
                request.path,
                json=request.body,
                data=request.form,
                params=request.params,
                headers=headers,
            )
        except httpx.TimeoutException as error:
            raise ServerUnreachable(self.server_url, "no answer in time") from error
        except httpx.HTTPError as error:
            raise ServerUnreachable(self.server_url, _reason(error)) from error
        if response.is_success:
            return Answer(response.status_code, self._json(response) if response.content else None)
        raise self._refusal(response)

    def _json(self, response: httpx.Response) -> Any:
        try:
            return response.json()
        except ValueError as error:
            raise ApiError(
                "unexpected_answer",
                f"{self.server_url} answered something that is not JSON: is it a WindFlow server?",
                status=response.status_code,
            ) from error

    def _refusal(self, response: httpx.Response) -> ApiError:
        """Make the error of an answer, also when it does not come from WindFlow (a proxy, another server)."""
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict) or not isinstance(body.get("code"), str):
            return ApiError(
                "unexpected_answer",
                f"{self.server_url} answered HTTP {response.status_code} {response.reason_phrase}"
                f" to {response.request.method} {response.request.url.path}",
                status=response.status_code,
                retry_after_seconds=retry_after_seconds(response.headers.get("Retry-After")),
            )
        return ApiError(
            body["code"],
            str(body.get("message") or body["code"]),
            details=body.get("details"),
            status=response.status_code,
            request_id=body.get("requestId"),
            retry_after_seconds=retry_after_seconds(response.headers.get("Retry-After")),
        )


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    body: Any
    form: Mapping[str, str] | None
    params: Mapping[str, Any]
    headers: Mapping[str, str]


def retry_after_seconds(value: str | None, now: Callable[[], float] = time.time) -> float | None:
    """Read a Retry-After header, seconds or a date; None when it is absent or makes no sense."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - now()
        except ValueError:
            return None
    return max(0.0, seconds) if seconds == seconds and seconds != float("inf") else None


def _reason(error: httpx.HTTPError) -> str:
    """Say in words why a request got no answer; httpx often has only the system's words, or none."""
    text = str(error)
    if "All connection attempts failed" in text:
        return "connection refused"
    return text or type(error).__name__
