"""Write hooks that let a node append only while it is its own, and open its plugins' cursors with it.

Around the hooks of the unit of work: the generation is checked before events are numbered, and a
plugin's cursor in a stream is made in the transaction of the node's first append to that stream.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection

from backend.app.database import WriteHooks
from backend.app.realtime.event import Event
from backend.app.realtime.node import Node, require_node
from backend.app.realtime.plugin_cursors import CursorKey, open_cursors
from backend.app.schemas.errors import WindFlowError
from backend.app.schemas.event_spec import Delivery

Pairs = set[tuple[str, str, str]]

_MOST_OPENING = 1_000
"""Most transactions that are remembered; those that were rolled back are told to nobody."""


class NodeHooks:
    """The hooks of one node. `make_hooks(node id)` gives those that number and store."""

    def __init__(self, node: Node, make_hooks: Callable[[str], WriteHooks]) -> None:
        self.node = node
        self.plugins: frozenset[str] = frozenset()
        """Those that have cursors; the dispatcher sets it. Replaced, never changed: another thread reads it."""
        self.on_lost: Callable[[], None] = lambda: None
        """Called when an append is refused, in the database's thread."""
        self._make_hooks = make_hooks
        self._inner = make_hooks(node.id)
        self._opening: dict[str, Pairs] = {}
        """What the running transactions make, by their first event."""
        self._opened: Pairs = set()
        """(node, stream, plugin) whose row is committed. Read and written by several threads."""
        self._lock = threading.Lock()

    @property
    def hooks(self) -> WriteHooks:
        """What `Database.connect` needs."""
        return WriteHooks(self._close_group, self._committed)

    def become(self, node: Node) -> None:
        """Go on as another node: this one's lease was lost."""
        self._inner = self._make_hooks(node.id)
        with self._lock:
            self._opened.clear()
            self._opening.clear()
        self.node.id, self.node.generation = node.id, node.generation
        # Last: until here every append is refused.
        self.node.is_lost = False

    def forget(self, plugin: str) -> None:
        """Make a plugin's cursors anew with the next append to each stream: its rows were removed."""
        with self._lock:
            self._opened = {pair for pair in self._opened if pair[2] != plugin}

    def streams(self) -> set[str]:
        """Return the streams to which this node has appended."""
        with self._lock:
            return {stream for _, stream, _ in self._opened}

    def _close_group(self, conn: Connection, units: Sequence[Any]) -> None:
        events = [record for unit in units for record in unit.records if isinstance(record, Event)]
        if not any(event.spec.delivery is Delivery.STREAM for event in events):
            self._inner.close_group(conn, units)
            return
        try:
            require_node(conn, self.node)
        except WindFlowError:
            self.on_lost()
            raise
        node = self.node.id
        self._inner.close_group(conn, units)
        numbered = [event for event in events if event.offset is not None]
        before: dict[str, int] = {}
        for event in numbered:
            assert event.offset is not None
            event.node = node
            before[event.stream] = min(before.get(event.stream, event.offset), event.offset - 1)
        with self._lock:
            wanted = {(node, stream, plugin) for stream in before for plugin in self.plugins}
            new = wanted - self._opened
        open_cursors(conn, {CursorKey(*pair): before[pair[1]] for pair in new})
        if new:
            self._remember(numbered[0].id, new)

    def _remember(self, event_id: str, new: Pairs) -> None:
        """Keep what becomes true with the commit of an event. Forgetting it costs a needless statement later."""
        with self._lock:
            if len(self._opening) >= _MOST_OPENING:
                self._opening.clear()
            self._opening[event_id] = new

    def _committed(self, units: Sequence[Any]) -> None:
        if self._opening:
            with self._lock:
                for unit in units:
                    for record in unit.records:
                        if isinstance(record, Event):
                            self._opened |= self._opening.pop(record.id, set())
        self._inner.committed(units)
