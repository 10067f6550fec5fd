"""The command behind `make bench` and `make bench-compare`: measures, and writes the page of figures.

Exit status 0: measured, whatever came out; 1: it could not be measured, with the reason in one sentence.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.aims import aims, size_of
from benchmarks.build import build
from benchmarks.candidates import OURS, ROOT
from benchmarks.compare import COMPARISON, compare
from benchmarks.dispatch import DISPATCHES
from benchmarks.failure import BenchmarkError
from benchmarks.generator import Generator, generator
from benchmarks.measure import connections, deliveries
from benchmarks.plan import PLANS, SMALL, USUAL, Cores, Plan, cores, within_descriptors
from benchmarks.profiler import profile
from benchmarks.report import report, versions
from benchmarks.samples import Samples
from scripts.figures import PAGE, machine, write_section

PROFILE_SECONDS = 6.0
SMALL_DISPATCHES = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; return the exit status."""
    options = _options(arguments)
    try:
        for program in ("load", "floor"):
            build(program)
        with tempfile.TemporaryDirectory(prefix="windflow-bench-") as folder:
            if options.compare:
                _compare(options, Path(folder))
            else:
                _bench(PLANS[options.plan or USUAL.name], Path(folder), options)
    except BenchmarkError as error:
        print(f"cannot measure: {error}", file=sys.stderr)
        return 1
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="Measures the server.")
    parser.add_argument("--plan", choices=sorted(PLANS), help=f"how much is measured (default: {USUAL.name})")
    parser.add_argument("--compare", metavar="REVISION", help="measure this working copy beside a revision instead")
    parser.add_argument("--profile", choices=("missed", "all", "none"), default="missed", help="what is profiled")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page whose section is written")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample to a file")
    return parser.parse_args(arguments)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _bench(plan: Plan, folder: Path, options: argparse.Namespace) -> None:
    plan, note = within_descriptors(plan)
    notes = [note] if note else []
    pinned = cores()
    load = os.getloadavg()[0]
    samples = Samples(
        deliveries(plan, plan.candidates, folder, pinned, _tell) + connections(plan, (OURS,), folder, pinned, _tell)
    )
    rows = [] if options.profile == "none" else aims(samples, OURS.name)
    keys = dict.fromkeys(aim.key for aim in rows if aim.is_missed or options.profile == "all")
    profiles = {key: text for key in keys if (text := _profile(key, plan, samples, folder, pinned))}
    heading = f"{machine()}; {pinned}; load before {load:.1f}. `make bench`, {plan.name}.\n{versions()}"
    write_section("bench", report(samples, heading=heading, notes=notes, profiles=profiles), options.page)
    _tell("supervised dispatch")
    dispatches = SMALL_DISPATCHES if plan.name == SMALL.name else DISPATCHES
    # A process of its own: what the generator left in this one must not be measured.
    subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.dispatch",
            "--page",
            str(options.page.absolute()),
            "--dispatches",
            str(dispatches),
        ],
        cwd=ROOT,
        check=True,
    )
    _keep(options.json, samples)
    print(f"written to {options.page}")


def _compare(options: argparse.Namespace, folder: Path) -> None:
    plan, note = within_descriptors(PLANS.get(options.plan, COMPARISON))
    if note:
        _tell(note)
    table, samples = compare(options.compare, folder, cores(), _tell, plan)
    _keep(options.json, samples)
    print(f"{machine()}\n\n{table}")


def _keep(file: Path | None, samples: Samples) -> None:
    if file is not None:
        file.write_text(json.dumps([sample.as_json() for sample in samples.all], indent=1), encoding="utf-8")


def _profile(key: str, plan: Plan, samples: Samples, folder: Path, pinned: Cores) -> str | None:
    """Return where the server's time goes while it does what an aim is about; None for aims about memory."""
    size = size_of(samples)

    def work(load: Generator) -> None:
        if key == "churn":
            load.churn(plan.churn * 4)
        elif key == "paced":
            load.paced(10, PROFILE_SECONDS)
        else:
            load.burst(20 if key == "due" else 1, PROFILE_SECONDS)

    if key == "idle":
        return None
    _tell(f"profile: {key}")
    with ExitStack() as stack:
        server = stack.enter_context(OURS.running(folder / f"profile-{key}", pinned.server))
        load = stack.enter_context(generator(server, max(size, 100), pinned.generator))
        if key != "churn":
            load.open(size)
        return profile(server.child.pid, PROFILE_SECONDS, lambda: work(load))


if __name__ == "__main__":
    sys.exit(main())
