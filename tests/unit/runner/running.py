"""What the runner's process tests share: running a real command, and looking at real processes."""

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from backend.app.runner.lines import LineSplitter
from backend.app.runner.process import Chunk, CommandProcess, Exit

LIMIT_BYTES = 1_048_576


def python(source: str, *arguments: str) -> list[str]:
    """The command line that runs a piece of Python."""
    return [sys.executable, "-S", "-c", source, *arguments]


def shell(source: str, *arguments: str) -> list[str]:
    """The command line that runs a piece of shell."""
    return ["sh", "-c", source, "sh", *arguments]


async def run(argv: Sequence[str], **options: Any) -> tuple[list[Chunk], Exit]:
    """Runs a command to its end and returns all it printed."""
    options.setdefault("stdin", None)
    async with CommandProcess(argv, **options) as process:
        chunks = [chunk async for chunk in process]
        return chunks, await process.wait()


async def run_bytes(argv: Sequence[str], **options: Any) -> tuple[bytes, Exit]:
    """The same with the chunks joined."""
    chunks, ended = await run(argv, **options)
    return b"".join(chunk.data for chunk in chunks), ended


async def run_lines(argv: Sequence[str], **options: Any) -> list[str]:
    """Runs a command and returns the lines as they would be stored."""
    splitter = LineSplitter(LIMIT_BYTES)
    chunks, _ = await run(argv, **options)
    lines = [line for chunk in chunks for line in splitter.feed(chunk.data)]
    return [line.text for line in lines + splitter.finish()]


async def read_until(process: CommandProcess, wanted: bytes) -> bytes:
    """Reads until the wanted bytes were printed; fails if the output is over before."""
    read = b""
    async for chunk in process:
        read += chunk.data
        if wanted in read:
            return read
    raise AssertionError(f"{wanted!r} was not printed, only {read!r}")


async def pids_after(process: CommandProcess, word: str, count: int = 1) -> list[int]:
    """Reads `WORD pid pid …` from the output."""
    read = await read_until(process, word.encode())
    while b"\n" not in read[read.index(word.encode()) :]:
        read += (await anext(process)).data
    pids = [int(pid) for pid in read[read.index(word.encode()) + len(word) :].split(b"\n")[0].split()]
    assert len(pids) == count
    return pids


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat[stat.rindex(b")") + 2 :].split()[0] not in (b"Z", b"X")


def exists(pid: int) -> bool:
    """Whether there is such a process, be it a zombie."""
    return os.path.exists(f"/proc/{pid}")


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Waits for a condition that no event tells of."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
