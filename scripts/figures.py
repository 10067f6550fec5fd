"""Writes docs/reference/figures.md: what was measured, one section for each program that measures.

`make bench` writes the section `bench`, `make prove` the section `prove`; each leaves the other's as it is.
Invariant: nothing stands in the page that no program measured, and every section says on what machine.
"""

import os
import platform
import re
from datetime import UTC, datetime
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "figures.md"

SECTIONS = {
    "bench": "## `make bench`: the server beside other programs\n",
    "dispatch": "## `make bench`: what the supervision of plugins costs\n",
    "compare": "## `make bench-compare`: beside the commit before\n",
    "prove": "## `make prove`: the tests with the numbers that were asked for\n",
}
"""The sections in the page's order, with their headings."""

_HEAD = (
    "# Figures\n\n"
    "Measured, not promised. Machines are shared and noisy: compare only figures of one section and one run.\n"
)
_NOTHING = "\nNot measured yet.\n"


def read_section(name: str, page: Path = PAGE) -> str:
    """Return the Markdown of one section, empty where nothing was measured yet; raise KeyError as `write_section`."""
    body = _read(page)[name]
    return "" if body == _NOTHING else body.strip()


def write_section(name: str, body: str, page: Path = PAGE) -> None:
    """Replace one section of the page with Markdown; raise KeyError for a section that is not one of `SECTIONS`."""
    if name not in SECTIONS:
        raise KeyError(name)
    bodies = _read(page) | {name: f"\n{body.strip()}\n"}
    parts = [_HEAD]
    for section, heading in SECTIONS.items():
        parts.append(f"\n<!-- begin {section} -->\n{heading}{bodies[section]}<!-- end {section} -->\n")
    page.write_text("".join(parts), encoding="utf-8")


def machine() -> str:
    """Return one line about where and when something was measured: processor, cores, memory, system, Python."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.machine()


def _read(page: Path) -> dict[str, str]:
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    bodies = dict.fromkeys(SECTIONS, _NOTHING)
    for section, heading in SECTIONS.items():
        begin, end = f"<!-- begin {section} -->\n{heading}", f"<!-- end {section} -->"
        if begin in text and end in text:
            bodies[section] = text.split(begin, 1)[1].split(end, 1)[0]
    return bodies
