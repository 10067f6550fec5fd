"""How the server logs: one JSON object per line on stderr, or text for people.

JSON has `timestamp` in seconds with `Z`, `level`, `message`, then the extras of the record, as
plugins' documentation prints it. Invariant: no line shows a secret of an address or a header,
whoever logs it, be it in the message, an extra or a traceback.
"""

import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from backend.app.config import Settings

_NAMED = re.compile(
    r"""((?:\b|_)(?:token|ticket|password|refreshToken|secret|api_key|jwt|auth|authorization)=)[^\s&"'\\#]+""",
    re.IGNORECASE,
)
_TOKENS = re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*|\bwf[rt]?_[\w-]{16,}")
"""An access token, API token, refresh token or ticket, wherever it stands."""
_UPGRADES = re.compile(r"""("WebSocket [^?"\\]*\?)[^"\\]*""")
"""uvicorn's lines about upgrades: their whole query is cut, for a name in it may be spelt in a hidden way."""
_NOT_EXTRAS = frozenset(RESERVED_ATTRS) | {"color_message", "message"}


def redact(line: str) -> str:
    """Return a line without the secrets in it."""
    line = _NAMED.sub(r"\1[redacted]", line)
    return _UPGRADES.sub(r"\1[redacted]", _TOKENS.sub("[redacted]", line))


class _Json(JsonFormatter):
    """Fields in the printed order; everything that is not ASCII is escaped, so no line separator gets through."""

    def __init__(self) -> None:
        super().__init__("%(message)s", json_ensure_ascii=True)

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        moment = datetime.fromtimestamp(record.created, UTC)
        fields: dict[str, Any] = {}
        super().add_fields(fields, record, message_dict)
        log_data["timestamp"] = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
        log_data["level"] = record.levelname
        log_data["message"] = record.getMessage()
        log_data.update((key, value) for key, value in fields.items() if key not in log_data)


class _Text(logging.Formatter):
    """One line for people; control characters are shown, not obeyed."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:
        extras = {key: value for key, value in vars(record).items() if key not in _NOT_EXTRAS}
        tail = "".join(f" {key}={value}" for key, value in extras.items() if value is not None)
        line = super().formatMessage(record) + tail
        return "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)


def configure_logging(settings: Settings) -> None:
    """Send every log record of this process to stderr in the chosen format. Replaces what was configured before."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if settings.log_format == "json" else _Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    # One line per request or statement is what metrics are for.
    for name in ("uvicorn.error", "uvicorn.access", "httpx", "httpcore", "aiosqlite", "asyncio", "alembic.runtime"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
