"""The load generator and the programs that stand beside the server: they build, and they count right."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import build as building
from benchmarks.candidates import AWAIT_SEND, FLOOR, PLAIN_FASTAPI, UVLOOP_TCP, Candidate
from benchmarks.failure import BenchmarkError
from benchmarks.generator import Generator, generator

COUNT = 5


@pytest.fixture
def load(tmp_path: Path, compiler: None) -> Iterator[Generator]:
    """A generator for a floor that runs, without connections."""
    with FLOOR.running(tmp_path, None) as server, generator(server, COUNT + 10, None) as running:
        yield running


@pytest.mark.compiler
def test_a_burst_is_delivered_to_everybody(load: Generator) -> None:
    """Every connection gets every event of every round, and each event has 306 bytes."""
    opened = load.open(COUNT)
    assert (opened.connections, opened.other_messages) == (COUNT, COUNT)
    for at_once in (1, 20):
        answer = load.burst(at_once, 0.05)
        assert answer.rounds >= 1
        assert answer.events == answer.rounds * at_once * COUNT
        assert answer.event_bytes == answer.events * 306
        assert 0 < answer.p50_ms <= answer.p99_ms < 60_000


@pytest.mark.compiler
def test_a_paced_run_publishes_at_its_rate(load: Generator) -> None:
    """`paced` publishes so many a second, whether or not the last one has arrived."""
    load.open(COUNT)
    answer = load.paced(50, 0.2)
    assert answer.rounds == 10
    assert answer.events == 10 * COUNT
    assert answer.seconds >= 9 / 50


@pytest.mark.compiler
def test_connections_are_closed_and_opened_again(load: Generator) -> None:
    """`churn` leaves the open connections as they are; `close` closes them all."""
    load.open(COUNT)
    assert load.churn(23, 4).connections == COUNT
    assert load.burst(1, 0.01).events % COUNT == 0
    assert load.close().connections == 0
    assert load.open(2).connections == 2
    assert load.burst(1, 0.01).events % 2 == 0


@pytest.mark.parametrize("candidate", [AWAIT_SEND, UVLOOP_TCP], ids=lambda candidate: candidate.name)
@pytest.mark.compiler
def test_each_server_beside_ours_delivers(candidate: Candidate, tmp_path: Path, compiler: None) -> None:
    """Every candidate takes the same messages and delivers events of the same size."""
    with candidate.running(tmp_path, None) as server, generator(server, COUNT + 4, None) as load:
        load.open(COUNT)
        answer = load.burst(20, 0.05)
        assert answer.events == answer.rounds * 20 * COUNT
        assert answer.event_bytes == answer.events * 306
        load.churn(8, 4)
        assert load.close().connections == 0


@pytest.mark.compiler
def test_plain_fastapi_accepts(tmp_path: Path, compiler: None) -> None:
    """The server that stands beside authenticated connects accepts, and says nothing."""
    with PLAIN_FASTAPI.running(tmp_path, None) as server, generator(server, COUNT, None) as load:
        assert load.open(COUNT).other_messages == 0
        assert server.child.resident_kib() > 1000
        assert load.close().connections == 0


@pytest.mark.compiler
def test_a_lost_connection_is_an_error(tmp_path: Path, compiler: None) -> None:
    """A figure with lost connections is no figure: the run ends and says what happened."""
    with FLOOR.running(tmp_path, None) as server, generator(server, COUNT, None) as load:
        load.open(COUNT)
        server.child.process.kill()
        with pytest.raises(BenchmarkError, match=r"lost|cannot send|ended|gone"):
            load.burst(1, 0.05)


@pytest.mark.compiler
def test_too_many_connections_are_refused_by_name(load: Generator) -> None:
    """What cannot be done is said in a sentence."""
    with pytest.raises(BenchmarkError, match="at most 15 connections"):
        load.open(COUNT + 11)


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Built on demand, with a clear message when no compiler is there."""
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(BenchmarkError, match=r"no C compiler: install one .*gcc"):
        building.build("load", tmp_path)


@pytest.mark.compiler
def test_a_program_is_built_once(tmp_path: Path, compiler: None) -> None:
    """Built on demand: again only when a source is newer."""
    program = building.build("floor", tmp_path)
    built = program.stat().st_mtime_ns
    assert building.build("floor", tmp_path).stat().st_mtime_ns == built
    assert [path.name for path in tmp_path.iterdir()] == ["floor"]
    old = time.time() - 10 * 365 * 86_400
    os.utime(program, (old, old))
    assert building.build("floor", tmp_path).stat().st_mtime > old + 1
