"""Writes docs/reference/abuse.md: every fault of `fault_rows.py`, the tests named after it, what was measured.

`make docs` runs it; `make check` runs it with `--check`, which writes nothing and exits with 1 when the page
is stale. Tests are found by their names (`test_f04_…`) in the source; figures come from what the last
`make prove` wrote to docs/reference/figures.md. Invariant: a row is covered only by a test that exists.
"""

import argparse
import ast
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.fault_rows import ROWS, FaultRow
from scripts.reference_markdown import code, table

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference" / "abuse.md"
FIGURES = ROOT / "docs" / "reference" / "figures.md"
MARK = "<!-- Written by scripts/abuse.py (make docs). Change the tests or scripts/fault_rows.py, not this file. -->\n\n"
_NAME = re.compile(r"test_(f\d\d)_\w+")
_FIGURE = re.compile(r"^\| (F\d\d): (.*?) \| (.*?) \| (.*?) \|$", re.MULTILINE)

_HEAD = """# Faults and abuse

Every row runs against a real server process over real sockets. A *control connection* runs through each row of the
groups Wire and Auth: it sees no drop, no gap and the right order, and its slowest message takes at most 1 s or three
times the slowest of its quiet phase; afterwards tasks, descriptors, subscriptions and database connections are back at
the baseline, and the log has no ERROR. `make prove` runs the rows with these numbers; `make test` with small counts,
and since other tests run beside it, with 3 s where this page says 1 s.

"""


class UnknownRow(Exception):
    """A test is named after a row that the table does not have."""


@dataclass(frozen=True, slots=True)
class FaultTest:
    """One test: the row that it is named after, where it is, and the sentence that it checks."""

    number: str
    name: str
    path: str
    sentence: str


def tests_of(root: Path) -> list[FaultTest]:
    """Return every test that is named after a row, by row and place; raise `UnknownRow` for a row that is not there."""
    found = [test for path in sorted((root / "tests").rglob("test_*.py")) for test in _tests_in(path, root)]
    known = {number for group in ROWS.values() for number in group}
    for test in found:
        if test.number not in known:
            raise UnknownRow(f"{test.path}: {test.name}: there is no row {test.number}")
    return sorted(found, key=lambda test: test.number)


def _tests_in(path: Path, root: Path) -> Iterator[FaultTest]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (match := _NAME.fullmatch(node.name)):
            sentence = " ".join((ast.get_docstring(node) or "").split())
            yield FaultTest(match[1].upper(), node.name, path.relative_to(root).as_posix(), sentence)


def page(root: Path = ROOT, figures: Path = FIGURES) -> str:
    """Return the page."""
    found = tests_of(root)
    parts = [MARK, _HEAD]
    for group, rows in ROWS.items():
        parts.append(f"## {group}\n\n")
        parts.append(table(("No", "Injected", "What holds", "Tests"), [_row(*row, found) for row in rows.items()]))
    parts.append("## The tests\n\n")
    parts.append(table(("Test", "What it asserts"), [(_link(test), test.sentence) for test in found]))
    parts.append("## Measured by the last `make prove`\n\n")
    measured = _FIGURE.findall(figures.read_text(encoding="utf-8")) if figures.exists() else []
    shown = table(("No", "What", "Measured", "Beside"), sorted(measured, key=lambda row: str(row[0])))
    parts.append(shown if measured else "Nothing yet.\n")
    return "".join(parts).rstrip() + "\n"


def _row(number: str, row: FaultRow, found: Sequence[FaultTest]) -> tuple[str, str, str, str]:
    count = sum(test.number == number for test in found)
    state = f"{count}" if count else "not yet"
    return number, row.injected, row.holds, f"{state}; not yet: {row.missing}" if count and row.missing else state


def _link(test: FaultTest) -> str:
    return f"[{code(test.name)}](../../{test.path})"


def main(arguments: Sequence[str] | None = None, target: Path = PAGE) -> int:
    """Write the page, or with `--check` compare it; return the exit status."""
    parser = argparse.ArgumentParser(description="Write docs/reference/abuse.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page is stale")
    is_check = parser.parse_args(arguments).check
    made = page().encode()
    if target.is_file() and target.read_bytes() == made:
        return 0
    if is_check:
        print(f"docs/reference/{target.name} is stale: run `make docs`")
        return 1
    target.write_bytes(made)
    print(f"docs/reference/{target.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
