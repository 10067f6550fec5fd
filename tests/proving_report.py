"""Brings what a proving run measured to docs/reference/figures.md; `tests/conftest.py` registers it with pytest.

Rows travel from the workers of pytest-xdist to the process that started them. On the page a row is known by
`what`: measured again it moves to the table of the new run, otherwise it stays where and as it was measured.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from scripts.figures import PAGE, machine, read_section, write_section
from tests.proving import IS_PROVING, ROWS, Row, table

SECTION = "prove"
KEY = "measured_rows"
_RUN = re.compile(r"^Measured (?P<machine>.+?):\n\n(?P<table>(?:\|.*\n?)+)", re.MULTILINE)
_CELL = re.compile(r"(?<!\\)\|")


class Report:
    """A pytest plugin: collects the rows of all processes, and writes the page at the end of a proving run."""

    def __init__(self, page: Path = PAGE) -> None:
        self._page = page

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take the rows of a worker that has ended; one that crashed has sent none."""
        sent = getattr(node, "workeroutput", {}).get(KEY, [])
        ROWS.extend(Row(**each) for each in sent)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """In a worker hand the rows on; in the process that people start write the page."""
        output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
        if output is not None:
            output[KEY] = [dataclasses.asdict(row) for row in ROWS]
        elif IS_PROVING and ROWS:
            write_section(SECTION, merged(read_section(SECTION, self._page), ROWS, machine()), self._page)


def merged(before: str, rows: list[Row], where: str) -> str:
    """Return the section with the rows of a run on top, and of earlier runs what was not measured again."""
    newest = {row.what: row for row in rows}
    parts = [_run(where, list(newest.values()))]
    for run in _RUN.finditer(before):
        kept = [row for row in rows_of(run["table"]) if row.what not in newest]
        if kept:
            parts.append(_run(run["machine"], kept))
    return "\n".join(parts)


def rows_of(text: str) -> list[Row]:
    """Return the rows of a table that `tests.proving.table` made."""
    found = []
    for line in text.splitlines()[2:]:
        cells = [cell.strip().replace("\\|", "|") for cell in _CELL.split(line.strip().strip("|"))]
        found.append(Row(*cells))
    return found


def _run(where: str, rows: list[Row]) -> str:
    return f"Measured {where}:\n\n{table(rows)}\n"
