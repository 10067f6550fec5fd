"""The command tree: options before and after, help, versions, exit statuses, and a fast start."""

import subprocess
import sys
from pathlib import Path

import pytest

from backend.app.cli.app import run
from backend.app.client.credentials import CredentialStore
from backend.app.version import VERSION

NAMES = "serve login logout status deploy list show logs watch cancel user org token contract plugin db"
COMMANDS = (
    NAMES.split(),
    {
        "user": "add list set disable delete reset-password",
        "org": "add list delete",
        "token": "add list revoke",
        "contract": "build check",
        "plugin": "list check",
        "db": "upgrade",
    },
)
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINDFLOW_CONFIG_DIR", str(tmp_path / "conf"))
    monkeypatch.setenv("WINDFLOW_TOKEN", "wf_test")
    monkeypatch.setenv("COLUMNS", "200")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_is_the_map(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """`windflow --help` is the map: it names every command."""
    status = run(arguments)
    shown = capsys.readouterr()
    assert status == (0 if arguments else 2)
    for name in COMMANDS[0]:
        assert f" {name} " in shown.out + shown.err


def test_groups_name_their_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """Each group's help names its commands."""
    for group, names in COMMANDS[1].items():
        assert run([group, "--help"]) == 0
        shown = capsys.readouterr().out
        for name in names.split():
            assert f" {name} " in shown


def test_every_command_takes_the_shared_options(capsys: pytest.CaptureFixture[str]) -> None:
    """All commands: --server, --json, --no-color, -v."""
    leaves = [[name] for name in COMMANDS[0] if name not in COMMANDS[1]]
    leaves += [[group, name] for group, names in COMMANDS[1].items() for name in names.split()]
    for leaf in leaves:
        assert run([*leaf, "--help"]) == 0
        shown = capsys.readouterr().out
        for option in ("--server", "--json", "--no-color", "--verbose"):
            assert option in shown, leaf


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version prints the version and exits."""
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"windflow {VERSION}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--server", NOWHERE, "list"],
        ["list", "--server", NOWHERE],
        ["list", f"--server={NOWHERE}", "--json"],
        ["--json", "--server", "http://127.0.0.1:10", "list", "--server", NOWHERE],
    ],
)
def test_shared_options_work_before_and_after(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The global options work before and after the subcommand; exit 4: server not reachable."""
    assert run(arguments) == 4
    shown = capsys.readouterr()
    assert shown.err == f"windflow: cannot reach {NOWHERE}: connection refused\n"
    assert shown.out == ""


def test_the_server_is_found_in_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--server`, then WINDFLOW_SERVER_URL, then the server of the last login."""
    CredentialStore(tmp_path / "conf").set_default_server("http://127.0.0.1:11")
    assert run(["list"]) == 4
    assert "127.0.0.1:11" in capsys.readouterr().err
    monkeypatch.setenv("WINDFLOW_SERVER_URL", "http://127.0.0.1:12")
    assert run(["list"]) == 4
    assert "127.0.0.1:12" in capsys.readouterr().err
    assert run(["list", "--server", "127.0.0.1:13"]) == 4
    assert "127.0.0.1:13" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["no-such-command"], "No such command"),
        (["list", "--limit", "0"], "--limit"),
        (["list", "--server", "ftp://x"], "scheme must be http or https"),
        (["show"], "Missing argument"),
        (["watch", "--from-line", "3"], "--from-line"),
        (["user", "add", "x", "--role", "king"], "king"),
        (["user", "set", "x"], "nothing to change"),
        (["login", "--token", "t", "--username", "x"], "--token"),
        (["deploy", "--mask", "NOT_SET_ANYWHERE", "--", "true"], "NOT_SET_ANYWHERE"),
        (["deploy", "--progress-regex", "([0-9]+)%", "--", "true"], "percent"),
        (["deploy", "--cwd", "/no/such/folder", "--", "true"], "/no/such/folder"),
        (["deploy", "--timeout", "0", "--", "true"], "--timeout"),
        (["deploy", "--id", "../../etc", "--", "true"], "--id"),
        (["serve", "--port", "70000"], "--port"),
        (["plugin", "check", "/no/such/file.py"], "/no/such/file.py"),
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2: usage; the message names what is wrong."""
    assert run(arguments) == 2
    assert complaint in capsys.readouterr().err


def test_login_without_a_terminal_says_what_to_use(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nobody can be asked, the option that helps is named."""
    monkeypatch.setattr("sys.stdin", open("/dev/null", encoding="utf-8"))  # noqa: SIM115
    assert run(["login", NOWHERE, "--username", "x"]) == 2
    assert "--password-stdin" in capsys.readouterr().err
    sys.stdin.close()


def test_deploy_without_a_server_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--no-spool, no reachable server at the start: say so and exit 4, before starting the command."""
    witness = tmp_path / "started"
    assert run(["deploy", "--no-spool", "--server", NOWHERE, "--", "touch", str(witness)]) == 4
    assert "cannot reach" in capsys.readouterr().err
    assert not witness.exists()


def test_help_loads_neither_server_nor_client() -> None:
    """Command start-up is fast: `windflow --help` imports no FastAPI, SQLAlchemy, httpx or websockets."""
    code = (
        "import sys; from backend.app.cli.app import run; run(['--help']); "
        "names = {'fastapi', 'sqlalchemy', 'uvicorn', 'httpx', 'websockets', 'pydantic', 'alembic'}; "
        "heavy = names & set(sys.modules); "
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
