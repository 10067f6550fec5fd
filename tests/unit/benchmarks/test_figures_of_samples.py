"""Samples become ratios, aims and tables: pure."""

import pytest

from benchmarks.aims import aims
from benchmarks.compare import comparison_table
from benchmarks.generator import Answer
from benchmarks.profiler import functions_of, table
from benchmarks.report import report
from benchmarks.samples import Kind, Sample, Samples, Setting

SINGLE, DUE = Setting(Kind.BURST, 1000), Setting(Kind.BURST, 1000, 20)
PACED, CHURN, IDLE = Setting(Kind.PACED, 1000), Setting(Kind.CHURN, 0), Setting(Kind.IDLE, 2000)


def answer(events: int, *, user: float = 0.25, system: float = 0.75, p50: float = 5.0, p99: float = 10.0) -> Answer:
    """An answer of the generator, of one second of CPU unless said otherwise."""
    return Answer(1000, 2.0, user, system, 1, events, events * 306, 0, p50, p99)


def burst(candidate: str, setting: Setting, *rates: int) -> list[Sample]:
    """One sample for each round."""
    return [Sample(candidate, setting, number, answer(rate)) for number, rate in enumerate(rates)]


@pytest.fixture
def samples() -> Samples:
    """Three rounds, in the middle one of which the machine was busy with something else."""
    return Samples(
        [
            *burst("floor", SINGLE, 200_000, 100_000, 210_000),
            *burst("windflow", SINGLE, 150_000, 76_000, 157_500),
            *burst("floor", DUE, 200_000, 100_000, 210_000),
            *burst("windflow", DUE, 1_400_000, 500_000, 1_470_000),
            Sample("windflow", PACED, 0, answer(100, p50=6.0, p99=14.0)),
            Sample("windflow", IDLE, 0, count=2000, kib=25.0),
            Sample("plain_fastapi", IDLE, 0, count=2000, kib=31.0),
            Sample("windflow", CHURN, 0, answer(0), count=900),
            Sample("plain_fastapi", CHURN, 0, answer(0), count=1000),
        ]
    )


def test_ratios_are_taken_within_a_round(samples: Samples) -> None:
    """A ratio is the median of ratios between neighbours, so a slow round of both does not move it."""
    assert samples.ratio("windflow", SINGLE, "floor") == pytest.approx(0.75)
    assert samples.ratio("windflow", DUE, "floor", SINGLE) == pytest.approx(7.0)
    assert samples.median("windflow", SINGLE) == 150_000
    assert samples.ratio("windflow", SINGLE, "await_send") is None


def test_aims_name_what_is_missed(samples: Samples) -> None:
    """Each figure stands beside its bar; what was not measured is neither reached nor missed."""
    rows = {(row.figure, row.beside): row for row in aims(samples, "windflow")}
    missed = {row.figure for row in rows.values() if row.is_missed}
    assert missed == {"20 events due at once, N = 1000"}
    assert rows["user CPU per delivery, single events, N = 1000", "–"].value == pytest.approx(1.667, abs=0.01)
    assert rows["authenticated connects", "FastAPI, accept only"].value == pytest.approx(0.9)
    assert rows["authenticated connects", "FastAPI, accept only"].holds(1.0) is False
    assert rows["memory of an idle connection", "–"].holds(24.0) is False
    assert rows["memory of an idle connection", "–"].holds(26.0) is True
    assert [row.value for row in rows.values() if row.beside == "uvloop TCP, no web server"] == [None, None]


def test_the_report_has_every_figure_and_where_the_time_went(samples: Samples) -> None:
    """Medians, the ratio to the floor beside each aim, machine and versions; a profile where a figure falls short."""
    text = report(samples, heading="a machine", notes=["fewer connections"], profiles={"due": "the profile"})
    assert text.startswith("a machine\n")
    assert "| single events, N = 1000 | C, one `write` per socket | 0.75 × | ≥ 0.7 × ✓ | ≥ 0.75 × ✓ |" in text
    assert "| 20 events due at once, N = 1000 | C, one `write` per socket | 7.00 × | ≥ 8 × ✗ | ≥ 10 × ✗ |" in text
    assert "| memory of an idle connection | – | 25.00 KiB | ≤ 26 KiB ✓ | ≤ 24 KiB ✗ |" in text
    assert "| 1,000 | 1 | WindFlow | 150 | 0.75 × | 1.67 + 5.00 | 5.0 / 10.0 |" in text
    assert "| 1,000 | WindFlow | 6.0 / 14.0 |" in text
    assert "| WindFlow | 25.0 | 900 | 0.90 × |" in text
    assert "| single events, N = 1000 | uvloop TCP, no web server | not measured | – | ≥ 0.9 × |" in text
    assert "### Where the time goes: 20 events due at once, N = 1000\n\nthe profile" in text
    assert text.endswith("- fewer connections\n")


def test_a_comparison_marks_what_fell() -> None:
    """A figure that fell by more than 10 % against the commit before is marked; memory falls upwards."""
    text = comparison_table(
        Samples(
            [
                *burst("base", SINGLE, 100_000, 50_000),
                *burst("here", SINGLE, 92_000, 46_000),
                *burst("base", DUE, 100_000),
                *burst("here", DUE, 89_000),
                Sample("base", IDLE, 0, count=10, kib=20.0),
                Sample("here", IDLE, 0, count=10, kib=23.0),
            ]
        ),
        "before",
    )
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines()[2:]}
    assert rows["deliveries per CPU second, 1 at once, N = 1000"].endswith("| 0.92  |")
    assert rows["deliveries per CPU second, 20 at once, N = 1000"].endswith("| 0.89 ✗ |")
    assert rows["KiB per idle connection, N = 2000"].endswith("| 1.15 ✗ |")


STACKS = """\
thread (7): MainThread;run (backend/app/cli/app.py:3);deliver (/srv/backend/app/realtime/hub.py:10);write (libc.so.6) 60
thread (7): MainThread;run (backend/app/cli/app.py:3);deliver (/srv/backend/app/realtime/hub.py:12) 30
thread (7): MainThread;run (backend/app/cli/app.py:3);log (/usr/lib/site-packages/uvicorn/x.py:1) 10
thread (8): writer;_serve (/srv/backend/app/sqlite_writer.py:9);wait (libc.so.6) 900
no samples here
"""


def test_a_profile_counts_functions_of_the_main_thread() -> None:
    """Lines of one function count together; a waiting thread is not counted."""
    functions = {function.name: function for function in functions_of(STACKS.splitlines())}
    assert functions["write (libc.so.6)"].own == pytest.approx(0.6)
    deliver = functions["deliver (backend/app/realtime/hub.py)"]
    assert deliver.own == pytest.approx(0.3)
    assert deliver.total == pytest.approx(0.9)
    assert functions["log (uvicorn/x.py)"].own == pytest.approx(0.1)
    assert "_serve (backend/app/sqlite_writer.py)" not in functions
    text = table(list(functions.values()))
    assert "| 30.0% | 90.0% | `deliver (backend/app/realtime/hub.py)` |" in text
    assert "cli/app.py" not in text
