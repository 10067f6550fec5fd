"""What a log line looks like, and what it never shows."""

import json
import logging
from collections.abc import Iterator

import pytest

from backend.app.config import Settings
from backend.app.logs import configure_logging

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"
API_TOKEN = "wf_0123456789abcdefghij"
TICKET = "wft_" + "t" * 43


@pytest.fixture
def _restored() -> Iterator[None]:
    """The logging of the test process is given back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize("log_format", ["json", "text"])
@pytest.mark.parametrize(
    "address",
    [
        "/api/v1/ws?token=s3cret",
        "/api/v1/ws?a=1&Access_Token=s3cret&b=2",
        "/api/v1/ws?ticket=s3cret",
        f"/api/v1/ws?hidden={TICKET}",
        "/api/v1/ws?jwt=s3cret",
        "/api/v1/ws?AUTH=s3cret",
        f"/api/v1/ws?hidden={JWT}",
        f"/api/v1/ws?hidden={API_TOKEN}",
    ],
)
def test_no_line_shows_a_token(capsys: pytest.CaptureFixture[str], log_format: str, address: str) -> None:
    """Tokens are cut out of the message, of extras and of tracebacks, whoever logs them."""
    configure_logging(Settings(log_format=log_format))
    logger = logging.getLogger("somebody.else")
    try:
        raise ValueError(f"cannot fetch {address}")
    except ValueError:
        logger.exception("asked for %s", address, extra={"url": address, "nested": {"url": [address]}})
    written = capsys.readouterr().err
    for secret in ("s3cret", JWT, API_TOKEN, TICKET):
        assert secret not in written
    assert written.count("[redacted]") >= 4
    assert "/api/v1/ws?" in written
    if log_format == "json":
        record = json.loads(written)
        assert record["message"].startswith("asked for /api/v1/ws?")
        assert "ValueError" in record["exc_info"]


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize("log_format", ["json", "text"])
def test_the_query_of_an_upgrade_is_never_shown(capsys: pytest.CaptureFixture[str], log_format: str) -> None:
    """uvicorn logs the address of each upgrade: its query is cut, however a name in it is spelt."""
    configure_logging(Settings(log_format=log_format))
    logging.getLogger("uvicorn.error").warning('%s - "WebSocket %s" [accepted]', "127.0.0.1:1", "/ws?tok%65n=s3cret&x")
    written = capsys.readouterr().err
    assert "s3cret" not in written
    assert "/ws?[redacted]" in written
    if log_format == "json":
        assert json.loads(written)["message"] == '127.0.0.1:1 - "WebSocket /ws?[redacted]" [accepted]'


@pytest.mark.usefixtures("_restored")
def test_other_words_stay(capsys: pytest.CaptureFixture[str]) -> None:
    """What only looks like a secret is left alone."""
    configure_logging(Settings(log_format="json"))
    text = "the token of author=olga ran out; tokens=3, /deployments?status=running"
    logging.getLogger("somebody").warning(text)
    assert json.loads(capsys.readouterr().err)["message"] == text
