"""Server addresses: from what people type to one canonical form, and to the socket's and the API's address."""

import ipaddress
from urllib.parse import urlsplit, urlunsplit

DEFAULT_SERVER_URL = "http://127.0.0.1:8000"
API_PATH = "/api/v1"
SOCKET_PATH = "/api/v1/ws"
_DEFAULT_PORTS = {"http": 80, "https": 443}


def normalize_server_url(text: str) -> str:
    """Return the canonical address (`http://host:port/path`, no trailing slash).

    A missing scheme is `http`. Raise ValueError naming what is wrong with anything that is no address of a server.
    """
    text = text.strip()
    parts = urlsplit(text if "://" in text else f"http://{text}")
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS:
        raise ValueError(f"server address {text!r}: the scheme must be http or https")
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"server address {text!r}: {error}") from error
    if not host:
        raise ValueError(f"server address {text!r}: a host is missing")
    if parts.username or parts.password:
        raise ValueError("server address: no user name or password in the address; use `windflow login`")
    if parts.query or parts.fragment:
        raise ValueError(f"server address {text!r}: no query and no fragment")
    shown = f"[{host}]" if ":" in host else host
    if port is not None and port != _DEFAULT_PORTS[scheme]:
        shown = f"{shown}:{port}"
    return urlunsplit((scheme, shown, parts.path.rstrip("/"), "", ""))


def socket_url(server_url: str) -> str:
    """Return the address of the WebSocket endpoint (`ws` for `http`, `wss` for `https`)."""
    return "ws" + server_url.removeprefix("http") + SOCKET_PATH


def is_loopback(server_url: str) -> bool:
    """Tell whether the server is on this machine, where no proxy is to be asked."""
    host = urlsplit(server_url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
