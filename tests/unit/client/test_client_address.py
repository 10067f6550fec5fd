"""Server addresses, back-off and close codes: the pure parts of the client."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.app.client.address import is_loopback, normalize_server_url, socket_url
from backend.app.client.backoff import Backoff
from backend.app.client.close_codes import Duty, duty
from backend.app.schemas.messages import CLOSE_CODES, CloseCode


@pytest.mark.parametrize(
    ("typed", "canonical"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://Example.ORG/", "http://example.org"),
        ("https://wind.example:443/flow/", "https://wind.example/flow"),
        ("HTTP://[::1]:8000", "http://[::1]:8000"),
        (" https://wind.example ", "https://wind.example"),
    ],
)
def test_addresses_have_one_canonical_form(typed: str, canonical: str) -> None:
    """Credentials are kept per server URL: however an address is typed, it is one key."""
    assert normalize_server_url(typed) == canonical
    assert normalize_server_url(canonical) == canonical


@pytest.mark.parametrize(
    ("typed", "complaint"),
    [
        ("ftp://host", "scheme"),
        ("http://", "host"),
        ("http://user:secret@host", "no user name or password"),
        ("http://host?x=1", "no query"),
        ("http://host:99999", "[Pp]ort"),
    ],
)
def test_bad_addresses_are_refused_by_name(typed: str, complaint: str) -> None:
    """Bad input gets a clear error naming field and rule."""
    with pytest.raises(ValueError, match=complaint):
        normalize_server_url(typed)


def test_the_socket_is_below_the_servers_path() -> None:
    """WebSocket at `/api/v1/ws`, with the scheme that belongs to the server's."""
    assert socket_url("http://127.0.0.1:8000") == "ws://127.0.0.1:8000/api/v1/ws"
    assert socket_url("https://wind.example/flow") == "wss://wind.example/flow/api/v1/ws"


def test_only_this_machine_is_loopback() -> None:
    """No proxy is asked for what is on this machine."""
    assert is_loopback("http://localhost:8000")
    assert is_loopback("http://127.8.9.1")
    assert is_loopback("http://[::1]:8000")
    assert not is_loopback("http://10.0.0.1")
    assert not is_loopback("http://example.org")


@given(attempt=st.integers(1, 10_000), draw=st.floats(0, 1))
def test_backoff_grows_and_is_bounded(attempt: int, draw: float) -> None:
    """Retries are bounded, with back-off and jitter."""
    backoff = Backoff(first_seconds=0.2, longest_seconds=15)
    delay = backoff.delay_seconds(attempt, lambda: draw)
    step = min(15.0, 0.2 * 2 ** min(attempt - 1, 32))
    assert step / 2 <= delay <= step


def test_close_codes_follow_the_table() -> None:
    """One table of close codes, with the client's duty: the client does what the table says for each."""
    words = {
        Duty.LOG_IN: "log in again",
        Duty.REFRESH: "refresh the token",
        Duty.RECONNECT: "reconnect",
        Duty.STOP: "do not",
    }
    for code in CloseCode:
        assert CLOSE_CODES[code].duty.startswith(words[duty(code)]), code


@pytest.mark.parametrize("code", [1006, 1000, 1001, 1011, 4000, 4499])
def test_lost_connections_are_made_again(code: int) -> None:
    """4000–4499 and everything that is no verdict: reconnect with back-off."""
    assert duty(code) is Duty.RECONNECT


@pytest.mark.parametrize("code", [4500, 4999])
def test_verdicts_are_final(code: int) -> None:
    """4500–4999: do not reconnect."""
    assert duty(code) is Duty.STOP
