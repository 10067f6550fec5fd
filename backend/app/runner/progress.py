"""Progress out of a line's text: `##progress 40 Pulling images`, and `--progress-regex`.

Pure; called by `windflow deploy` with each line after masking. Invariants: colours never hide a match; a percent is
always within 0–100; only the first `MATCHED_CHARACTERS` of a line are looked at, so a huge line costs nothing.
A `##progress` line is an instruction and is not stored; a line that the pattern matches is output and is stored.
"""

import re
from dataclasses import dataclass

from backend.app.runner.lines import Line

MATCHED_CHARACTERS = 4096
"""A longer line is looked at only up to here: it bounds the time of a user's own expression as well."""

_ANSI = re.compile(
    r"\x1b(?:"
    r"\[[0-?]*[ -/]*[@-~]"  # colours, cursor moves, erase line
    r"|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)"  # titles, links
    r"|[ -/]*[0-~])"
)
_DIRECTIVE = re.compile(r"\s*##progress\s+([+-]?(?:[0-9]+(?:[.,][0-9]*)?|[.,][0-9]+))\s*%?(?:\s+(.*))?\Z", re.DOTALL)
_GROUPS = ("percent", "step")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a command is: percent from 0 to 100, and the name of its step; at least one is known."""

    percent: float | None
    step: str | None


def without_ansi(text: str) -> str:
    """Returns the text without terminal escape sequences."""
    return _ANSI.sub("", text) if "\x1b" in text else text


def parse_progress(line: Line) -> Progress | None:
    """Returns the progress of a `##progress PERCENT[%] [STEP]` line; None for every other line.

    A `##progress` line without a number is an ordinary line: being stored, it shows its author the mistake.
    """
    if "##progress" not in line.text[:MATCHED_CHARACTERS]:
        return None
    found = _DIRECTIVE.match(without_ansi(line.text[:MATCHED_CHARACTERS]))
    if found is None:
        return None
    return Progress(_percent(found[1]), _step(found[2]))


class ProgressPattern:
    """A user's regular expression that finds progress in ordinary output lines."""

    def __init__(self, regex: str) -> None:
        """Raises ValueError, saying what is wrong, for a bad expression or one without the groups."""
        try:
            self._regex = re.compile(regex)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"progress regex {regex!r} is not a regular expression: {error}") from error
        self._groups = [name for name in _GROUPS if name in self._regex.groupindex]
        if not self._groups:
            raise ValueError(
                f"progress regex {regex!r} needs a group named percent or step, like (?P<percent>[0-9.]+)%"
            )

    def match(self, line: Line) -> Progress | None:
        """Returns what the first match anywhere in the line tells; None without a match or with empty groups.

        What the group `percent` caught and is no number (a sign, digits, one point or comma) counts as not caught.
        """
        found = self._regex.search(without_ansi(line.text[:MATCHED_CHARACTERS]))
        if found is None:
            return None
        caught = {name: found[name] for name in self._groups}
        progress = Progress(_percent(caught.get("percent")), _step(caught.get("step")))
        return None if progress == Progress(None, None) else progress


def _percent(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text.strip().removesuffix("%").replace(",", "."))
    except ValueError:
        return None
    if value != value:  # "nan" is a number to float()
        return None
    return min(max(value, 0.0), 100.0)


def _step(text: str | None) -> str | None:
    return (text or "").strip() or None
