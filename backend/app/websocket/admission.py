"""Who may open a socket at all: origin, tokens in the address, and how many there are.

Asked by the endpoint before and after it accepts. Every accepted socket holds a `Place` until its end;
the counts of this node live here.
"""

from collections import Counter
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from backend.app import metrics
from backend.app.config import Settings
from backend.app.schemas.errors import ErrorCode, WindFlowError
from backend.app.schemas.messages import CloseCode

_SECRET_PARAMETERS = frozenset({"token", "access_token", "auth", "jwt", "authorization"})
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


class Full(Exception):
    """A cap is reached: the socket is closed with this code."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        self.code = code
        self.reason = reason
        super().__init__(reason)


class Place:
    """One socket's place: in the auth phase until `authenticated`, then one of its user's, free after `leave`."""

    __slots__ = ("_address", "_admission", "_user_id")

    def __init__(self, admission: "Admission", address: str) -> None:
        self._admission: Admission | None = admission
        self._address: str | None = address
        self._user_id: str | None = None

    def authenticated(self, user_id: str) -> None:
        """End the auth phase: the place counts for the user now. Raises `Full` where that is one too many."""
        if self._admission is not None and self._address is not None:
            self._admission._leave_auth_phase(self._address)
            self._address = None
            self._admission._enter_user(user_id)
            self._user_id = user_id

    def leave(self) -> None:
        """Give the place back; no-op if that was done."""
        admission, self._admission = self._admission, None
        if admission is None:
            return
        if self._address is not None:
            admission._leave_auth_phase(self._address)
        if self._user_id is not None:
            admission._leave_user(self._user_id)
        admission._leave()


class Admission:
    """The caps of this node."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open = 0
        self._unauthenticated = 0
        self._by_address: Counter[str] = Counter()
        self._by_user: Counter[str] = Counter()

    @property
    def authenticated(self) -> int:
        """How many sockets are served that have authenticated, from then to the end of their clean-up."""
        return self._open - self._unauthenticated

    def check_request(self, request: HTTPConnection) -> None:
        """Raise why an upgrade or a stream must be refused: a foreign origin, or a secret in the address."""
        # The parameters are parsed only where there are any: every connect of a restart comes this way.
        if request.scope["query_string"]:
            self._check_parameters({name.lower() for name in request.query_params})
        origin = request.headers.get("origin")
        if origin is not None and not self._is_allowed(origin, request):
            metrics.CONNECTIONS_REFUSED.labels("origin").inc()
            raise WindFlowError(ErrorCode.FORBIDDEN, "Origin: not allowed here; see WINDFLOW_ALLOWED_ORIGINS")

    def _check_parameters(self, names: set[str]) -> None:
        if _SECRET_PARAMETERS & names:
            metrics.CONNECTIONS_REFUSED.labels("token in address").inc()
            raise WindFlowError(
                ErrorCode.INVALID_MESSAGE,
                "a token in the address is refused: send it in the first message or the header Authorization",
            )

    def _is_allowed(self, origin: str, request: HTTPConnection) -> bool:
        if origin in self._settings.allowed_origins:
            return True
        try:
            given = urlsplit(origin)
            own = urlsplit(f"//{request.headers.get('host', '')}")
            default = _DEFAULT_PORTS.get(given.scheme)
            return (
                given.scheme in ("http", "https")
                and given.hostname is not None
                and (given.hostname, given.port or default) == (own.hostname, own.port or default)
            )
        except ValueError:  # a port that is no number
            return False

    def enter(self, address: str) -> Place:
        """Take a place for a socket in its auth phase; raise `Full` where a cap is reached."""
        settings = self._settings
        if self._open >= settings.max_connections:
            raise self._full("server", "the server has too many connections")
        if self._unauthenticated >= settings.max_unauthenticated:
            raise self._full("unauthenticated", "too many sockets that are not authenticated")
        if self._by_address[address] >= settings.max_unauthenticated_per_address:
            raise self._full("address", "too many sockets of this address that are not authenticated")
        self._open += 1
        self._unauthenticated += 1
        self._by_address[address] += 1
        metrics.UNAUTHENTICATED.set(self._unauthenticated)
        return Place(self, address)

    @staticmethod
    def _full(cap: str, reason: str) -> Full:
        metrics.CONNECTIONS_REFUSED.labels(cap).inc()
        return Full(CloseCode.RATE_LIMITED, reason)

    def _enter_user(self, user_id: str) -> None:
        if self._by_user[user_id] >= self._settings.max_connections_per_user:
            metrics.CONNECTIONS_REFUSED.labels("user").inc()
            raise Full(CloseCode.TOO_MANY_CONNECTIONS, "too many connections of this user")
        self._by_user[user_id] += 1

    def _leave_auth_phase(self, address: str) -> None:
        self._unauthenticated -= 1
        _count_down(self._by_address, address)
        metrics.UNAUTHENTICATED.set(self._unauthenticated)

    def _leave_user(self, user_id: str) -> None:
        _count_down(self._by_user, user_id)

    def _leave(self) -> None:
        self._open -= 1


def _count_down(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]
