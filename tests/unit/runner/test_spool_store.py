"""Spools on disk: who owns one, what it holds after a crash, what has no room."""

import os
import stat
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.app.client.line_buffer import BufferLimits
from backend.app.client.runner_api import LogLine
from backend.app.runner.spool import Head, State, encode
from backend.app.runner.spool_files import files_of
from backend.app.runner.spool_folder import SpoolFolder, SpoolMissing, SpoolTaken, default_folder
from backend.app.runner.spool_store import LEAST_SPOOL_BYTES, Spool, SpoolDamaged
from backend.app.runner.spooled_lines import SpooledLines

HEAD = Head("http://server", "r1", {"deploymentId": "d1", "name": "web"}, "2026-01-15T10:35:00.000Z")


@pytest.fixture
def folder(tmp_path: Path) -> SpoolFolder:
    return SpoolFolder(tmp_path / "spool", LEAST_SPOOL_BYTES)


class Server:
    """What a server keeps of one log: idempotent by number, no gap."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def append(self, first_line: int, lines: list[LogLine], most: int | None = None) -> int:
        assert first_line <= len(self.lines) + 1, "a gap"
        self.lines += [line.text for line in lines[:most]][len(self.lines) + 1 - first_line :]
        return len(self.lines) + 1

    def take_all(self, lines: SpooledLines) -> None:
        while batch := lines.batch():
            lines.confirm(self.append(lines.first_line, batch))


def put(lines: SpooledLines, first: int, count: int, text: str = "line {}") -> None:
    lines.add([LogLine(text.format(number)) for number in range(first, first + count)])


def crash(spool: Spool) -> None:
    """End as `kill -9` does: nothing more is written, and the lock goes with the process."""
    spool._files.close()
    spool._lock.release()


def test_it_is_for_its_user_alone(folder: SpoolFolder) -> None:
    """File mode 0600, folder 0700."""
    spool = folder.create(HEAD)
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert stat.S_IMODE(spool.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in spool.folder.iterdir()} == {0o600}
    spool.close()


def test_the_folder_can_be_chosen(tmp_path: Path) -> None:
    """The user's state folder, overridable."""
    assert default_folder({"WINDFLOW_SPOOL_DIR": str(tmp_path)}) == tmp_path
    assert default_folder({}).parts[-2:] == ("windflow", "spool")


def test_one_owner_at_a_time(folder: SpoolFolder) -> None:
    """A lock marks a spool that a living process owns, so that others leave it alone."""
    spool = folder.create(HEAD)
    for act in (folder.take, folder.drop):
        with pytest.raises(SpoolTaken):
            act("d1")
    with pytest.raises(SpoolTaken):
        folder.create(HEAD)
    assert folder.look("d1").is_owned
    spool.close()
    assert not folder.look("d1").is_owned
    with pytest.raises(SpoolTaken):
        folder.create(HEAD)
    folder.take("d1").remove()
    assert folder.ids() == []
    assert list(folder.path.iterdir()) == []
    for absent in (folder.take, folder.drop, folder.look):
        with pytest.raises(SpoolMissing):
            absent("d1")


def test_what_was_written_survives_a_crash(folder: SpoolFolder) -> None:
    """`kill -9` of the runner loses nothing that was written; what the server confirmed is not sent again."""
    spool, server = folder.create(HEAD), Server()
    lines = SpooledLines(spool, BufferLimits(batch_lines=10))
    put(lines, 1, 25)
    lines.confirm(server.append(lines.first_line, lines.batch()))
    server.append(lines.first_line, lines.batch())  # whose answer never comes
    crash(spool)
    taken = folder.take("d1")
    assert (taken.head, taken.state.next_line, taken.waiting) == (HEAD, 11, 15)
    after = SpooledLines(taken, BufferLimits(batch_lines=4))  # by a version with other limits
    server.take_all(after)
    assert server.lines == [f"line {number}" for number in range(1, 26)]
    assert not len(after)
    taken.close()


