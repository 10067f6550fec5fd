"""F58: runner killed; server away while a command runs; spool full; spool file cut in the middle."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backend.app.runner.spool_files import files_of
from tests.integration.spools import (
    Place,
    kept,
    kill,
    lines_of,
    place_of,
    printed,
    shown,
    waiting_command,
)
from tests.proving import amount, measured


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    settings = {"DEPLOYMENT_LEASE_SECONDS": "4", "LEASE_SWEEP_SECONDS": "0.2"}
    async with place_of(tmp_path / "server", settings) as made:
        yield made


QUICK = {"WINDFLOW_RUNNER_HEARTBEAT_SECONDS": "1"}


async def test_f58_a_killed_runner_is_lost_and_its_lines_come_later(place: Place, tmp_path: Path) -> None:
    """Runner killed → `runner lost`; every line that it had printed arrives with the next flush, in order, once."""
    admin = await place.admin(tmp_path / "admin", QUICK)
    await place.start()
    gate = tmp_path / "gate"
    command = waiting_command(("seen", gate), ("unseen", tmp_path / "never"))
    async with admin.start("deploy", "--name", "web", *command) as run:
        deployment_id = await run.deployment_id()
        await place.until_line(deployment_id, 100)
        await place.kill()
        gate.touch()
        await run.until_out("unseen 99")
        await kill(run)
    (item,) = await kept(admin)
    assert item["isOwned"] is False
    await place.start()
    found = await place.until(deployment_id, lambda found: found["status"] == "failed")
    assert (found["reason"], found["lastLine"]) == ("runner lost", 100)
    flushed = await admin.run("spool", "flush")
    assert flushed.status == 0, flushed.err
    assert await lines_of(admin, deployment_id) == printed("seen", "unseen")
    found = await shown(admin, deployment_id)
    assert (found["status"], found["reason"], found["exitCode"]) == ("failed", "runner lost", None)
    assert await kept(admin) == []


async def test_f58_a_runner_that_comes_back_takes_up_what_was_lost(place: Place, tmp_path: Path) -> None:
    """`runner lost` while the runner was held up: the same runner takes it up again, and nothing is lost."""
    admin = await place.admin(tmp_path / "admin", QUICK)
    await place.start()
    gate = tmp_path / "gate"
    async with admin.start(
        "deploy", *waiting_command(("early", gate), ("late", None), then="raise SystemExit(3)")
    ) as run:
        deployment_id = await run.deployment_id()
        await place.until_line(deployment_id, 100)
        run.signal(signal.SIGSTOP)
        found = await place.until(deployment_id, lambda found: found["status"] == "failed")
        assert found["reason"] == "runner lost"
        run.signal(signal.SIGCONT)
        await run.until_err("taken up again")
        assert (await shown(admin, deployment_id))["status"] == "running"
        gate.touch()
        done = await run.end()
    assert done.status == 3
    assert await lines_of(admin, deployment_id) == printed("early", "late")
    found = await shown(admin, deployment_id)
    assert (found["status"], found["reason"], found["exitCode"]) == ("failed", "exit status 3", 3)


async def test_f58_a_full_spool_becomes_a_counted_marker(place: Place, tmp_path: Path) -> None:
    """Spool full → the oldest unsent lines become one counted marker; the disk holds no more than was set."""
    count = amount(40_000, 400_000)
    most = 1_048_576
    admin = await place.admin(tmp_path / "admin", {**QUICK, "WINDFLOW_SPOOL_BYTES": str(most)})
    source = f"for n in range({count}): print(n, 'x' * 80)"
    done = await admin.run("deploy", "--quiet", "--deliver-for", "0", "--", sys.executable, "-c", source, seconds=110)
    assert done.status == 0
    (item,) = await kept(admin)
    size = sum(path.stat().st_size for path in Path(item["folder"]).iterdir())
    # The last 256 lines that found room, with what a record adds to its text, may still come on top.
    assert size <= most + 65_536
    assert item["lines"] + item["missingLines"] == count
    measured("F58: bytes of a full spool", f"{size}", f"WINDFLOW_SPOOL_BYTES {most}, {count} lines printed")
    await place.start()
    assert (await admin.run("spool", "flush")).status == 0
    lines = await lines_of(admin, item["deploymentId"])
    marker = re.fullmatch(r"… (\d+) lines are missing: the server was away and the spool full", lines[0])
    assert marker is not None
    missing = int(marker[1])
    assert missing == item["missingLines"]
    assert lines[1:] == [f"{number} {'x' * 80}" for number in range(missing, count)]
    assert (await shown(admin, item["deploymentId"]))["status"] == "success"


async def test_f58_a_spool_file_cut_in_the_middle_keeps_its_whole_records(place: Place, tmp_path: Path) -> None:
    """Spool file cut in the middle → the whole records survive, and are delivered; the end is told as unknown."""
    admin = await place.admin(tmp_path / "admin", QUICK)
    assert (await admin.run("deploy", "--deliver-for", "0", *waiting_command(("line", None)))).status == 0
    (item,) = await kept(admin)
    (file,) = files_of(Path(item["folder"]))
    content = file.path.read_bytes()
    middle = content.index(b'"line 60"')
    os.truncate(file.path, middle)
    await place.start()
    flushed = await admin.run("spool", "flush")
    assert flushed.status == 0, flushed.err
    assert "its exit status is not known" in flushed.out
    assert await lines_of(admin, item["deploymentId"]) == [f"line {number}" for number in range(60)]
    found = await shown(admin, item["deploymentId"])
    assert (found["status"], found["reason"]) == ("failed", "runner lost")


async def test_f58_a_flush_that_is_killed_is_taken_up_by_the_next(place: Place, tmp_path: Path) -> None:
    """Delivering twice makes nothing twice, wherever the first try ended."""
    admin = await place.admin(tmp_path / "admin", QUICK)
    count = amount(20_000, 200_000)
    source = f"for n in range({count}): print(n)"
    left = await admin.run("deploy", "--quiet", "--deliver-for", "0", "--", sys.executable, "-c", source)
    assert left.status == 0
    (item,) = await kept(admin)
    await place.start()
    async with admin.start("spool", "flush") as run:
        await place.until_line(item["deploymentId"], 1000)
        await kill(run)
    assert (await admin.run("spool", "flush", seconds=110)).status == 0
    assert await lines_of(admin, item["deploymentId"]) == [f"{number}" for number in range(count)]
    assert (await shown(admin, item["deploymentId"]))["status"] == "success"
    assert await kept(admin) == []


async def test_f58_what_waits_for_a_server_waits_on_disk(place: Place, tmp_path: Path) -> None:
    """What the runner holds in memory stays bounded: twice the output costs it no more memory."""
    admin = await place.admin(tmp_path / "admin", QUICK)
    peaks = []
    for megabytes in (amount(16, 50), amount(32, 100)):
        gate = tmp_path / f"end{megabytes}"
        source = f"import time\nfor n in range({megabytes} * 1000): print('x' * 1000)\n"
        source += f"print('all')\nwhile not __import__('os').path.exists({str(gate)!r}): time.sleep(0.05)"
        async with admin.start("deploy", "--quiet", "--no-pty", "--", sys.executable, "-u", "-c", source) as run:
            deployment_id = await run.deployment_id()
            async with asyncio.timeout(100):
                while True:
                    item = next(each for each in await kept(admin) if each["deploymentId"] == deployment_id)
                    if item["lines"] == megabytes * 1000 + 1:
                        break
            status = Path(f"/proc/{run.process.pid}/status").read_text("utf-8")
            await kill(run)
            gate.touch()  # nobody else ends a command whose runner was killed
        peak = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert peak is not None
        peaks.append(int(peak[1]))
    measured("F58: runner memory, 100 MB of lines kept minus 50 MB", f"{peaks[1] - peaks[0]} kB", "bounded")
    assert peaks[1] - peaks[0] < 8_192
