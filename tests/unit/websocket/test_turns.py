"""Turns: so many acts in one turn of the loop, in order, and one that fails hurts no other."""

import asyncio
from collections.abc import Callable
from itertools import pairwise

from backend.app.websocket.turns import Turns


async def test_what_there_is_room_for_runs_at_once_and_the_rest_in_order() -> None:
    """No act waits for nothing; those that wait come a few in each turn, after those that came before."""
    turns, done = Turns(2), list[int]()

    def act(number: int) -> Callable[[], None]:
        return lambda: done.append(number)

    for number in range(6):
        turns.run(act(number))
    assert done == [0, 1]
    assert (len(turns), turns.is_room()) == (4, False)
    turns.run(act(6))
    counts = [len(done)]
    for _ in range(8):
        await asyncio.sleep(0)
        counts.append(len(done))
    assert done == [0, 1, 2, 3, 4, 5, 6]
    assert max(after - before for before, after in pairwise(counts)) == 2
    assert turns.is_room()


async def test_an_act_that_fails_keeps_no_other_from_its_turn() -> None:
    """Its error is the loop's to tell; the others run."""
    turns, done, errors = Turns(1), list[int](), list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context["exception"]))
    turns.run(lambda: done.append(1))
    failure = ValueError("broken")

    def fail() -> None:
        raise failure

    turns.run(fail)
    turns.run(lambda: done.append(2))
    for _ in range(8):
        await asyncio.sleep(0)
    assert (done, errors, len(turns)) == ([1, 2], [failure], 0)