def test_the_end_and_a_refusal_are_kept(folder: SpoolFolder) -> None:
    """The final status is delivered later, too; `spool list` names why a server took no more."""
    spool = folder.create(HEAD)
    spool.set_created()
    spool.set_end("failed", "exit status 3", 3, "2026-01-15T10:36:00.000Z")
    spool.set_refusal("deployment not found")
    spool.close()
    kept = folder.look("d1")
    assert kept.state is not None
    assert kept.state.end is not None
    assert (kept.state.end.status, kept.state.end.exit_code) == ("failed", 3)
    assert (kept.state.is_created, kept.state.refusal) == (True, "deployment not found")


def test_delivered_lines_are_not_kept(folder: SpoolFolder) -> None:
    """Disk is bounded by what waits, not by what was printed."""
    spool, server = folder.create(HEAD), Server()
    lines = SpooledLines(spool)
    most = 0
    for number in range(200):
        put(lines, number * 100, 100, "x" * 200 + "{}")
        server.take_all(lines)
        most = max(most, sum(file.stat().st_size for file in spool.folder.iterdir()))
    assert len(server.lines) == 20_000
    assert most < 3 * LEAST_SPOOL_BYTES // 16
    spool.close()


def test_a_full_spool_marks_the_oldest_unsent_lines(folder: SpoolFolder) -> None:
    """Beyond its bytes the oldest unsent lines become one counted marker line; what was sent keeps its number."""
    spool, server = folder.create(HEAD), Server()
    lines = SpooledLines(spool, BufferLimits(batch_lines=50))
    put(lines, 1, 60)
    handed = [line.text for line in lines.batch()]
    count = 60
    while count < 30_000:
        while lines.is_full:
            assert lines.make_room(100)
        put(lines, count + 1, 100, "x" * 100 + "{}")
        count += 100
        assert spool.size <= LEAST_SPOOL_BYTES + 20_000
    assert lines.dropped > 10_000
    assert spool.waiting == count - lines.dropped
    crash(spool)
    taken = folder.take("d1")
    server.take_all(SpooledLines(taken))
    markers = [text for text in server.lines if text.startswith("…")]
    assert markers == [f"… {lines.dropped} lines are missing: the server was away and the spool full"]
    assert server.lines[:50] == handed
    numbers = [int(text.split()[1]) if text.startswith("line") else int(text[100:]) for text in server.lines
               if not text.startswith("…")]  # fmt: skip
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == count
    assert len(numbers) + lines.dropped == count
    taken.close()


def test_a_cut_file_costs_its_last_record(folder: SpoolFolder) -> None:
    """A file cut in the middle: the whole records survive, and what is missing in between is counted."""
    spool, server = folder.create(HEAD), Server()
    lines = SpooledLines(spool)
    for number in range(1, 4001):
        put(lines, number, 1, "x" * 50 + "{}")
    crash(spool)
    files = files_of(folder.path / "deployment-d1")
    assert len(files) > 3
    for file in (files[1], files[-1]):
        os.truncate(file.path, file.size - 30)
    taken = folder.take("d1")
    server.take_all(SpooledLines(taken))
    lost = files[2].first_line - 1
    expected = ["x" * 50 + str(number) for number in range(1, 4000)]
    expected[lost - 1] = "… 1 line is missing: the spool was damaged"
    assert server.lines == expected
    taken.close()


def test_a_spool_without_a_readable_head_is_told_and_can_be_dropped(folder: SpoolFolder) -> None:
    """A person can get rid of what nobody can deliver."""
    folder.create(HEAD).close()
    file = files_of(folder.path / "deployment-d1")[0]
    file.path.write_bytes(encode(State()))
    with pytest.raises(SpoolDamaged):
        folder.take("d1")
    assert folder.look("d1").head is None
    folder.drop("d1")
    assert folder.ids() == []


