"""Tells quiet connections how far they are, so that their position does not age while they want nothing of a stream.

A position that retention has passed is lost; a client that gets no events would keep an old one. The connections
take turns within the interval, so that there is no burst of writes.
"""

import asyncio
from typing import Any

from backend.app.realtime.connection import Connection
from backend.app.realtime.hub import Hub
from backend.app.schemas.messages import server_message

_SLICES = 30


class PositionNotices:
    """The notices of one node. `main` runs `run` as a task."""

    def __init__(self, hub: Hub, interval_seconds: float) -> None:
        self._hub = hub
        self._interval_seconds = interval_seconds

    async def run(self) -> None:
        """Tell every connection once in each interval, until cancelled."""
        at = 0
        while True:
            await asyncio.sleep(self._interval_seconds / _SLICES)
            self.tell(at)
            at = (at + 1) % _SLICES

    def tell(self, slice_number: int) -> None:
        """Tell the connections of one slice what they were not told yet."""
        for index, connection in enumerate(self._hub):
            if index % _SLICES == slice_number:
                self._tell(connection)

    def _tell(self, connection: Connection) -> None:
        if connection.queued_messages or connection.outlet.is_paused:
            return  # It has things to read that tell it more.
        positions = self._hub.positions(connection)
        known = hash(tuple(sorted((stream, *_place(place)) for stream, place in positions.items())))
        if known != connection.told_positions:
            connection.told_positions = known
            connection.push(server_message("positions", {"positions": positions}), is_droppable=True)


def _place(position: dict[str, Any]) -> tuple[str, int]:
    return position["epoch"], position["offset"]
