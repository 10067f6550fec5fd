"""From an error to one line on stderr and an exit status. The only place that knows the statuses."""

import sys
import traceback
from collections.abc import Sequence
from typing import Any

from backend.app.cli.ansi import safe_name

OK = 0
FAILED = 1
USAGE = 2
NO_ACCESS = 3
UNREACHABLE = 4
TIMED_OUT = 124
NOT_EXECUTABLE = 126
NOT_FOUND = 127
INTERRUPTED = 130


def report(error: Exception, *, is_verbose: bool) -> int:
    """Print what went wrong in one line (with `-v`, its traceback before that) and return the exit status."""
    if is_verbose:
        traceback.print_exception(error)
    print(f"windflow: {describe(error)}", file=sys.stderr, flush=True)
    return exit_status(error)


def exit_status(error: Exception) -> int:
    """Return the exit status of an error: not reachable, no access, or just failed."""
    if _is_loaded("backend.app.client.errors"):
        from backend.app.client.errors import ApiError, NotLoggedIn, ServerUnreachable, SocketClosed

        if isinstance(error, ServerUnreachable):
            return UNREACHABLE
        if isinstance(error, NotLoggedIn):
            return NO_ACCESS
        if isinstance(error, ApiError):
            if error.is_access:
                return NO_ACCESS
            is_away = error.status in (502, 504) or error.code == "server_restarting"
            return UNREACHABLE if is_away or (error.status == 503 and error.code == "unexpected_answer") else FAILED
        if isinstance(error, SocketClosed):
            return NO_ACCESS if error.code == 4503 else FAILED
    return FAILED


def describe(error: Exception) -> str:
    """Return an error as one line for a person."""
    if _is_loaded("backend.app.client.errors"):
        from backend.app.client.errors import ApiError, ClientError

        if isinstance(error, ApiError):
            return safe_name(_with_fields(error.message, error.details) + _request(error.request_id, error.status))
        if isinstance(error, ClientError):
            return safe_name(error)
    if type(error).__name__ == "ValidationError" and hasattr(error, "errors"):
        return safe_name("; ".join(_setting(item) for item in error.errors()))
    if isinstance(error, OSError):
        return safe_name(_os_error(error))
    text = str(error).strip()
    first = text.splitlines()[0] if text else type(error).__name__
    known = type(error).__name__ == "WindFlowError" or type(error).__module__.startswith("backend.app")
    return safe_name(first if known or isinstance(error, ValueError) else f"{first} ({type(error).__name__}; see -v)")


def _is_loaded(module: str) -> bool:
    """Whether an error can be of a module's classes at all: importing it only to ask would be slow."""
    return module in sys.modules


def _with_fields(message: str, details: Any) -> str:
    """Add the broken rules that the message does not already name."""
    if not isinstance(details, Sequence) or isinstance(details, str):
        return message
    rules = [
        f"{item['field']}: {item['rule']}"
        for item in details
        if isinstance(item, dict) and {"field", "rule"} <= item.keys()
    ]
    missing = [rule for rule in rules if rule not in message]
    return f"{message} ({'; '.join(missing)})" if missing else message


def _request(request_id: str | None, status: int) -> str:
    """Name the request where the server's log is where to look."""
    return f" [request {request_id}]" if request_id and status >= 500 else ""


def _setting(item: Any) -> str:
    """Return a broken setting as its variable's name and the rule."""
    name = "__".join(str(part) for part in item.get("loc", ())).upper()
    return f"WINDFLOW_{name}: {item.get('msg', 'not valid')}"


def _os_error(error: OSError) -> str:
    if error.strerror is None:
        return str(error) or type(error).__name__
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
