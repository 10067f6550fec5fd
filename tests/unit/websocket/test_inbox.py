"""The lean queue and event of a socket: one reader, nothing lost, cancellation takes nothing."""

import asyncio

import pytest

from backend.app.websocket.inbox import Gate, Inbox


async def test_items_come_out_in_order_whether_they_wait_or_are_waited_for() -> None:
    """What the protocol puts in, the application takes out, in order."""
    inbox: Inbox[int] = Inbox()
    inbox.put_nowait(1)
    inbox.put_nowait(2)
    assert (len(inbox), inbox.empty()) == (2, False)
    assert [await inbox.get(), await inbox.get()] == [1, 2]
    reading = asyncio.create_task(inbox.get())
    await asyncio.sleep(0)
    inbox.put_nowait(3)
    inbox.put_nowait(4)
    assert await reading == 3
    assert await inbox.get() == 4
    assert inbox.empty()


async def test_a_cancelled_reader_takes_nothing() -> None:
    """An auth phase that ran out of time leaves the message that came too late to whoever reads next."""
    inbox: Inbox[int] = Inbox()
    reading = asyncio.create_task(inbox.get())
    await asyncio.sleep(0)
    inbox.put_nowait(1)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await inbox.get() == 1


async def test_a_gate_lets_everyone_through_who_waited() -> None:
    """`send` waits while the transport takes nothing."""
    gate = Gate()
    waiting = [asyncio.create_task(gate.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    waiting[0].cancel()
    gate.set()
    await asyncio.gather(*waiting[1:])
    assert gate.is_set()
    await gate.wait()
    gate.clear()
    assert not gate.is_set()
    late = asyncio.create_task(gate.wait())
    await asyncio.sleep(0)
    assert not late.done()
    gate.set()
    await late


async def test_a_held_inbox_gives_nothing_until_it_is_released() -> None:
    """What comes meanwhile waits, in order, whether or not somebody was reading already."""
    inbox: Inbox[int] = Inbox()
    reading = asyncio.create_task(inbox.get())
    await asyncio.sleep(0)
    inbox.hold()
    inbox.put_nowait(1)
    inbox.put_nowait(2)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not reading.done()
    inbox.release()
    assert [await reading, await inbox.get()] == [1, 2]
