"""Errors as part of the interface: one table of codes for REST and WEBSOCKET_ERROR.

Operations raise `WindFlowError`; the API turns it into an answer with the code's HTTP
status, the socket into a WEBSOCKET_ERROR. Details name the field and the rule it broke.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import ValidationError


class ErrorCode(StrEnum):
    """Every error a client can get; `STATUS` has the HTTP status and `MEANING` the sentence for the reference."""

    INVALID_JSON = "invalid_json"
    INVALID_MESSAGE = "invalid_message"
    UNKNOWN_TYPE = "unknown_type"
    NOT_AUTHENTICATED = "not_authenticated"
    TOKEN_EXPIRED = "token_expired"
    TOKEN_REUSED = "token_reused"
    INVALID_CREDENTIALS = "invalid_credentials"
    FORBIDDEN = "forbidden"
    NOT_SENDABLE = "not_sendable"
    ROLE_TOO_HIGH = "role_too_high"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    NAME_TAKEN = "name_taken"
    ID_TAKEN = "id_taken"
    NOT_EMPTY = "not_empty"
    LAST_SUPERUSER = "last_superuser"
    INVALID_TRANSITION = "invalid_transition"
    LOG_GAP = "log_gap"
    DEPLOYMENT_CLOSED = "deployment_closed"
    DEPLOYMENT_ACTIVE = "deployment_active"
    LEASE_HELD = "lease_held"
    KEY_REUSED = "key_reused"
    RELOAD_FAILED = "reload_failed"
    LINES_EXPIRED = "lines_expired"
    MESSAGE_TOO_LARGE = "message_too_large"
    INVALID_PAYLOAD = "invalid_payload"
    WEAK_PASSWORD = "weak_password"
    TOO_MANY_SUBSCRIPTIONS = "too_many_subscriptions"
    RATE_LIMITED = "rate_limited"
    INTERNAL = "internal"
    UNSUPPORTED = "unsupported"
    SERVER_RESTARTING = "server_restarting"
    STORAGE_UNAVAILABLE = "storage_unavailable"


_E = ErrorCode

STATUS: Mapping[ErrorCode, int] = {
    _E.INVALID_JSON: 400,
    _E.INVALID_MESSAGE: 400,
    _E.UNKNOWN_TYPE: 400,
    _E.NOT_AUTHENTICATED: 401,
    _E.TOKEN_EXPIRED: 401,
    _E.TOKEN_REUSED: 401,
    _E.INVALID_CREDENTIALS: 401,
    _E.FORBIDDEN: 403,
    _E.NOT_SENDABLE: 403,
    _E.ROLE_TOO_HIGH: 403,
    _E.NOT_FOUND: 404,
    _E.METHOD_NOT_ALLOWED: 405,
    _E.NAME_TAKEN: 409,
    _E.ID_TAKEN: 409,
    _E.NOT_EMPTY: 409,
    _E.LAST_SUPERUSER: 409,
    _E.INVALID_TRANSITION: 409,
    _E.LOG_GAP: 409,
    _E.DEPLOYMENT_CLOSED: 409,
    _E.DEPLOYMENT_ACTIVE: 409,
    _E.LEASE_HELD: 409,
    _E.KEY_REUSED: 409,
    _E.RELOAD_FAILED: 409,
    _E.LINES_EXPIRED: 410,
    _E.MESSAGE_TOO_LARGE: 413,
    _E.INVALID_PAYLOAD: 422,
    _E.WEAK_PASSWORD: 422,
    _E.TOO_MANY_SUBSCRIPTIONS: 429,
    _E.RATE_LIMITED: 429,
    _E.INTERNAL: 500,
    _E.UNSUPPORTED: 501,
    _E.SERVER_RESTARTING: 503,
    _E.STORAGE_UNAVAILABLE: 503,
}
"""HTTP status of each code. Complete: a test compares it with the enum."""

MEANING: Mapping[ErrorCode, str] = {
    _E.INVALID_JSON: "The body or message is not JSON, or holds NaN, a lone surrogate or too deep nesting.",
    _E.INVALID_MESSAGE: "The message is JSON but not an object with a string `type`, or a command's data is wrong.",
    _E.UNKNOWN_TYPE: "No command, event or plugin knows this type.",
    _E.NOT_AUTHENTICATED: "No valid credentials came with the request.",
    _E.TOKEN_EXPIRED: "The token was valid and ran out: refresh it.",
    _E.TOKEN_REUSED: "A refresh token was used again; its whole session was ended.",
    _E.INVALID_CREDENTIALS: "User name and password do not match an active user.",
    _E.FORBIDDEN: "You may see it, but your role may not do this.",
    _E.NOT_SENDABLE: "This event type is not for you to send.",
    _E.ROLE_TOO_HIGH: "A token or user cannot get a role above your own.",
    _E.NOT_FOUND: "It does not exist, or belongs to another organization.",
    _E.METHOD_NOT_ALLOWED: "The path exists, but not with this method.",
    _E.NAME_TAKEN: "The name is in use.",
    _E.ID_TAKEN: "The id is in use with other content.",
    _E.NOT_EMPTY: "The organization still has users or deployments.",
    _E.LAST_SUPERUSER: "The last active superuser cannot be demoted, deactivated or deleted.",
    _E.INVALID_TRANSITION: "A deployment cannot go from its status to this one; details list the allowed ones.",
    _E.LOG_GAP: "Lines before `firstLine` are missing; details have `nextLine`.",
    _E.DEPLOYMENT_CLOSED: "The deployment ended and takes no more reports.",
    _E.DEPLOYMENT_ACTIVE: "The deployment has not ended: cancel it first.",
    _E.LEASE_HELD: "Another runner holds the deployment's lease.",
    _E.KEY_REUSED: "The Idempotency-Key was used for another request.",
    _E.RELOAD_FAILED: "The plugin's new code cannot work, the old one goes on; details have the `reason`.",
    _E.LINES_EXPIRED: "Retention removed these lines; details have `firstAvailable`.",
    _E.MESSAGE_TOO_LARGE: "The body or message is larger than the limit.",
    _E.INVALID_PAYLOAD: "A field breaks a rule; details name both.",
    _E.WEAK_PASSWORD: "The password is too short or too simple.",
    _E.TOO_MANY_SUBSCRIPTIONS: "This connection has as many subscriptions as allowed.",
    _E.RATE_LIMITED: "Too many messages or requests; wait and go on.",
    _E.INTERNAL: "The server failed; its log has the request id.",
    _E.UNSUPPORTED: "The protocol knows it, this server does not offer it yet.",
    _E.SERVER_RESTARTING: "The server is shutting down: reconnect after `retryAfterMs`.",
    _E.STORAGE_UNAVAILABLE: "The database does not answer; nothing was changed.",
}
"""One sentence for each code, for people and for the generated reference."""


_RULES_IN_MESSAGE = 3
"""How many broken rules a message names; the details have all of them."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One broken rule: `field` as the client spelled it (dotted path), `rule` in words."""

    field: str
    rule: str


