"""Credentials files and the tokens that come from them."""

import asyncio
import json
import stat
from pathlib import Path

import pytest

from backend.app.client.credentials import Credentials, CredentialStore, config_dir
from backend.app.client.errors import ApiError, ClientError, NotLoggedIn
from backend.app.client.tokens import StaticToken, StoredLogin

SERVER = "http://127.0.0.1:8000"


def login(token: str, expires_at: float = 10_000.0, refresh: str = "r1") -> Credentials:
    return Credentials(token, "anna", refresh, expires_at, 900.0)


class Refresher:
    """Stands for the server's refresh: every refresh token works once."""

    def __init__(self) -> None:
        self.used: list[str] = []
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.entered = asyncio.Event()

    async def __call__(self, refresh_token: str) -> Credentials:
        self.entered.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        assert refresh_token not in self.used
        self.used.append(refresh_token)
        number = len(self.used) + 1
        return Credentials(f"t{number}", None, f"r{number}", 10_000.0 * number, 900.0)


def test_the_file_is_only_for_its_owner(tmp_path: Path) -> None:
    """Credentials per server URL in the user's config folder, 0600."""
    store = CredentialStore(tmp_path / "conf")
    store.write(SERVER, login("t1"))
    path = store.path(SERVER)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert store.read(SERVER) == login("t1")
    assert store.read("http://127.0.0.1:8001") is None
    assert [item.name for item in path.parent.iterdir()] == [path.name]


def test_a_second_write_replaces_the_first(tmp_path: Path) -> None:
    """A write is atomic: the file holds the old or the new credentials, never a mixture."""
    store = CredentialStore(tmp_path)
    store.write(SERVER, login("a" * 5000))
    store.write(SERVER, login("b"))
    assert store.read(SERVER) == login("b")
    assert store.remove(SERVER)
    assert not store.remove(SERVER)


@pytest.mark.parametrize("content", ["", "{", "{}", '{"credentials": {"access": 1}}', '{"credentials": 3}'])
def test_a_broken_file_is_named(tmp_path: Path, content: str) -> None:
    """A credentials file that cannot be read is an error that names it."""
    store = CredentialStore(tmp_path)
    store.write(SERVER, login("t1"))
    store.path(SERVER).write_text(content)
    with pytest.raises(ClientError, match=r"credentials file .*json"):
        store.read(SERVER)


def test_addresses_never_share_a_file(tmp_path: Path) -> None:
    """One file per server address, also where the readable part of the name is the same."""
    store = CredentialStore(tmp_path)
    urls = ["http://host", "https://host", "http://host/a_b", "http://host/a/b", "http://host:81"]
    assert len({store.path(url) for url in urls}) == len(urls)


def test_the_folder_can_be_chosen(tmp_path: Path) -> None:
    """`WINDFLOW_CONFIG_DIR` overrides the user's config folder."""
    assert config_dir({"WINDFLOW_CONFIG_DIR": str(tmp_path)}) == tmp_path
    assert config_dir({}).name == "windflow"


def test_the_last_login_is_the_default_server(tmp_path: Path) -> None:
    """Commands without `--server` talk to the server of the last login."""
    store = CredentialStore(tmp_path)
    assert store.default_server() is None
    store.set_default_server(SERVER)
    assert store.default_server() == SERVER


async def test_a_good_token_is_used_as_it_is(tmp_path: Path) -> None:
    """A token that is far from its end costs no request."""
    store, refresher = CredentialStore(tmp_path), Refresher()
    store.write(SERVER, login("t1"))
    tokens = StoredLogin(SERVER, store, refresher, clock=lambda: 9_000.0)
    assert await tokens.token() == "t1"
    assert tokens.expires_at() == 10_000.0
    assert refresher.used == []


async def test_a_token_is_renewed_before_its_end(tmp_path: Path) -> None:
    """The token is refreshed shortly before expiry, and the file holds the new one with the user's name."""
    store, refresher = CredentialStore(tmp_path), Refresher()
    store.write(SERVER, login("t1"))
    tokens = StoredLogin(SERVER, store, refresher, clock=lambda: 9_980.0)
    assert await tokens.token() == "t2"
    assert store.read(SERVER) == Credentials("t2", "anna", "r2", 20_000.0, 900.0)


async def test_a_rejected_token_is_renewed(tmp_path: Path) -> None:
    """A 401 `token_expired` leads to a refresh, whatever this machine's clock says."""
    store, refresher = CredentialStore(tmp_path), Refresher()
    store.write(SERVER, login("t1"))
    tokens = StoredLogin(SERVER, store, refresher, clock=lambda: 0.0)
    assert await tokens.token(rejected="t1") == "t2"
    assert refresher.used == ["r1"]


async def test_many_askers_refresh_once(tmp_path: Path) -> None:
    """A refresh token works once: whoever waited for the lock takes what the first one got."""
    store, refresher = CredentialStore(tmp_path), Refresher()
    store.write(SERVER, login("t1"))
    refresher.gate = asyncio.Event()
    # Two sources with one file stand for two processes: they share nothing but the lock.
    sources = [StoredLogin(SERVER, store, refresher, clock=lambda: 9_999.0) for _ in range(2)]
    asked = [asyncio.create_task(source.token(rejected="t1")) for source in sources for _ in range(3)]
    await refresher.entered.wait()
    refresher.gate.set()
    assert set(await asyncio.gather(*asked)) == {"t2"}
    assert refresher.used == ["r1"]


async def test_an_ended_session_is_forgotten(tmp_path: Path) -> None:
    """When the server ends the session, the user is told to log in, and the dead credentials go."""
    store, refresher = CredentialStore(tmp_path), Refresher()
    store.write(SERVER, login("t1"))
    refresher.error = ApiError("token_reused", "used again", status=401)
    with pytest.raises(NotLoggedIn, match=f"windflow login {SERVER}"):
        await StoredLogin(SERVER, store, refresher, clock=lambda: 11_000.0).token()
    assert store.read(SERVER) is None


async def test_a_failing_server_keeps_the_login(tmp_path: Path) -> None:
    """A refresh that fails for another reason is no reason to forget anything."""
    store, refresher = CredentialStore(tmp_path), Refresher()
    store.write(SERVER, login("t1"))
    refresher.error = ApiError("storage_unavailable", "down", status=503)
    with pytest.raises(ApiError):
        await StoredLogin(SERVER, store, refresher, clock=lambda: 11_000.0).token()
    assert store.read(SERVER) == login("t1")


async def test_nobody_logged_in(tmp_path: Path) -> None:
    """Without credentials the error names the command that helps."""
    with pytest.raises(NotLoggedIn, match=f"windflow login {SERVER}"):
        await StoredLogin(SERVER, CredentialStore(tmp_path), Refresher()).token()


async def test_a_given_token_cannot_be_renewed() -> None:
    """`WINDFLOW_TOKEN` is used as it is; once the server rejects it there is nothing to try."""
    tokens = StaticToken(SERVER, "wf_x", "the token in WINDFLOW_TOKEN")
    assert await tokens.token() == "wf_x"
    with pytest.raises(NotLoggedIn, match="WINDFLOW_TOKEN"):
        await tokens.token(rejected="wf_x")


def test_the_file_is_readable_json(tmp_path: Path) -> None:
    """The file says which server it is for."""
    store = CredentialStore(tmp_path)
    store.write(SERVER, login("t1"))
    assert json.loads(store.path(SERVER).read_text())["server"] == SERVER
