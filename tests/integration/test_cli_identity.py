"""Logins, tokens, users and organizations from the command line, against a real server."""

import asyncio
import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from backend.app.client.credentials import CredentialStore
from tests.integration.cli_process import Person
from tests.integration.server_process import PASSWORD, ServerProcess, server_process
from tests.integration.sockets import open_socket

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(
    module_database: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ServerProcess]:
    # A token lives for two seconds, so that every test also refreshes.
    settings = {"ACCESS_TOKEN_SECONDS": "2", "LOGIN_FAILURES": "50", **module_database}
    async with server_process(tmp_path_factory.mktemp("identity") / "server", settings) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def admin(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Person:
    return await Person(server.url, tmp_path_factory.mktemp("admin")).login("admin", PASSWORD)


async def test_login_status_and_logout(server: ServerProcess, tmp_path: Path) -> None:
    """Credentials per server URL, 0600; exit 3 when not logged in."""
    person = Person(server.url, tmp_path)
    before = await person.run("status")
    assert before.status == 3
    assert f"windflow login {server.url}" in before.err
    await person.login("admin", PASSWORD)
    files = list((tmp_path / "config" / "credentials").glob("*.json"))
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600]
    status = (await person.run("status", "--json")).json()
    assert status["user"]["username"] == "admin"
    assert status["server"] == server.url
    assert (await person.run("logout")).status == 0
    assert not files[0].exists()
    assert (await person.run("list")).status == 3
    assert (await person.run("logout")).status == 0


async def test_a_logout_ends_the_login_and_not_the_token_beside_it(server: ServerProcess, tmp_path: Path) -> None:
    """`logout` ends the session on the server, also where commands use the token in WINDFLOW_TOKEN."""
    person = await Person(server.url, tmp_path).login("admin", PASSWORD)
    secret = (await person.run("token", "add", "beside")).out.strip()
    (file,) = tmp_path.rglob("credentials/*.json")
    refresh_token = json.loads(file.read_text(encoding="utf-8"))["credentials"]["refresh_token"]
    person.environment["WINDFLOW_TOKEN"] = secret
    done = await person.run("logout")
    assert done.status == 0, done.err
    assert "WINDFLOW_TOKEN is set" in done.err
    assert not file.exists()
    async with httpx.AsyncClient() as client:
        answer = await client.post(f"{server.url}/api/v1/auth/refresh", json={"refreshToken": refresh_token})
        assert (answer.status_code, answer.json()["code"]) == (401, "token_expired")
    assert (await person.run("list")).status == 0
    assert (await person.run("token", "revoke", "beside")).status == 0


async def test_a_wrong_password_is_told(server: ServerProcess, tmp_path: Path) -> None:
    """Exit 3, one line, nothing kept."""
    person = Person(server.url, tmp_path)
    done = await person.run("login", "--username", "admin", "--password-stdin", stdin="wrong\n")
    assert done.status == 3
    assert done.err.count("\n") == 1
    assert "invalid_credentials" not in done.out
    assert (await person.run("list")).status == 3


async def test_the_last_login_is_the_server_of_later_commands(server: ServerProcess, tmp_path: Path) -> None:
    """The printed login command names the server once; later commands need not."""
    person = Person(server.url, tmp_path)
    del person.environment["WINDFLOW_SERVER_URL"]
    done = await person.run("login", server.url, "--username", "admin", "--password-stdin", stdin=f"{PASSWORD}\n")
    assert done.status == 0
    assert (await person.run("status", "--json")).json()["server"] == server.url


async def token_ended(server: ServerProcess, store: CredentialStore) -> None:
    """Wait until the server does not take the stored access token any more."""
    stored = store.read(server.url)
    assert stored
    async with asyncio.timeout(20), server.client(stored.access_token) as client:
        while (await client.get("/auth/me")).status_code != 401:  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.05)


async def test_commands_at_once_refresh_once(server: ServerProcess, admin: Person, tmp_path: Path) -> None:
    """The credentials file is locked while refreshing: commands at once do not end each other's session."""
    person = await Person(server.url, tmp_path).login("admin", PASSWORD)
    for _ in range(2):
        done = await asyncio.gather(*(person.run("list", "--json") for _ in range(4)))
        assert [item.status for item in done] == [0] * 4, [item.err for item in done]
        await token_ended(server, CredentialStore(tmp_path / "config"))  # now every command has to refresh


async def test_api_tokens_for_jobs(server: ServerProcess, admin: Person, tmp_path: Path) -> None:
    """`token add` prints the secret once; WINDFLOW_TOKEN and `login --token` use it; revoked it is worth nothing."""
    made = await admin.run("token", "add", "ci", "--role", "operator", "--days", "3")
    assert made.status == 0, made.err
    secret = made.out.strip()
    assert secret.startswith("wf_")
    job = Person(server.url, tmp_path / "job", {"WINDFLOW_TOKEN": secret})
    assert (await job.run("deploy", "--quiet", "--", "true")).status == 0
    assert (await job.run("user", "list")).status == 3
    person = Person(server.url, tmp_path / "person")
    assert (await person.run("login", "--token", "-", stdin=f"{secret}\n")).status == 0
    assert (await person.run("list")).status == 0
    listed = (await admin.run("token", "list", "--json")).json()["items"]
    assert [item["name"] for item in listed] == ["ci"]
    assert secret not in (await admin.run("token", "list")).out
    assert (await admin.run("token", "revoke", "ci")).status == 0
    refused = await job.run("list")
    assert refused.status == 3
    assert "WINDFLOW_TOKEN" in refused.err
    assert (await person.run("list")).status == 3
    assert (await admin.run("token", "revoke", "ci")).status == 1
    bad = await Person(server.url, tmp_path / "bad").run("login", "--token", "wf_nonsense")
    assert bad.status == 3


