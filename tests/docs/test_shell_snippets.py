"""Commands that the documentation shows exist, with their options; so do make's targets and the API's routes."""

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from backend.app.cli.app import app
from backend.app.config import Settings
from backend.app.main import create_app
from tests.docs.markdown_files import ROOT, all_blocks, documents, inline_code, read

TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
SHELLS = ("sh", "bash", "shell", "console")


def _written(command: str) -> list[tuple[str, str]]:
    """Every place where a command is written, in blocks and in inline code, with its line."""
    begins = re.compile(rf"^(?:[A-Z_]+=\S* )*(?:\S*/)?{command} .")
    found = []
    for block in all_blocks(*SHELLS):
        for number, line in enumerate(block.text.splitlines(), block.line + 1):
            found += [(f"{block.file}:{number}", part) for part in re.split(r"\s(?:\|\||&&|\||;)\s", line)]
    for name in documents():
        found += [(f"{name}:{number}", text) for number, text in inline_code(name)]
    return [(place, text) for place, text in found if begins.match(text.strip())]


def problems(text: str) -> Iterator[str]:
    """Yield what is wrong with a line that calls `windflow`."""
    words = shlex.split(text.replace("…", "X"), comments=True)
    start = next(index for index, word in enumerate(words) if word.rpartition("/")[2] == "windflow")
    command: Any = typer.main.get_command(app)
    known = _options(command)
    waiting = words[start + 1 :]
    while waiting:
        word = waiting.pop(0)
        if word == "--" or (command.name == "deploy" and not word.startswith("-")):
            return
        if word.startswith("-"):
            name, has_value, _ = word.partition("=")
            if name not in known:
                yield f"no option {name}"
            elif known[name] and not has_value:
                waiting = waiting[1:]
        elif hasattr(command, "commands"):
            if word.isupper():
                return  # a placeholder: `windflow COMMAND --help`
            if word not in command.commands:
                yield f"no command {word}"
                return
            command = command.commands[word]
            known |= _options(command)


def _options(command: Any) -> dict[str, bool]:
    """Return the options of a command, each with whether it takes a value."""
    params = [param for param in command.params if param.param_type_name == "option"]
    return {name: not param.is_flag for param in params for name in (*param.opts, *param.secondary_opts)} | {
        "--help": False,
        "-h": False,
    }


@pytest.mark.parametrize(("place", "text"), _written("windflow"), ids=lambda value: value)
def test_commands_exist_with_their_options(place: str, text: str) -> None:
    """Shell snippets that start with `windflow …` name existing commands and options."""
    assert list(problems(text)) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("windflow deploi -- ls", ["no command deploi"]),
        ("windflow user ad olga", ["no command ad"]),
        ("windflow user add olga --rolle admin", ["no option --rolle"]),
        ("windflow deploy --name web ls --colour", []),
        (".venv/bin/windflow list --status failed", []),
    ],
)
def test_a_misspelt_command_is_found(text: str, expected: list[str]) -> None:
    """The check itself finds unknown commands and options."""
    assert list(problems(text)) == expected


@pytest.mark.parametrize(("place", "text"), _written("make"), ids=lambda value: value)
def test_targets_of_make_exist(place: str, text: str) -> None:
    """What is written as `make …` is a target of the Makefile."""
    words = shlex.split(text)
    named = [word for word in words[words.index("make") + 1 :] if "=" not in word]
    assert named
    assert set(named) - TARGETS == set()


def test_routes_in_the_documentation_exist() -> None:
    """A path under /api/v1 that the documentation names is a route of the server."""
    paths = [*create_app(Settings.model_construct()).openapi()["paths"], "/api/v1/ws", "/api/v1/ws/"]
    known = [re.compile(re.sub(r"\{\w+\}", r"[^/]+", path)) for path in paths]
    wrong = []
    for name in documents():
        for path in re.findall(r"/api/v1/[\w/{}-]+", read(name)):
            if not any(template.fullmatch(path.rstrip(".")) for template in known):
                wrong.append(f"{name}: {path}")
    assert wrong == []
