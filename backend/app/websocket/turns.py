"""Spreads what a crowd asks for at once over the turns of the event loop, so that others get their turn in between.

A turn takes whatever became ready, however much that is: ten thousand handshakes are seconds in which no
health check is answered. Who comes while there is room goes at once; who does not waits in order.
"""

import asyncio
from collections import deque
from collections.abc import Callable


class Turns:
    """Lets `per_turn` acts run in each turn of the loop; the rest wait. One for each kind of act.

    As long as what waits: its user stops reading from the socket that waits, so that is one act for each.
    """

    def __init__(self, per_turn: int) -> None:
        self._per_turn = per_turn
        self._left = per_turn
        self._waiting: deque[Callable[[], None]] = deque()
        self._is_armed = False

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def is_room(self) -> bool:
        """Tell whether the next act would run at once."""
        return self._left > 0 and not self._waiting

    def run(self, act: Callable[[], None]) -> None:
        """Call `act`, now or in one of the next turns, after all that came before."""
        self._arm()
        if self.is_room():
            self._left -= 1
            act()
        else:
            self._waiting.append(act)

    def _arm(self) -> None:
        if not self._is_armed:
            self._is_armed = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        """Begin a turn: hand the loop as many acts as it may have."""
        self._is_armed = False
        count = min(self._per_turn, len(self._waiting))
        self._left = self._per_turn - count
        if count:
            self._arm()
        for _ in range(count):
            # By way of the loop: an act that fails is that act's trouble alone.
            asyncio.get_running_loop().call_soon(self._waiting.popleft())
