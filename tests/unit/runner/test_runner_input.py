"""Input: a pipe or file reaches the command as it is, a terminal's typing reaches its terminal."""

import asyncio
import hashlib
import os
import pty
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.app.runner.process import CommandProcess, Durations, Mode
from tests.unit.runner.running import python, read_until, run_bytes, run_lines, shell, until

each_mode = pytest.mark.parametrize("mode", ["pty", "pipe", "split"])


@pytest.fixture
def typist() -> Iterator[tuple[int, int]]:
    """A terminal of ours: the side where the user types, and the side that is our input."""
    user, ours = pty.openpty()
    os.set_blocking(user, False)
    yield user, ours
    for descriptor in (user, ours):
        if descriptor >= 0:
            os.close(descriptor)


@each_mode
async def test_pipe_is_passed_through(mode: Mode) -> None:
    """Any bytes, lines of any length and the end of file reach the command; nothing of it is echoed."""
    data = b"\x03\x04\x1a\x00\xff" + b"l" * 30_000 + b"\r\nend"
    read_end, write_end = os.pipe()
    os.write(write_end, data)
    os.close(write_end)
    source = "import sys, hashlib; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())"
    output = await run_lines(python(source), mode=mode, stdin=read_end)
    os.close(read_end)
    assert output == [hashlib.sha256(data).hexdigest()]


@each_mode
async def test_pipe_is_read_live(mode: Mode) -> None:
    """The command reads what comes while it runs, and we keep nothing of it."""
    read_end, write_end = os.pipe()
    async with CommandProcess(["cat"], mode=mode, stdin=read_end) as process:
        os.close(read_end)
        for word in (b"one\n", b"two\n"):
            os.write(write_end, word)
            await read_until(process, word.strip())
        os.close(write_end)
        assert (await process.wait()).exit_code == 0


@each_mode
async def test_file_and_empty_input(mode: Mode, tmp_path: Path) -> None:
    """A file works like a pipe; without input the command reads an end of file."""
    (tmp_path / "in").write_text("from a file\n")
    with open(tmp_path / "in") as file:
        assert await run_lines(["cat"], mode=mode, stdin=file.fileno()) == ["from a file"]
    assert await run_lines(shell("cat; echo over"), mode=mode, stdin=None) == ["over"]
    assert await run_lines(shell("cat; echo over"), mode=mode, stdin=987) == ["over"], "a closed descriptor"


async def test_question_that_nobody_can_answer_is_ended() -> None:
    """Who asks on the terminal itself, as for a password, reads an end of file instead of waiting for ever."""
    durations = Durations(no_input_seconds=0.1)
    source = "import getpass\ntry: getpass.getpass()\nexcept EOFError: print('nobody')"
    async with asyncio.timeout(20):
        assert await run_bytes(shell("read x </dev/tty || echo nobody"), durations=durations)
        output, _ = await run_bytes(python(source), durations=durations)
    assert b"nobody" in output


async def test_typing_reaches_the_command(typist: tuple[int, int]) -> None:
    """What the user types arrives, is echoed once by the command's terminal, and Ctrl-D ends the input."""
    user, ours = typist
    async with CommandProcess(["cat"], stdin=ours) as process:
        os.write(user, b"hello\r")
        assert await read_until(process, b"hello\r\nhello\r\n") == b"hello\r\nhello\r\n"
        os.write(user, b"\x04")
        assert (await process.wait()).exit_code == 0
    with pytest.raises(BlockingIOError):
        os.read(user, 100)


async def test_terminal_is_given_back_as_it_was(typist: tuple[int, int]) -> None:
    """Our terminal does not echo while the command runs (a password stays hidden); after, also after an error, it
    is as before. Ctrl-C and Ctrl-Z act on us all the time."""
    user, ours = typist
    before = termios.tcgetattr(ours)
    with pytest.raises(LookupError):
        async with CommandProcess(["cat"], stdin=ours, durations=Durations(kill_after_seconds=0)):
            keys, _, _, local, *_ = termios.tcgetattr(ours)
            assert not keys & termios.ICRNL, "Enter is the command's terminal's to translate"
            assert not local & (termios.ECHO | termios.ICANON)
            assert local & termios.ISIG
            raise LookupError
    assert termios.tcgetattr(ours) == before


async def test_terminal_that_hangs_up_ends_the_input() -> None:
    """A closed window is an end of file for the command."""
    user, ours = pty.openpty()
    async with asyncio.timeout(20), CommandProcess(shell("cat; echo over"), stdin=ours) as process:
        os.close(user)
        await read_until(process, b"over")
        assert (await process.wait()).exit_code == 0
    os.close(ours)


async def test_typing_that_the_command_does_not_read_waits(typist: tuple[int, int], tmp_path: Path) -> None:
    """A full input queue neither blocks us nor loses anything."""
    user, ours = typist
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    count = 300_000
    source = """import hashlib, os, sys, tty
tty.setraw(0)
print("ready", flush=True)
open(sys.argv[1]).read()
data = b""
while len(data) < int(sys.argv[2]): data += os.read(0, 65536)
print(hashlib.sha256(data).hexdigest(), flush=True)"""
    data = (b"0123456789abcdef" * (count // 16 + 1))[:count]
    async with asyncio.timeout(60), CommandProcess(python(source, str(gate), str(count)), stdin=ours) as process:
        await read_until(process, b"ready")
        sent = 0
        idle = 0
        while sent < count:
            try:
                sent += os.write(user, data[sent : sent + 512])
                idle = 0
            except BlockingIOError:
                idle += 1
                if idle == 20 and gate.exists():
                    assert sent < count, "the queues are full"
                    gate.open("w").close()
                    gate.unlink()
            await asyncio.sleep(0.001)
        await read_until(process, hashlib.sha256(data).hexdigest().encode())


async def test_background_does_not_touch_the_terminal(typist: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """In the background (`windflow deploy … &`) the terminal belongs to others: it is neither read nor changed."""
    user, ours = typist
    before = termios.tcgetattr(ours)
    monkeypatch.setattr(os, "tcgetpgrp", lambda descriptor: os.getpgrp() + 1)
    async with CommandProcess(shell("echo started; sleep 600"), stdin=ours) as process:
        await read_until(process, b"started")
        assert termios.tcgetattr(ours) == before


async def test_going_to_the_background_ends_the_reading(
    typist: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading there would suspend us."""
    user, ours = typist
    before = termios.tcgetattr(ours)
    async with CommandProcess(shell("echo started; sleep 600"), stdin=ours) as process:
        await read_until(process, b"started")
        monkeypatch.setattr(os, "tcgetpgrp", lambda descriptor: os.getpgrp() + 1)
        os.write(user, b"x")
        await until(lambda: termios.tcgetattr(ours) == before)
