"""`make bench` from end to end, with ten connections: real servers, the real plugin, the real page."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.candidates import ROOT
from benchmarks.run import main

pytestmark = [pytest.mark.compiler, pytest.mark.usefixtures("compiler")]


def test_the_server_is_measured_beside_the_floor(tmp_path: Path) -> None:
    """`make bench` shows deliveries for 1 event and 20 due at once, latencies, memory and connects, with versions."""
    page, file = tmp_path / "figures.md", tmp_path / "samples.json"
    assert main(["--plan", "small", "--profile", "none", "--page", str(page), "--json", str(file)]) == 0
    text = page.read_text(encoding="utf-8")
    for part in (
        "single events, N = 10",
        "20 events due at once, N = 10",
        "memory of an idle",
        "authenticated connects",
    ):
        assert part in text
    assert "uvicorn " in text
    taken = json.loads(file.read_text(encoding="utf-8"))
    bursts = [sample for sample in taken if sample["setting"]["kind"] == "burst"]
    assert {(s["candidate"], s["setting"]["events"]) for s in bursts} == {
        (name, events) for name in ("floor", "windflow") for events in (1, 20)
    }
    for sample in bursts:
        asked = sample["setting"]
        assert sample["answer"]["events"] == sample["answer"]["rounds"] * asked["events"] * asked["connections"]
        assert sample["rate"] > 0
    assert {s["candidate"] for s in taken if s["setting"]["kind"] == "churn"} == {"windflow", "plain_fastapi"}


def test_two_commits_stand_beside_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`make bench-compare` serves another commit from a folder, which goes again, and tells the ratio."""
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    if not shutil.which("git") or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("not a git checkout: there is no other commit to compare with")
    assert main(["--compare", "HEAD", "--plan", "small", "--json", str(tmp_path / "samples.json")]) == 0
    printed = capsys.readouterr().out
    assert "| Figure | `HEAD` | this working copy | Ratio |" in printed
    assert "deliveries per CPU second, 20 at once, N = 10" in printed
    trees = subprocess.run(["git", "-C", str(ROOT), "worktree", "list"], capture_output=True, text=True, check=True)
    assert "windflow-bench-" not in trees.stdout


def test_an_unknown_commit_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be measured is said in one sentence, with exit status 1."""
    assert main(["--compare", "no-such-revision", "--plan", "small"]) == 1
    assert capsys.readouterr().err.startswith("cannot measure: git worktree: ")
