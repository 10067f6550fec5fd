"""SIGTERM and SIGINT in a process of its own: the first asks, the second ends, and time ends it, too."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
PROGRAM = """
import logging, os, sys, threading, time
from backend.app.cli.stop_signals import StopSignals
logging.basicConfig(format="%(message)s")
with StopSignals({seconds}) as signals:
    print("ready", flush=True)
    {code}
"""
WAIT = "while not signals.is_stopping: time.sleep(0.01)\n    "


async def run(
    code: str, *signals: signal.Signals, seconds: float = 3600, err: int | None = None, is_late: bool = False
) -> tuple[int, str]:
    """Run the program, send the signals one by one as it prints a line; return its status and stderr.

    With `is_late` the first line is answered with a byte on stdin instead.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM.format(code=code, seconds=seconds), cwd=REPOSITORY,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=err or asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            if is_late:
                assert await process.stdout.readline()
                process.stdin.write(b"!")
            for number in signals:
                assert await process.stdout.readline()
                process.send_signal(number)
            await process.wait()
            written = await process.stderr.read() if process.stderr else b""
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        process._transport.close()  # type: ignore[attr-defined]
    assert process.returncode is not None
    return process.returncode, written.decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_first_signal_only_asks(number: signal.Signals) -> None:
    """The first signal sets `is_stopping`; the program ends by itself."""
    assert await run(f"{WAIT}sys.exit(5)", number) == (5, "")


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_the_second_one_ends(first: signal.Signals, second: signal.Signals) -> None:
    """The second signal ends the process at once with 128 + its number."""
    code = f"{WAIT}print('again', flush=True); time.sleep(3600)"
    assert await run(code, first, second) == (128 + second, "")


@pytest.mark.parametrize(
    "code",
    [
        "time.sleep(3600)",
        "while True: pass",
        "threading.Thread(target=time.sleep, args=(3600,)).start()\n    " + WAIT + "pass",
        "logging.getLogger().handlers[0].acquire(); time.sleep(3600)",
    ],
    ids=["sleeps", "is busy", "leaves a thread", "holds the log"],
)
async def test_time_ends_it(code: str) -> None:
    """After the first signal the process ends in its time, status 0, whatever blocks it."""
    status, written = await run(code, signal.SIGTERM, seconds=0.5)
    assert status == 0
    assert "the shutdown did not end in time and is cut off at" in written


async def test_time_ends_it_although_nobody_reads_the_log() -> None:
    """A log that takes nothing does not keep the process."""
    read_end, write_end = os.pipe()
    try:
        os.set_blocking(write_end, False)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(write_end, b"x" * 65536)
        os.set_blocking(write_end, True)
        assert (await run("time.sleep(3600)", signal.SIGTERM, seconds=0.5, err=write_end))[0] == 0
    finally:
        os.close(read_end)
        os.close(write_end)


async def test_without_a_signal_the_handlers_are_given_back() -> None:
    """A start that fails leaves the signals as they were: the next one has its usual effect."""
    code = "pass\nassert os.read(0, 1); print('done', flush=True); time.sleep(3600)"
    assert (await run(code, signal.SIGTERM, is_late=True))[0] == -signal.SIGTERM
