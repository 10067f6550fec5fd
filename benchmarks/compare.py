"""Two commits beside each other: `make bench-compare BASE=<revision>` tells whether a figure fell.

The base is checked out to a temporary folder and served by the same interpreter and packages; both servers are
connected at the same time and take turns, 9 rounds.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.candidates import ROOT, Candidate, windflow_of
from benchmarks.failure import BenchmarkError
from benchmarks.measure import Tell, connections, deliveries
from benchmarks.plan import QUICK, Cores, Plan
from benchmarks.samples import Kind, Samples, Setting

HERE = Candidate("here", "this working copy", windflow_of(ROOT))
COMPARISON = replace(
    QUICK, name="comparison", sizes=(1000,), passes=3, rounds=3, seconds=2.0, idle=1000, churn=500, churn_rounds=9
)
MOST_FALL = 0.1
"""How much a figure may fall without a word about it."""


@contextmanager
def tree_of(revision: str, folder: Path) -> Iterator[Path]:
    """Check a revision out to a new folder until the block ends; raise BenchmarkError where git cannot."""
    tree = folder / "base"
    _git("worktree", "add", "--detach", "--quiet", str(tree), revision)
    try:
        yield tree
    finally:
        _git("worktree", "remove", "--force", str(tree))


def compare(revision: str, folder: Path, cores: Cores, tell: Tell, plan: Plan = COMPARISON) -> tuple[str, Samples]:
    """Return the table of both, as Markdown, and the samples."""
    with tree_of(revision, folder) as tree:
        base = Candidate("base", f"`{revision}`", windflow_of(tree))
        samples = deliveries(plan, (base, HERE), folder, cores, tell)
        samples += connections(plan, (base, HERE), folder, cores, tell)
    taken = Samples(samples)
    return comparison_table(taken, base.title), taken


def comparison_table(samples: Samples, base_title: str) -> str:
    """Return medians and ratios; a figure that fell by more than `MOST_FALL` is marked."""
    lines = [f"| Figure | {base_title} | {HERE.title} | Ratio |", "| --- | --- | --- | --- |"]
    rows = [
        *(
            (f"deliveries per CPU second, {s.events} at once, N = {s.connections}", s)
            for s in samples.settings(Kind.BURST)
        ),
        *(("connects per CPU second", setting) for setting in samples.settings(Kind.CHURN)),
        *((f"KiB per idle connection, N = {s.connections}", s) for s in samples.settings(Kind.IDLE)),
    ]
    for title, setting in rows:
        before, after = samples.median("base", setting), samples.median("here", setting)
        ratio = samples.ratio("here", setting, "base")
        if before is None or after is None or ratio is None:
            continue
        lines.append(
            f"| {title} | {before:,.1f} | {after:,.1f} | {ratio:.2f} {'' if _holds(setting, ratio) else '✗'} |"
        )
    for setting in samples.settings(Kind.PACED):
        own, other = samples.latency("here", setting), samples.latency("base", setting)
        if own and other:
            title = f"p50 / p99 ms of 10 events a second, N = {setting.connections}"
            lines.append(f"| {title} | {other[0]:.1f} / {other[1]:.1f} | {own[0]:.1f} / {own[1]:.1f} | – |")
    return "\n".join(lines)


def _holds(setting: Setting, ratio: float) -> bool:
    """Tell whether nothing fell: memory is better when it is less."""
    return ratio <= 1 + MOST_FALL if setting.kind is Kind.IDLE else ratio >= 1 - MOST_FALL


def _git(*arguments: str) -> None:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise BenchmarkError(f"git {arguments[0]}: {done.stderr.strip()}")
