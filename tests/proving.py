"""The two tiers of the suite: small counts with `make test`, the numbers that were asked for with `make prove`.

A test takes its counts from `amount` and tells what it measured with `measured`; at the end of a proving run
`tests/proving_report.py` writes the rows to docs/reference/figures.md. A row is known by what it is about.
"""

import os
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T", int, float)

IS_PROVING = os.environ.get("WINDFLOW_TEST_PROVE", "") not in ("", "0")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: what was looked at, what came out, and what it stands beside."""

    what: str
    value: str
    beside: str


ROWS: list[Row] = []
"""What this process measured, in order."""


def amount(short: T, asked: T) -> T:
    """Return the count of this tier: `short` with `make test`, `asked` with `make prove`."""
    return asked if IS_PROVING else short


def measured(what: str, value: str, beside: str) -> None:
    """Keep a row for the page of figures: `beside` is the limit or the other figure that the value is read against."""
    ROWS.append(Row(what, value, beside))


def table(rows: list[Row]) -> str:
    """Return rows as a Markdown table."""
    lines = ["| What | Measured | Beside |", "| --- | --- | --- |"]
    for row in rows:
        lines.append("| " + " | ".join(_cell(text) for text in (row.what, row.value, row.beside)) + " |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
