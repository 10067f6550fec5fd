"""What commands print: tables and sentences for people on stdout, or JSON for programs; trouble on stderr.

With `--json` nothing but JSON reaches stdout. Text of servers is made safe before it is shown.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from backend.app.cli.ansi import safe_name

if TYPE_CHECKING:
    from rich.console import Console

FOLDED = ("Name", "Event types", "Reason")
"""Columns that give way where the terminal is narrow."""
WIDTH_OF_FILES = 240
STATUS_STYLES = {
    "pending": "dim",
    "running": "cyan",
    "success": "green",
    "failed": "red",
    "cancelled": "yellow",
}


class Output:
    """One command's output."""

    def __init__(self, *, is_json: bool, is_plain: bool) -> None:
        self.is_json = is_json
        self._is_plain = is_plain

    def console(self, *, is_error: bool = False) -> "Console":
        """Return a Rich console for stdout, or for stderr."""
        from rich.console import Console

        stream = sys.stderr if is_error else sys.stdout
        # A file or a pipe has no width: nothing is to be folded for it.
        width = None if stream.isatty() else WIDTH_OF_FILES
        return Console(
            stderr=is_error, no_color=True if self._is_plain else None, highlight=False, soft_wrap=True, width=width
        )

    @property
    def has_colours(self) -> bool:
        """Whether stdout shows colours."""
        console = self.console()
        return console.is_terminal and not console.no_color

    def say(self, text: str) -> None:
        """Print a sentence about what was done; not with `--json`, where the result says it."""
        if not self.is_json:
            print(text)

    def json(self, value: Any) -> None:
        """Print a value as one line of JSON."""
        print(json.dumps(value, ensure_ascii=False), flush=True)

    def warn(self, text: str) -> None:
        """Print a sentence on stderr."""
        print(f"windflow: {safe_name(text)}", file=sys.stderr, flush=True)

    def connection_lost(self, reason: str, seconds: float) -> None:
        """Say on stderr that an event stream comes back by itself."""
        self.warn(f"connection lost ({reason}); trying again in {seconds:.0f} s")

    def table(self, headings: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str) -> None:
        """Print rows under headings, or the sentence `empty` where there are none."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for heading in headings:
            table.add_column(heading, overflow="fold", no_wrap=heading not in FOLDED)
        for row in rows:
            table.add_row(*(Text(cell_text(cell), style=_style(cell)) for cell in row))
        if table.row_count:
            self.console().print(table, soft_wrap=False)
        else:
            self.say(empty)

    def facts(self, facts: Mapping[str, Any]) -> None:
        """Print names and values, one per line; values that are None are left out."""
        shown = {name: cell_text(value) for name, value in facts.items() if value is not None}
        width = max((len(name) for name in shown), default=0)
        for name, value in shown.items():
            print(f"{name:<{width}}  {value}")


def cell_text(value: Any) -> str:
    """Return a value as people read it: times in local time, nothing for None."""
    if value is None:
        return ""
    if value is True or value is False:
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str) and len(value) >= 20 and value.endswith("Z") and value[10] == "T":
        return local_time(value)
    return safe_name(value)


def age_text(text: str | None, now: Callable[[], float] = time.time) -> str:
    """Return how long ago an RFC 3339 time is, in its largest unit; nothing for None."""
    try:
        seconds = max(0.0, now() - datetime.fromisoformat(text or "").timestamp())
    except ValueError:
        return safe_name(text or "")
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.0f} s"


def local_time(text: str) -> str:
    """Return an RFC 3339 time in the local zone, to the second; text that is no time as it is."""
    try:
        return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return safe_name(text)


def _style(cell: Any) -> str:
    return STATUS_STYLES.get(cell.partition(" ")[0], "") if isinstance(cell, str) else ""
