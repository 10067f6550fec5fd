"""The records of authenticated sockets: written in groups, told when they cannot be, bounded."""

import asyncio
from collections.abc import Sequence

import pytest

from backend.app import metrics
from backend.app.auth.permissions import Caller
from backend.app.websocket.connect_records import WAITING_GROUPS, ConnectRecords
from tests.plugin_world import until
from tests.unit.realtime.outlets import principal


def caller(number: int) -> Caller:
    return Caller(principal(), connection_id=str(number))


class Trail:
    """Where the groups are written; it can be closed for a while, or fail."""

    def __init__(self) -> None:
        self.groups: list[list[str | None]] = []
        self.is_open = asyncio.Event()
        self.is_open.set()
        self.fails = False

    async def write(self, callers: Sequence[Caller]) -> None:
        await self.is_open.wait()
        if self.fails:
            raise OSError("disk full")
        self.groups.append([each.connection_id for each in callers])


def dropped() -> float:
    return float(metrics.EVENTS_DROPPED.labels("connect records")._value.get())


async def test_sockets_that_come_together_are_one_group() -> None:
    """Connect records are written in groups of at most so many rows; each is written once."""
    trail = Trail()
    records = ConnectRecords(trail.write, group_seconds=0.01, group_rows=3)
    for number in range(7):
        records.add(caller(number))
    await records.stop()
    assert [name for group in trail.groups for name in group] == [str(number) for number in range(7)]
    assert max(len(group) for group in trail.groups) == 3


async def test_a_single_socket_is_recorded_without_others() -> None:
    """At most 20 ms later, also if nobody else comes; then the next one starts anew."""
    trail = Trail()
    records = ConnectRecords(trail.write, group_seconds=0.001, group_rows=500)
    for number in range(2):
        records.add(caller(number))
        await until(lambda number=number: len(trail.groups) > number)  # type: ignore[misc]
    assert trail.groups == [["0"], ["1"]]
    await records.stop()


async def test_a_trail_that_cannot_be_written_is_told_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """degrade: sockets are served while the trail cannot be written, never silently."""
    trail = Trail()
    trail.fails = True
    before = dropped()
    records = ConnectRecords(trail.write, group_seconds=0.001, group_rows=10)
    records.add(caller(1))
    await records.stop()
    assert dropped() == before + 1
    assert "could not be written" in caplog.text


async def test_what_waits_for_a_slow_database_is_bounded() -> None:
    """Above its bound records are dropped with a counter."""
    trail = Trail()
    trail.is_open.clear()
    records = ConnectRecords(trail.write, group_seconds=0.001, group_rows=2)
    before = dropped()
    records.add(caller(0))
    records.add(caller(1))
    await asyncio.sleep(0.01)
    for number in range(2 * WAITING_GROUPS + 5):
        records.add(caller(number))
    assert dropped() == before + 5
    trail.is_open.set()
    await records.stop()
    assert sum(len(group) for group in trail.groups) == 2 + 2 * WAITING_GROUPS
