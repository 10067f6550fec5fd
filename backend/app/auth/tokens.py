"""Tokens: signed access tokens (JWT), and the opaque ones that are looked up by their hash.

An access token only names a session: role and organization are read from the database with
each use, so a token never outlives a right. One algorithm; `iss`, `aud`, `exp`, `nbf`, `jti` and
`typ` are checked and everything else is ignored.
"""

import hashlib
import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import jwt

from backend.app.models.columns import new_id, now
from backend.app.schemas.errors import ErrorCode, WindFlowError

MAX_TOKEN_BYTES = 8_192
"""Longer ones are refused before anything is parsed."""
MIN_SECRET_BYTES = 32
API_TOKEN_PREFIX = "wf_"
REFRESH_TOKEN_PREFIX = "wfr_"
TICKET_PREFIX = "wft_"

_ALGORITHM = "HS256"
_TYPE = "access"
_REQUIRED = ["iss", "aud", "exp", "jti", "typ", "sub", "sid"]


def new_opaque_token(prefix: str) -> str:
    """Return a new random token: a prefix that tells what it is, and 256 bits."""
    return prefix + secrets.token_urlsafe(32)


def token_hash(token: str) -> str:
    """Return what is stored of an opaque token."""
    return hashlib.sha256(token.encode()).hexdigest()


def check_token_text(token: str) -> None:
    """Raise `not_authenticated` for what no token can be: too long, empty or not ASCII."""
    if not token or len(token) > MAX_TOKEN_BYTES or not token.isascii():
        raise _invalid()


def _invalid() -> WindFlowError:
    """Make the one answer to every token that was never valid: it tells nothing about why."""
    return WindFlowError(ErrorCode.NOT_AUTHENTICATED, "the token is not valid")


@dataclass(frozen=True, slots=True)
class AccessClaims:
    """What a valid access token says."""

    user_id: str
    session_id: str
    expires_at: datetime


class AccessTokens:
    """Signs and reads access tokens with the server's secret."""

    def __init__(
        self, secret: bytes, *, issuer: str, audience: str, seconds: float, clock: Callable[[], datetime] = now
    ) -> None:
        if len(secret) < MIN_SECRET_BYTES:
            raise ValueError(f"the signing secret needs at least {MIN_SECRET_BYTES} bytes")
        self._secret = secret
        self._issuer = issuer
        self._audience = audience
        self._seconds = seconds
        self._clock = clock

    def issue(self, user_id: str, session_id: str, not_after: datetime) -> tuple[str, AccessClaims]:
        """Return a new token of a session, and its claims; it ends no later than `not_after`."""
        moment = self._clock()
        expires_at = min(moment + timedelta(seconds=self._seconds), not_after)
        claims = {
            "sub": user_id,
            "sid": session_id,
            "jti": new_id(),
            "iat": moment.timestamp(),
            "exp": expires_at.timestamp(),
            "iss": self._issuer,
            "aud": self._audience,
            "typ": _TYPE,
        }
        token = jwt.encode(claims, self._secret, algorithm=_ALGORITHM)
        return token, AccessClaims(user_id, session_id, expires_at)

    def read(self, token: str) -> AccessClaims:
        """Return the claims of a valid token; raise `token_expired` or `not_authenticated`."""
        check_token_text(token)
        try:
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=[_ALGORITHM],
                issuer=self._issuer,
                audience=self._audience,
                # exp is checked below, to the millisecond; the library knows whole seconds only.
                options={
                    "require": _REQUIRED,
                    "strict_aud": True,
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
            expires_at = _moment(claims["exp"])
            begins_at = _moment(claims.get("nbf", 0))
        except (jwt.PyJWTError, ValueError, OverflowError) as error:
            raise _invalid() from error
        if claims["typ"] != _TYPE or not isinstance(claims["sid"], str) or begins_at > self._clock():
            raise _invalid()
        if expires_at <= self._clock():
            raise WindFlowError(ErrorCode.TOKEN_EXPIRED, "the access token has run out")
        return AccessClaims(claims["sub"], claims["sid"], expires_at)


def _moment(seconds: object) -> datetime:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds):
        raise ValueError("exp is not a number")
    return datetime.fromtimestamp(seconds, UTC)
