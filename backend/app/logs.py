"""How the server logs: one JSON object per line on stderr, or text for people.

JSON has `timestamp` in seconds with `Z`, `level`, `message`, then the extras of the record, as
plugins' documentation prints it. Tokens in addresses are cut out, whoever logs them.
"""

import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from backend.app.config import Settings

_SECRETS = re.compile(r"((?:token|access_token|ticket|password|refreshToken)=)[^\s&\"']+", re.IGNORECASE)
_NOT_EXTRAS = frozenset(RESERVED_ATTRS) | {"color_message", "message"}


class _Json(JsonFormatter):
    """Fields in the printed order; everything that is not ASCII is escaped, so no line separator gets through."""

    def __init__(self) -> None:
        super().__init__("%(message)s", json_ensure_ascii=True)

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

    def formatMessage(self, record: logging.LogRecord) -> str:
        extras = {key: value for key, value in vars(record).items() if key not in _NOT_EXTRAS}
        tail = "".join(f" {key}={value}" for key, value in extras.items() if value is not None)
        line = super().formatMessage(record) + tail
        return "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)


class Redaction(logging.Filter):
    """Cuts secrets out of what is logged."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        redacted = _SECRETS.sub(r"\1[redacted]", text)
        if redacted != text:
            record.msg, record.args = redacted, ()
        return True


def configure_logging(settings: Settings) -> None:
    """Send every log record of this process to stderr in the chosen format. Replaces what was configured before."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if settings.log_format == "json" else _Text())
    handler.addFilter(Redaction())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    # One line per request or statement is what metrics are for.
    for name in ("uvicorn.error", "uvicorn.access", "httpx", "httpcore", "aiosqlite", "asyncio", "alembic.runtime"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
