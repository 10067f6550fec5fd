"""The reader of output by itself, at a source that never runs dry."""

import asyncio
import os
from collections.abc import Iterator

import pytest

from backend.app.runner.output import DRAIN_BYTES, OutputReader

CHUNK = 4096


@pytest.fixture
def endless() -> Iterator[int]:
    """A descriptor that always has something to read."""
    descriptor = os.open("/dev/zero", os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


async def test_output_without_pause_leaves_the_loop_to_others(endless: int) -> None:
    """However fast a command prints, other tasks get their turn between two chunks."""
    reader = OutputReader([(endless, "out")], read_bytes=CHUNK, linger_seconds=1)
    turns: list[None] = []
    for count in range(1, 20):
        asyncio.get_running_loop().call_soon(turns.append, None)
        chunk = await reader.read()
        assert chunk is not None
        assert len(chunk.data) == CHUNK
        assert len(turns) == count


async def test_output_of_what_was_left_behind_is_bounded(endless: int) -> None:
    """Once the linger time is over, no more is read than the command itself can have printed."""
    reader = OutputReader([(endless, "out")], read_bytes=CHUNK, linger_seconds=0)
    assert await reader.read() is not None
    reader.command_ended()
    chunks = 0
    async with asyncio.timeout(20):
        while await reader.read() is not None:
            chunks += 1
    assert chunks == DRAIN_BYTES // CHUNK


async def test_end_wakes_the_reader() -> None:
    """A task that waits for output is told that there will be none, and the descriptor may be closed."""
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    reader = OutputReader([(read_end, "out")], read_bytes=CHUNK, linger_seconds=1)
    reading = asyncio.create_task(reader.read())
    while not reader._watched:  # noqa: ASYNC110
        await asyncio.sleep(0)
    reader.end()
    os.close(read_end)
    os.close(write_end)
    async with asyncio.timeout(20):
        assert await reading is None
