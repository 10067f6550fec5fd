"""`windflow contract build` and `check`: files, exit statuses, JSON."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import backend
from backend.app.cli.contract import app
from backend.app.contract.typescript import generate
from backend.app.schemas.websocket_events import WebSocketEventType, core_catalogue

GENERATED = generate(core_catalogue())
TYPES = Path("frontend", "src", "services", "websocket", "types.ts")

run = CliRunner().invoke


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of its own: the package seems to lie in it. Returns the path of its types.ts."""
    monkeypatch.setattr(backend, "__file__", str(tmp_path / "backend" / "__init__.py"))
    (tmp_path / TYPES).parent.mkdir(parents=True)
    (tmp_path / TYPES).write_bytes(GENERATED.encode())
    return tmp_path / TYPES


def test_check_accepts_the_file_of_this_repository() -> None:
    """`make check` fails on drift; there is none."""
    result = run(app, ["check"])
    assert result.exit_code == 0, result.output
    assert f"no difference from the catalogue ({len(WebSocketEventType)} events)" in result.output


def test_build_writes_the_repository_s_file(repository: Path) -> None:
    """Without --out the file is the one that the specification names."""
    repository.unlink()
    result = run(app, ["build"])
    assert result.exit_code == 0
    assert str(repository) in result.output
    assert repository.read_bytes() == GENERATED.encode()


def test_build_writes_where_it_is_told(tmp_path: Path) -> None:
    """`--out FILE`, and `-` for stdout."""
    assert run(app, ["build", "--out", str(tmp_path / "a.ts")]).exit_code == 0
    assert (tmp_path / "a.ts").read_bytes() == GENERATED.encode()
    assert run(app, ["build", "--out", "-"]).output == GENERATED


def test_build_tells_as_json_what_it_wrote(tmp_path: Path) -> None:
    """`--json`: nothing but JSON on stdout."""
    answer = json.loads(run(app, ["build", "--out", str(tmp_path / "a.ts"), "--json"]).stdout)
    assert answer["file"] == str(tmp_path / "a.ts")
    assert answer["events"] == len(WebSocketEventType)
    assert f"CONTRACT_HASH = '{answer['contract']}'" in GENERATED


def test_check_names_each_difference_with_its_line_and_exits_1(tmp_path: Path) -> None:
    """Exit status 1: there are differences."""
    file = tmp_path / "mine.ts"
    file.write_text(GENERATED.replace("  progress: number;", "  progress: string;").replace("  NO_PONG: 4012,\n", ""))
    result = run(app, ["check", str(file)])
    line = GENERATED.split("\n").index("  progress: number;") + 1
    assert result.exit_code == 1
    assert f"{file}:{line}: DeploymentProgress.progress: number in the catalogue, string in the file\n" in result.output
    assert ": CLOSE_CODES.NO_PONG is missing\n" in result.output


def test_check_lists_the_differences_as_json(tmp_path: Path) -> None:
    """`--json`: nothing but JSON on stdout, with the same exit status."""
    file = tmp_path / "mine.ts"
    file.write_text(GENERATED.replace("  AUTH_LOGOUT = 'AUTH_LOGOUT',\n", ""))
    result = run(app, ["check", str(file), "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["differences"] == [{"sentence": "AUTH_LOGOUT is missing", "line": None}]


def test_check_without_a_file_wants_the_generated_bytes(repository: Path) -> None:
    """The repository's file is generated: a comment in it is a difference, though not one of the contract."""
    text = GENERATED.replace("/** The payload of each event. */", "/** Payloads. */")
    repository.write_bytes(text.encode())
    line = text.split("\n").index("/** Payloads. */") + 1
    result = run(app, ["check"])
    assert result.exit_code == 1
    assert result.output == (
        f"{repository}:{line}: the file is not as the catalogue generates it: run `windflow contract build`\n"
    )
    assert run(app, ["check", str(repository)]).exit_code == 0


def test_check_without_a_file_wants_the_end_of_the_file_too(repository: Path) -> None:
    """A missing last newline has no line of its own."""
    repository.write_bytes(GENERATED.rstrip("\n").encode())
    result = run(app, ["check"])
    assert result.exit_code == 1
    assert "run `windflow contract build`" in result.output


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_a_usage_error(tmp_path: Path, content: bytes | None) -> None:
    """Exit status 2: the command was called wrongly, or with a file that is no text."""
    file = tmp_path / "mine.ts"
    if content is not None:
        file.write_bytes(content)
    result = run(app, ["check", str(file)], env={"COLUMNS": "400"})
    assert result.exit_code == 2
    assert "mine.ts" in result.output


@pytest.mark.parametrize(("arguments", "needed"), [(["check"], "FILE"), (["build"], "--out FILE")])
def test_without_the_repository_a_file_has_to_be_named(repository: Path, arguments: list[str], needed: str) -> None:
    """Installed as a package there is no front end beside the back end."""
    shutil.rmtree(repository.parent)
    result = run(app, arguments, env={"COLUMNS": "400"})
    assert result.exit_code == 2
    assert "installed here without its repository" in result.output
    assert f"name {needed}" in result.output or f"name a {needed}" in result.output