async def test_users_and_organizations(server: ServerProcess, admin: Person, tmp_path: Path) -> None:
    """user add/list/set/disable/delete and org add/list/delete, by name."""
    assert (await admin.run("org", "add", "acme")).status == 0
    assert (await admin.run("org", "add", "acme")).status == 1
    made = await admin.run("user", "add", "bob", "--org", "acme", "--json")
    password = made.json()["password"]
    assert (made.json()["role"], made.json()["username"]) == ("viewer", "bob")
    bob = await Person(server.url, tmp_path / "bob").login("bob", password)
    assert (await bob.run("status", "--json")).json()["user"]["organizationName"] == "acme"
    assert (await bob.run("deploy", "--", "true")).status == 3
    assert (await admin.run("user", "set", "bob", "--role", "operator")).status == 0
    assert (await bob.run("deploy", "--quiet", "--", "true")).status == 0
    names = [user["username"] for user in (await admin.run("user", "list", "--org", "acme", "--json")).json()["items"]]
    assert names == ["bob"]
    assert (await admin.run("org", "delete", "acme")).status == 1
    assert (await admin.run("user", "disable", "bob")).status == 0
    assert (await bob.run("list")).status == 3
    assert (await admin.run("user", "set", "bob", "--enable")).status == 0
    renewed = await admin.run("user", "set", "bob", "--new-password", "--json")
    await bob.login("bob", renewed.json()["password"])
    assert (await admin.run("user", "delete", "bob")).status == 0
    gone = await admin.run("user", "delete", "bob")
    assert gone.status == 1
    assert "no user 'bob'" in gone.err


async def test_bad_input_names_field_and_rule(admin: Person) -> None:
    """Bad input gets a clear error naming field and rule."""
    done = await admin.run("user", "add", "x", "--password-stdin", stdin="short\n")
    assert done.status == 1
    assert "password" in done.err
    assert done.err.count("\n") == 1
    too_long = await admin.run("token", "add", "x", "--days", "99999999999")
    assert too_long.status == 2
    assert "--days" in too_long.err


async def test_plugins_are_listed(admin: Person) -> None:
    """`plugin list` shows the server's plugins to superusers."""
    items = (await admin.run("plugin", "list", "--json")).json()["items"]
    assert {item["name"] for item in items} >= {"audit_logger", "deployment_monitor"}
    assert "audit_logger" in (await admin.run("plugin", "list")).out


async def test_a_reset_beside_a_running_server_closes_the_users_sockets(
    own_database: dict[str, str], tmp_path: Path
) -> None:
    """By database re-check: a password that is reset on the server's machine ends the user's open sockets, 4503."""
    folder = tmp_path / "server"
    async with server_process(folder, {"RECHECK_SECONDS": "0.2", **own_database}) as server:
        person = Person(server.url, tmp_path / "admin")
        person.environment["WINDFLOW_DATA_DIR"] = str(folder / "data")
        person.environment |= {f"WINDFLOW_{name}": value for name, value in own_database.items()}
        async with open_socket(server.socket_url, await server.login()) as socket:
            done = await person.run("user", "reset-password", "admin", "--json")
            assert done.status == 0, done.err
            assert (await socket.closed())[0] == 4503


async def test_a_lost_password_is_reset_on_the_servers_machine(own_database: dict[str, str], tmp_path: Path) -> None:
    """`user reset-password` works on the database itself, whether the server runs or not, and ends the sessions."""
    folder = tmp_path / "server"
    async with server_process(folder, own_database) as server:
        person = await Person(server.url, tmp_path / "admin").login("admin", PASSWORD)
        person.environment["WINDFLOW_DATA_DIR"] = str(folder / "data")
        person.environment |= {f"WINDFLOW_{name}": value for name, value in own_database.items()}
        done = await person.run("user", "reset-password", "admin", "--json")
        assert done.status == 0, done.err
        old = await Person(server.url, tmp_path / "old").run(
            "login", "--username", "admin", "--password-stdin", stdin=f"{PASSWORD}\n"
        )
        assert old.status == 3
        await person.login("admin", done.json()["password"])
    offline = await person.run("user", "reset-password", "ADMIN", "--password-stdin", stdin="another good one\n")
    assert offline.status == 0, offline.err
    assert (await person.run("user", "reset-password", "nobody")).status == 1
    upgraded = await person.run("db", "upgrade")
    assert upgraded.status == 0
    assert "up to date" in upgraded.out


async def test_a_password_is_not_reset_where_there_is_no_database(tmp_path: Path) -> None:
    """`user reset-password` in the wrong folder says so and makes nothing there."""
    person = Person("http://127.0.0.1:9", tmp_path)
    nowhere = await person.run("user", "reset-password", "admin", "--data-dir", str(tmp_path / "none"))
    assert nowhere.status == 1
    assert "there is no database" in nowhere.err
    assert not (tmp_path / "none").exists()
