"""Row F50: `kill -9` at the named points, in the middle of a replay, and at random moments under load."""

import asyncio
import os
import random
from pathlib import Path

import pytest

from tests.crash.crash_world import crash_world
from tests.proving import amount, measured
from tests.services import database_name

KILLS = amount(5, 50)
BEFORE = amount(20, 100)
"""Entries that are acknowledged before and after a kill."""
MISSED = amount(300, 3000)
LONGEST_SECONDS = 0.6
"""Between what was acknowledged since a start and the next kill."""
MOST_FIRST = 6
"""Fewer are acknowledged before that moment: on a busy machine many a server would die before it did anything."""


@pytest.mark.parametrize("point", ["after_commit", "before_plugin_cursor"])
async def test_f50_killed_at_a_named_point(own_database: dict[str, str], tmp_path: Path, point: str) -> None:
    """Killed between commit and publish, or before the plugin cursor is written: delivered and dispatched after
    the restart, with the same event id, once and in order.
    """
    async with crash_world(tmp_path, own_database) as world:
        await world.restart(f"{point}:{BEFORE}")
        async with world.publishing():
            await world.killed(by_itself=True)
            await world.start()
            await world.until_acknowledged(BEFORE)
        await world.assert_balanced(point)


async def test_f50_killed_during_a_replay(own_database: dict[str, str], tmp_path: Path) -> None:
    """Killed while clients that were away read what they missed: they go on there, without a gap or a duplicate."""
    async with crash_world(tmp_path, own_database) as world:
        for follower in world.followers:
            await follower.end()
        async with world.publishing():
            await world.until_acknowledged(MISSED)
        await world.restart("during_replay:3")
        before = sum(len(follower.received.events) + len(follower.received.lines) for follower in world.followers)
        for follower in world.followers:
            follower.begin()
        await world.killed(by_itself=True)
        part = sum(len(follower.received.events) + len(follower.received.lines) for follower in world.followers)
        missed = len(world.followers) * (len(world.ledger.acknowledged) + len(world.ledger.lines)) - before
        assert part - before < missed, "the kill came after the replay"
        await world.start()
        async with world.publishing():
            await world.until_acknowledged(BEFORE)
        await world.assert_balanced(f"killed after {part - before} of {missed}")


async def test_f50_killed_at_random_moments(own_database: dict[str, str], tmp_path: Path) -> None:
    """Killed at 50 random moments under load: every acknowledged event once and in order at every entitled client,
    one without an answer at most once, a retry with its key makes none, plugins see each with the same id.
    """
    seed = int(os.environ.get("WINDFLOW_TEST_CRASH_SEED") or random.SystemRandom().randrange(1 << 32))
    note = f"WINDFLOW_TEST_CRASH_SEED={seed}"
    print(note)
    moments = random.Random(seed)
    async with crash_world(tmp_path, own_database) as world:
        async with world.publishing(pause_seconds=0.002):
            for _ in range(KILLS):
                await world.until_acknowledged(moments.randrange(MOST_FIRST))
                await asyncio.sleep(moments.uniform(0, LONGEST_SECONDS))  # the moment is what is tested
                await world.killed()
                await world.start()
            await world.until_acknowledged(BEFORE)
        await world.assert_balanced(note)
        ledger, followers = world.ledger, world.followers
        delivered = sum(len(follower.received.events) for follower in followers)
        appeared = len(followers[0].received.events) - len(ledger.acknowledged)
    kind = database_name(own_database)
    measured(
        f"F50: {KILLS} × `kill -9` at random, {kind}: missing, doubled, out of order",
        "0",
        f"{len(ledger.acknowledged)} acknowledged, {delivered} delivered to {len(followers)}, "
        f"{len(ledger.lines)} lines, {ledger.retries} retries, {appeared} of {len(ledger.unanswered)} unanswered",
    )
