"""Who may open a socket at all: origin, tokens in the address, and how many there are.

Asked by the endpoint before and after it accepts; counts live here and are given back when
the phase they count is over.
"""

from collections import Counter
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.websockets import WebSocket

from backend.app import metrics
from backend.app.config import Settings
from backend.app.schemas.errors import ErrorCode, WindFlowError

_SECRET_PARAMETERS = frozenset({"token", "access_token", "auth", "jwt", "authorization"})
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


class Admission:
    """Counts the sockets of this node that are not authenticated yet."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._unauthenticated = 0
        self._by_address: Counter[str] = Counter()

    def check_request(self, websocket: WebSocket) -> None:
        """Raise why the upgrade must be refused: a foreign origin, or a secret in the address."""
        if _SECRET_PARAMETERS.intersection(name.lower() for name in websocket.query_params):
            metrics.CONNECTIONS_REFUSED.labels("token in address").inc()
            raise WindFlowError(
                ErrorCode.INVALID_MESSAGE, "a token in the address is refused: send it in the first message"
            )
        if "ticket" in websocket.query_params:
            raise WindFlowError(ErrorCode.UNSUPPORTED, "ticket: one-time tickets are not offered yet")
        origin = websocket.headers.get("origin")
        if origin is not None and not self._is_allowed(origin, websocket):
            metrics.CONNECTIONS_REFUSED.labels("origin").inc()
            raise WindFlowError(ErrorCode.FORBIDDEN, "Origin: not allowed here; see WINDFLOW_ALLOWED_ORIGINS")

    def _is_allowed(self, origin: str, websocket: WebSocket) -> bool:
        if origin in self._settings.allowed_origins:
            return True
        try:
            given = urlsplit(origin)
            own = urlsplit(f"//{websocket.headers.get('host', '')}")
            default = _DEFAULT_PORTS.get(given.scheme)
            return (
                given.scheme in ("http", "https")
                and given.hostname is not None
                and (given.hostname, given.port or default) == (own.hostname, own.port or default)
            )
        except ValueError:  # a port that is no number
            return False

    def enter(self, address: str) -> Callable[[], None]:
        """Count a socket in its auth phase; return its undo. Raises `rate_limited` where a cap is reached."""
        if (
            self._unauthenticated >= self._settings.max_unauthenticated
            or self._by_address[address] >= self._settings.max_unauthenticated_per_address
        ):
            metrics.CONNECTIONS_REFUSED.labels("unauthenticated").inc()
            raise WindFlowError(ErrorCode.RATE_LIMITED, "too many sockets that are not authenticated")
        self._unauthenticated += 1
        self._by_address[address] += 1
        metrics.UNAUTHENTICATED.set(self._unauthenticated)
        is_inside = True

        def leave() -> None:
            nonlocal is_inside
            if not is_inside:
                return
            is_inside = False
            self._unauthenticated -= 1
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]
            metrics.UNAUTHENTICATED.set(self._unauthenticated)

        return leave
