"""What can go wrong between a client and its server, as types.

Raised by everything in `client`; the command line maps each to one line and an exit code.
Every message is written for the person at the terminal.
"""

from typing import Any


class ClientError(Exception):
    """Base of all errors of the client; `str()` is the sentence to show."""


class ServerUnreachable(ClientError):
    """No answer: nothing listens there, the network fails, or the server stayed unavailable for all retries."""

    def __init__(self, server_url: str, reason: str) -> None:
        self.server_url = server_url
        self.reason = reason
        super().__init__(f"cannot reach {server_url}: {reason}")


class NotLoggedIn(ClientError):
    """There are no credentials for this server, or it does not take them any more."""

    def __init__(self, server_url: str, reason: str) -> None:
        self.server_url = server_url
        self.reason = reason
        super().__init__(f"{reason}; log in with: windflow login {server_url}")


class ApiError(ClientError):
    """The server refused: `code` of the error table, `details` as it sent them, HTTP `status` (0 from a socket)."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        details: Any = None,
        status: int = 0,
        request_id: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        self.code = code
        self.message = message
        self.details = details
        self.status = status
        self.request_id = request_id
        self.retry_after_seconds = retry_after_seconds
        super().__init__(f"{message} ({code})")

    @property
    def is_access(self) -> bool:
        """Whether this is about who asks, not about what is asked."""
        return self.status in (401, 403) or self.code in ("not_authenticated", "token_expired", "forbidden")

    @property
    def is_temporary(self) -> bool:
        """Whether the same request may be taken later."""
        return self.status >= 500 or self.status == 429

    def detail(self, name: str) -> Any:
        """Return one fact of `details` (an object for codes like `log_gap`), or None."""
        return self.details.get(name) if isinstance(self.details, dict) else None


class SocketClosed(ClientError):
    """The server closed the socket with a code that says: do not come back."""

    def __init__(self, code: int, reason: str) -> None:
        self.code = code
        self.reason = reason
        super().__init__(f"the server closed the connection: {reason or 'no reason given'} ({code})")
