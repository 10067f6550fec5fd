"""The section `bench` of docs/reference/figures.md: tables made of samples. Pure, but for the versions.

Called by run.py; scripts/figures.py writes what comes out.
"""

import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version

from benchmarks.aims import Aim, aims
from benchmarks.build import compiler
from benchmarks.candidates import AWAIT_SEND, FLOOR, OURS, PLAIN_FASTAPI, ROOT, UVLOOP_TCP
from benchmarks.samples import Kind, Samples, Setting

TITLES = {candidate.name: candidate.title for candidate in (FLOOR, OURS, UVLOOP_TCP, AWAIT_SEND, PLAIN_FASTAPI)}
PACKAGES = ("uvicorn", "uvloop", "websockets", "starlette", "fastapi", "orjson", "pydantic")

HOW = """\
How: the server runs alone on its core, the load generator (`benchmarks/native/load.c`) on another. Clients open real
WebSockets and authenticate; a plugin publishes events of 306 bytes through the public plugin API, so encoding, topic
lookup, the check of rights and the budget of each connection are in the figures. A round is over when every client has
every event. Compared is the CPU time of the server's process, user and system. The candidates take turns within each
round; a ratio is the median of the rounds' ratios, any other figure a median."""


def report(
    samples: Samples,
    *,
    heading: str,
    notes: Sequence[str] = (),
    profiles: Mapping[str, str] | None = None,
    ours: str = OURS.name,
) -> str:
    """Return the whole section as Markdown; `profiles` has one text for each `Aim.key` that was looked into."""
    rows = aims(samples, ours)
    parts = [heading, HOW, _aims_table(rows)]
    if samples.settings(Kind.BURST):
        parts += ["### Deliveries", _deliveries_table(samples)]
    if samples.settings(Kind.PACED):
        parts += ["### Publish to receipt, 10 events a second", _paced_table(samples)]
    if samples.settings(Kind.CHURN):
        parts += ["### Connections", _connections_table(samples)]
    for key, text in (profiles or {}).items():
        figures = "; ".join(dict.fromkeys(row.figure for row in rows if row.key == key and row.is_missed))
        parts += [f"### Where the time goes: {figures or key}", text]
    if notes:
        parts += ["\n".join(f"- {note}" for note in notes)]
    return "\n\n".join(parts) + "\n"


def versions() -> str:
    """Return one line: the commit, the compiler, and the packages that matter."""
    described = _output("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude", "*") or "no commit"
    found = compiler()
    compiled = (_output(found, "--version") or "a C compiler").splitlines()[0] if found else "no C compiler"
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"Commit {described}; {packages}; {compiled}, -O2."


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _aims_table(rows: Sequence[Aim]) -> str:
    lines = ["| Figure | Beside | Measured | At least (limits: at most) | Aim |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        value = "not measured" if row.value is None else _amount(row.value, row.unit)
        lines.append(f"| {row.figure} | {row.beside} | {value} | {_border(row, row.bar)} | {_border(row, row.aim)} |")
    return "\n".join(lines)


def _border(row: Aim, border: float | None) -> str:
    if border is None:
        return "–"
    mark = {True: "✓", False: "✗", None: ""}[row.holds(border)]
    return f"{'≤' if row.is_limit else '≥'} {border:g} {row.unit} {mark}".strip()


def _amount(value: float, unit: str) -> str:
    return f"{value:.2f} {unit}"


def _deliveries_table(samples: Samples) -> str:
    lines = [
        "Thousand deliveries per second of server CPU; user + system µs of one delivery; p50 / p99 ms from publish to"
        " receipt while the next event is published as soon as all have the last.",
        "",
        "| Connections | Published at once | Server | Deliveries | beside the floor | CPU µs | p50 / p99 ms |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for setting in samples.settings(Kind.BURST):
        for name in samples.candidates():
            rate, cpu = samples.median(name, setting), samples.microseconds(name, setting)
            if rate is None or cpu is None:
                continue
            single = Setting(Kind.BURST, setting.connections)
            ratio = samples.ratio(name, setting, FLOOR.name, single)
            lines.append(
                f"| {setting.connections:,} | {setting.events} | {TITLES.get(name, name)} | {rate / 1000:.0f} "
                f"| {'–' if ratio is None else f'{ratio:.2f} ×'} | {cpu[0]:.2f} + {cpu[1]:.2f} "
                f"| {_latency(samples, name, setting)} |"
            )
    lines += ["", "The floor is the C program's figure for events published one by one, in the same round."]
    return "\n".join(lines)


def _paced_table(samples: Samples) -> str:
    lines = ["| Connections | Server | p50 / p99 ms |", "| --- | --- | --- |"]
    for setting in samples.settings(Kind.PACED):
        lines += [
            f"| {setting.connections:,} | {TITLES.get(name, name)} | {_latency(samples, name, setting)} |"
            for name in samples.candidates()
            if samples.latency(name, setting)
        ]
    return "\n".join(lines)


def _latency(samples: Samples, name: str, setting: Setting) -> str:
    latency = samples.latency(name, setting)
    return "–" if latency is None else f"{latency[0]:.1f} / {latency[1]:.1f}"


def _connections_table(samples: Samples) -> str:
    churn = Setting(Kind.CHURN, 0)
    idle = next(iter(samples.settings(Kind.IDLE)), Setting(Kind.IDLE, 0))
    lines = [
        f"Memory: growth of the process by {idle.connections:,} idle connections, those of WindFlow authenticated and"
        " subscribed to 3 types. Connects: opened, authenticated (where there is anything to authenticate) and closed.",
        "",
        "| Server | KiB per idle connection | Connects per second of CPU | beside FastAPI that only accepts |",
        "| --- | --- | --- | --- |",
    ]
    for name in samples.candidates():
        kib, rate = samples.median(name, idle), samples.median(name, churn)
        ratio = samples.ratio(name, churn, PLAIN_FASTAPI.name)
        if kib is None or rate is None or ratio is None:
            continue
        lines.append(f"| {TITLES.get(name, name)} | {kib:.1f} | {rate:,.0f} | {ratio:.2f} × |")
    return "\n".join(lines)
