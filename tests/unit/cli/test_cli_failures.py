"""From errors to one line and an exit status."""

import pytest

from backend.app.cli.failures import describe, exit_status, report
from backend.app.client.errors import ApiError, ClientError, NotLoggedIn, ServerUnreachable, SocketClosed
from backend.app.config import Settings

URL = "http://127.0.0.1:8000"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ServerUnreachable(URL, "connection refused"), 4),
        (ApiError("unexpected_answer", "HTTP 502", status=502), 4),
        (ApiError("unexpected_answer", "HTTP 503", status=503), 4),
        (ApiError("server_restarting", "m", status=503), 4),
        (ApiError("storage_unavailable", "m", status=503), 1),
        (NotLoggedIn(URL, "not logged in"), 3),
        (ApiError("invalid_credentials", "m", status=401), 3),
        (ApiError("forbidden", "m", status=403), 3),
        (ApiError("forbidden", "m"), 3),
        (SocketClosed(4503, "logged out"), 3),
        (SocketClosed(4501, "bad messages"), 1),
        (ApiError("not_found", "m", status=404), 1),
        (ApiError("unsupported", "m"), 1),
        (ClientError("m"), 1),
        (OSError(13, "Permission denied", "/x"), 1),
        (KeyError("x"), 1),
    ],
)
def test_exit_statuses_follow_the_table(error: Exception, status: int) -> None:
    """Exit 0 ok · 1 failed · 2 usage · 3 not logged in or not allowed · 4 server not reachable."""
    assert exit_status(error) == status


def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Errors: one clear line on stderr, no traceback (unless -v)."""
    error = RuntimeError("first\nsecond\x1b[2J")
    assert report(error, is_verbose=False) == 1
    quiet = capsys.readouterr()
    with pytest.raises(RuntimeError) as raised:
        raise error
    assert report(raised.value, is_verbose=True) == 1
    assert quiet.out == ""
    assert quiet.err == "windflow: first (RuntimeError; see -v)\n"
    assert "Traceback" in capsys.readouterr().err


def test_broken_rules_are_named_once() -> None:
    """Bad input names field and rule."""
    details = [{"field": "name", "rule": "too long"}, {"field": "role", "rule": "unknown"}]
    refused = ApiError("invalid_payload", "name: too long", details=details, status=422)
    assert describe(refused) == "name: too long (role: unknown)"


def test_a_failure_of_the_server_names_the_request() -> None:
    """Where the server's log is where to look, the request's id is told."""
    assert "req-9" in describe(ApiError("internal", "The server failed.", status=500, request_id="req-9"))
    assert "req-9" not in describe(ApiError("not_found", "Not found", status=404, request_id="req-9"))


def test_a_bad_setting_is_named_as_its_variable() -> None:
    """A setting that is not valid is told by the variable's name and the rule."""
    with pytest.raises(ValueError, match="port") as raised:
        Settings(port=70_000)
    assert describe(raised.value) == "WINDFLOW_PORT: Input should be less than or equal to 65535"


def test_a_missing_file_is_named() -> None:
    """System errors say what and why."""
    assert describe(OSError(2, "No such file or directory", "/nowhere")) == "/nowhere: No such file or directory"
