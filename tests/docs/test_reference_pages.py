"""docs/reference is what the code says, and nothing that the product has is missing from the documentation."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.routing import iter_route_contexts

from backend.app import metrics
from backend.app.config import CLIENT_NAMES, PLUGIN_PREFIX, PREFIX, TEST_NAMES, Settings
from backend.app.main import create_app
from backend.app.schemas.errors import ErrorCode
from backend.app.schemas.messages import CloseCode, Command
from backend.app.schemas.websocket_events import WebSocketEventType
from scripts import reference
from tests.docs.markdown_files import ROOT, documents, read

EVERYTHING = "\n".join(read(name) for name in documents())


def test_docs_reference_is_what_the_generator_writes() -> None:
    """docs/reference is written from the code; a test fails when it falls behind."""
    assert reference.stale() == [], "run `make docs`"


def test_the_pages_do_not_depend_on_the_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pages depend on the code alone, on no setting and no machine."""
    before = reference.pages()
    monkeypatch.setenv("WINDFLOW_ROOT_PATH", "/elsewhere")
    monkeypatch.setenv("WINDFLOW_PORT", "1234")
    assert reference.pages() == before


def test_check_names_stale_files_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--check` exits with 1 and names the stale files; without it they are written, and what is left over goes."""
    assert reference.main([], tmp_path) == 0
    assert reference.main(["--check"], tmp_path) == 0
    events = tmp_path / "events.md"
    events.write_text(events.read_text("utf-8").replace("AUTH_LOGOUT", "AUTH_LOG_OUT"), "utf-8")
    (tmp_path / "cli.md").unlink()
    (tmp_path / "old.md").write_text(reference.MARK + "# Old\n", "utf-8")
    (tmp_path / "figures.md").write_text("# Measured\n", "utf-8")
    capsys.readouterr()
    assert reference.main(["--check"], tmp_path) == 1
    assert [line.split()[0].rpartition("/")[2] for line in capsys.readouterr().out.splitlines()] == [
        "events.md",
        "cli.md",
        "old.md",
    ]
    assert "AUTH_LOG_OUT" in events.read_text("utf-8")
    assert reference.main([], tmp_path) == 0
    assert "AUTH_LOG_OUT" not in events.read_text("utf-8")
    assert not (tmp_path / "old.md").exists()
    assert (tmp_path / "figures.md").exists()


def test_every_variable_of_the_client_is_described() -> None:
    """Every variable that the client reads stands on the settings page with its meaning."""
    assert set(reference.CLIENT_VARIABLES) == set(CLIENT_NAMES)


def _routes() -> list[str]:
    found = iter_route_contexts(create_app(Settings.model_construct()).routes)
    return [str(context.path) for context in found if hasattr(context, "dependant")]


def _metrics() -> list[str]:
    names = [family.name for family in metrics.REGISTRY.collect()]
    return [name for name in names if name.startswith("windflow_")]


KINDS: dict[str, Callable[[], list[str]]] = {
    "setting": lambda: [f"`{PREFIX}{name.upper()}`" for name in Settings.model_fields],
    "event": lambda: [member.value for member in WebSocketEventType],
    "metric": _metrics,
    "error code": lambda: [f"`{code.value}`" for code in ErrorCode],
    "close code": lambda: [f"| {int(code)} |" for code in CloseCode],
    "socket command": lambda: [f"| `{command.value}` |" for command in Command],
    "command": lambda: [f"## {name}\n" for name, _ in reference.commands()],
    "route": lambda: [f"`{path}`" for path in _routes()],
}


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_missing_from_the_documentation(kind: str) -> None:
    """A test fails when a setting, event, metric, code, command or route is missing from the docs."""
    wanted = KINDS[kind]()
    assert wanted
    assert [text for text in wanted if text not in EVERYTHING] == []


def test_the_documentation_names_no_setting_that_does_not_exist() -> None:
    """A setting that was renamed is renamed in the docs, too."""
    names = {name.upper() for name in Settings.model_fields} | {*CLIENT_NAMES, *TEST_NAMES}
    known = {PREFIX + name for name in names}
    named = set(re.findall(r"WINDFLOW_[A-Z][A-Z_]*[A-Z]", EVERYTHING))
    # A plugin's own settings are proved by the guide's example.
    assert {name for name in named if not name.startswith(("WINDFLOW_TEST_", PLUGIN_PREFIX))} - known == set()


def test_the_documentation_names_no_metric_that_does_not_exist() -> None:
    """A metric that was renamed is renamed in the docs, too."""
    named = {name.removesuffix("_total") for name in re.findall(r"\bwindflow_[a-z_]+", EVERYTHING)}
    assert named - set(_metrics()) == set()


def test_the_reference_folder_is_where_the_readme_says() -> None:
    """docs/reference/README.md lists every page beside it."""
    listed = re.findall(r"\]\((\S+\.md)\)", read("docs/reference/README.md"))
    written = {path.name for path in (ROOT / "docs/reference").glob("*.md")} - {"README.md", "abuse.md"}
    assert set(listed) == written
