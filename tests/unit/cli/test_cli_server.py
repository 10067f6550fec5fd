"""`windflow serve`: the listening socket, the banner, and a start that fails."""

import errno
import socket
from dataclasses import dataclass

import pytest

from backend.app.cli.listener import bind, free_vanished_peers
from backend.app.cli.server import banner, server_address
from backend.app.config import Settings


@dataclass
class Admin:
    username: str
    password: str | None


def test_port_0_takes_a_free_one() -> None:
    """The socket is bound before the server starts, so that the printed port is the real one."""
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass


def test_a_taken_port_is_an_error() -> None:
    """A port that is taken is refused, unless the next free one was asked for."""
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(OSError, match=r"[Aa]ddress already in use") as raised:
            bind("127.0.0.1", port)
        assert raised.value.errno == errno.EADDRINUSE
        with bind("127.0.0.1", port, further_ports=50) as second:
            assert port < second.getsockname()[1] <= port + 50


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux has TCP_USER_TIMEOUT")
def test_accepted_connections_inherit_the_kernel_timeout() -> None:
    """A vanished peer is freed by the kernel: TCP_USER_TIMEOUT of the listening socket holds for what it accepts."""
    with bind("127.0.0.1", 0) as listener:
        free_vanished_peers(listener, 1.5)
        with socket.create_connection(listener.getsockname(), timeout=5):
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1500


def test_an_address_of_another_machine_is_an_error() -> None:
    """Falling back is for taken ports only."""
    with pytest.raises(OSError, match="assign requested address"):
        bind("192.0.2.1", 0, further_ports=50)


@pytest.mark.parametrize(
    ("settings", "address"),
    [
        (Settings(port=8001), "http://127.0.0.1:8001"),
        (Settings(host="0.0.0.0", port=8001), "http://127.0.0.1:8001"),
        (Settings(host="::", port=8001), "http://[::1]:8001"),
        (Settings(host="::1", port=8001), "http://[::1]:8001"),
        (Settings(port=8001, root_path="/flow"), "http://127.0.0.1:8001/flow"),
        (Settings(public_url="https://wind.example/flow/"), "https://wind.example/flow"),
    ],
)
def test_the_address_can_be_opened(settings: Settings, address: str) -> None:
    """The banner's address is one that can be opened from this machine."""
    assert server_address(settings) == address


def test_the_banner_shows_the_first_password_only_if_it_was_made() -> None:
    """`make run` prints the address, the first admin password once, and the login command."""
    settings = Settings(port=8001)
    made = banner(settings, Admin("admin", "s3cret-words"))
    assert "http://127.0.0.1:8001" in made
    assert "s3cret-words" in made
    assert "windflow login http://127.0.0.1:8001 --username admin" in made
    given = banner(settings, Admin("admin", None))
    assert "WINDFLOW_ADMIN_PASSWORD" in given
    later = banner(settings, None)
    assert "password" not in later
    assert "windflow login http://127.0.0.1:8001" in later