def test_a_full_disk_holds_lines_in_memory_within_bounds(folder: SpoolFolder) -> None:
    """A disk that takes nothing costs no line while the server takes them, and no more memory than is set."""
    spool, server = folder.create(HEAD), Server()
    lines = SpooledLines(spool)
    put(lines, 1, 10)
    writable = spool._files.descriptor
    full = os.open("/dev/full", os.O_WRONLY)
    spool._files.descriptor = full
    put(lines, 11, 10)
    assert spool.trouble == "No space left on device"
    server.take_all(lines)
    assert server.lines == [f"line {number}" for number in range(1, 21)]
    added = 20
    while not lines.is_full:
        put(lines, added + 1, 100, "x" * 1000 + "{}")
        added += 100
    assert spool._unwritten_bytes < 6_000_000
    assert lines.make_room(100)
    spool._files.descriptor = writable
    put(lines, added + 1, 1, "x" * 1000 + "{}")
    assert spool.trouble is None
    server.take_all(lines)
    kept = [text for text in server.lines[20:] if not text.startswith("…")]
    assert server.lines[20] == f"… {lines.dropped} lines are missing: the server was away and the spool full"
    assert len(kept) + lines.dropped + 20 == added + 1
    os.close(full)
    spool.close()


def test_what_killed_processes_left_half_made_goes(folder: SpoolFolder) -> None:
    """A crash while a spool is made or removed leaves nothing for ever."""
    folder.create(HEAD).close()
    for name in (".new-deployment-x-1-1", ".gone-deployment-y-1-1"):
        hidden = folder.path / name
        hidden.mkdir()
        (hidden / "000001-1.spool").touch()
        old = time.time() - 3600
        os.utime(hidden, (old, old))
    (folder.path / ".new-deployment-z-1-1").mkdir()
    assert folder.ids() == ["d1"]
    assert sorted(path.name for path in folder.path.iterdir()) == [".new-deployment-z-1-1", "deployment-d1"]


@settings(deadline=None, max_examples=60)
@given(
    steps=st.lists(
        st.sampled_from(["add", "add many", "send", "part", "lose answer", "room", "crash", "refuse"]), max_size=40
    ),
    batch_lines=st.integers(1, 5),
)
def test_what_arrives_is_in_order_and_once(
    steps: list[str], batch_lines: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Over crashes, lost answers and a full spool: lines arrive in order, once; what does not arrive is counted."""
    folder = SpoolFolder(tmp_path_factory.mktemp("steps"), LEAST_SPOOL_BYTES)
    spool, server = folder.create(HEAD), Server()
    limits = BufferLimits(batch_lines=batch_lines)
    lines = SpooledLines(spool, limits)
    added = 0
    for step in steps:
        if spool.is_final and step in ("add", "add many", "room"):
            continue  # whoever takes over delivers, and adds nothing
        match step:
            case "add" | "add many":
                count = 1 if step == "add" else 40
                put(lines, added + 1, count, "x" * 4000 + " {}")  # some 16 to a file
                added += count
            case "send" | "part":
                lines.confirm(server.append(lines.first_line, lines.batch(), None if step == "send" else 1))
            case "lose answer":
                server.append(lines.first_line, lines.batch())
            case "room":
                if not lines.make_room(2):
                    added += 2
            case "refuse":
                lines.batch()
                if lines._handed > 1:
                    lines.refuse()
            case "crash":
                crash(spool)
                spool = folder.take("d1")
                lines = SpooledLines(spool, limits)
    crash(spool)
    spool = folder.take("d1")
    server.take_all(SpooledLines(spool))
    numbers = [int(text.split()[1]) for text in server.lines if not text.startswith("…")]
    marked = [int(text.split()[1]) for text in server.lines if text.startswith("…")]
    assert numbers == sorted(set(numbers))
    assert len(numbers) + sum(marked) == added
    assert spool.waiting == 0
    spool.close()
