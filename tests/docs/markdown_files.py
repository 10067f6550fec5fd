"""Reads the project's Markdown: files, fenced blocks, inline code, links, headings. Pure."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOT_OURS = (".venv", "node_modules", "data", "dist", "build")
DOCUMENTS = (
    "README.md",
    "README.fr.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "backend/app/websocket/README.md",
    "frontend/src/services/websocket/README.md",
)
"""What people read, besides docs/."""

_FENCE = re.compile(r"^( *)(```+)([\w-]*)[^\n]*\n(.*?)^ *\2 *$", re.S | re.M)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: where it begins, its language, its text."""

    file: str
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        """File and line, for messages and test ids."""
        return f"{self.file}:{self.line}"


def all_files() -> list[str]:
    """Every Markdown file of the repository."""
    found = []
    for path in sorted(ROOT.rglob("*.md")):
        parts = path.relative_to(ROOT).parts
        if not any(part in NOT_OURS or part.startswith(".") for part in parts[:-1]):
            found.append("/".join(parts))
    return found


def documents() -> list[str]:
    """The documentation: the files above and docs/."""
    return [name for name in all_files() if name in DOCUMENTS or name.startswith("docs/")]


@cache
def read(name: str) -> str:
    """Return a file's text."""
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str, *languages: str) -> list[Block]:
    """Return the fenced blocks of a file, of these languages or all."""
    text = read(name)
    found = []
    for match in _FENCE.finditer(text):
        indent, _, language, body = match.groups()
        line = text.count("\n", 0, match.start()) + 1
        body = "".join(row.removeprefix(indent) for row in body.splitlines(keepends=True))
        if not languages or language in languages:
            found.append(Block(name, line, language, body))
    return found


def all_blocks(*languages: str) -> list[Block]:
    """Return the blocks of these languages in the whole documentation."""
    return [block for name in documents() for block in blocks(name, *languages)]


def prose(name: str) -> str:
    """Return a file's text with its fenced blocks blanked out; line numbers stay."""
    return _FENCE.sub(lambda match: "\n" * match[0].count("\n"), read(name))


def inline_code(name: str) -> Iterator[tuple[int, str]]:
    """Yield line number and text of each inline code span."""
    for number, line in enumerate(prose(name).splitlines(), 1):
        for match in re.finditer(r"(?<!`)`([^`]+)`(?!`)", line):
            yield number, match[1]


def links(name: str) -> Iterator[tuple[int, str]]:
    """Yield line number and target of each link and image."""
    for number, line in enumerate(prose(name).splitlines(), 1):
        without_code = re.sub(r"`[^`]*`", "", line)
        for match in re.finditer(r"\]\(([^)\s]+)\)", without_code):
            yield number, match[1]


def headings(name: str) -> list[tuple[int, str]]:
    """Return level and text of each heading."""
    return [(len(match[1]), match[2].strip()) for match in re.finditer(r"^(#+) (.+)$", prose(name), re.M)]


def anchors(name: str) -> set[str]:
    """Return the anchors that a file's headings have, as GitHub makes them."""
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for _, text in headings(name)}


def table_rows(name: str) -> list[list[str]]:
    """Return the cells of every row of every table, separator rows left out."""
    rows = []
    for line in prose(name).splitlines():
        if line.startswith("|") and not re.fullmatch(r"[|\s:-]+", line):
            rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))])
    return rows