class WindFlowError(Exception):
    """A refusal with a code of the table. It changes nothing and is shown to the client as it stands."""

    def __init__(
        self,
        code: ErrorCode,
        message: str | None = None,
        *,
        fields: Sequence[FieldError] = (),
        details: Mapping[str, Any] | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        self.code = code
        self.message = message or MEANING[code]
        self.fields = tuple(fields)
        self.details = dict(details) if details else None
        self.retry_after_seconds = retry_after_seconds
        super().__init__(f"{code}: {self.message}")

    @property
    def status(self) -> int:
        """The HTTP status of the code."""
        return STATUS[self.code]

    def body_details(self) -> Any:
        """What stands in `details`: broken rules as a list, or the code's own facts as an object; None if neither."""
        if self.fields:
            return [{"field": error.field, "rule": error.rule} for error in self.fields]
        return self.details


def field_error(code: ErrorCode, field: str, rule: str) -> WindFlowError:
    """Make the error for exactly one broken rule; its message names field and rule."""
    return WindFlowError(code, f"{field}: {rule}", fields=[FieldError(field, rule)])


def refused(code: ErrorCode, error: ValidationError, *, inside: str = "", about: str = "") -> WindFlowError:
    """Make the error for data that a model refused: every broken rule, the message with the first three.

    `inside` is the field in which the data stood, `about` what the message begins with.
    """
    fields = [
        FieldError(".".join(str(part) for part in (inside, *item["loc"]) if part != ""), item["msg"])
        for item in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    rules = "; ".join(f"{item.field}: {item.rule}" if item.field else item.rule for item in fields[:_RULES_IN_MESSAGE])
    return WindFlowError(code, f"{about}: {rules}" if about else rules, fields=fields)


def not_found(what: str) -> WindFlowError:
    """Make the one answer for what does not exist and for what belongs to another organization."""
    return WindFlowError(ErrorCode.NOT_FOUND, f"{what} not found")
