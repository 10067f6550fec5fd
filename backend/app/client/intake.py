"""Turns the messages of one socket after another into items: what was taken before is dropped, by number. Pure.

`EventStream` gives it every push in the order of the wire and yields what it returns. The positions move in the same
step, so what they say is always what was yielded.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from backend.app.client.items import LOGS_UPDATE, CatchingUp, CaughtUp, Event, Item, PositionLost
from backend.app.client.positions import LOG_PREFIX, Ledger
from backend.app.client.socket import Message

_OF_LINES = ("logs", "times", "streams", "levels")
"""The lists of a line event, each as long as the others."""


class Intake:
    """Judges the pushes of the server against a ledger."""

    def __init__(self, ledger: Ledger, ask_positions: Callable[[], None] = lambda: None) -> None:
        self._ledger = ledger
        self._ask_positions = ask_positions
        """Called when a stream is met whose epoch only the server can tell; once until it has told something."""
        self._has_asked = False
        self._given: dict[str, Any] | None = None
        """What this connection was to resume from; None: it was to begin anew."""
        self._welcome: Mapping[str, Any] = {}
        self._starts: dict[str, int] = {}
        """The line from which each log was asked for on this connection."""

    def begin(self, given: Mapping[str, Any] | None, starts: Mapping[str, int], welcome: Mapping[str, Any]) -> None:
        """A connection begins: it was given these positions and lines, and was answered with those positions."""
        self._given, self._starts, self._welcome = None if given is None else dict(given), dict(starts), welcome
        self._has_asked = False

    def is_resumed(self) -> bool:
        """Tell whether every stream goes on from where it was; if not, messages follow that say why."""
        return all(self._welcome.get(stream) == position for stream, position in (self._given or {}).items())

    def take(self, message: Message) -> list[Item]:
        """Return what a push means to the consumer: nothing where it is known already.

        Raises LinesMissing, with nothing taken, where a followed log has a gap that another connection can close.
        """
        kind, data = message.get("type"), message.get("data")
        content: dict[str, Any] = data if isinstance(data, dict) else {}
        if kind in ("pong", "positions"):
            return self._told(content)
        if kind == "catching_up":
            behind = content.get("behind")
            return [CatchingUp(str(content.get("stream")), behind if isinstance(behind, int) else 0)]
        if kind == "caught_up":
            return [*self._told(content), CaughtUp(str(content.get("stream")))]
        if kind == "position_lost":
            return [self._lost(content)]
        if kind == "WEBSOCKET_ERROR" and self._given is not None and _is_about_positions(content):
            return self._not_resumed()
        return self._event(Event.from_message(message))

    # ---- events --------------------------------------------------------------------------------------------

    def _event(self, event: Event) -> list[Item]:
        if event.stream is not None and isinstance(event.offset, int):
            if not self._ledger.take(event.stream, event.offset):
                return []
            if not self._has_asked and not self._ledger.knows_epoch(event.stream):
                self._has_asked = True
                self._ask_positions()
            return [event]
        if event.type == LOGS_UPDATE:
            return self._lines(event)
        return [event]

    def _lines(self, event: Event) -> list[Item]:
        log, first, texts = event.data.get("deploymentId"), event.data.get("firstLine"), event.data.get("logs")
        if not isinstance(log, str) or not isinstance(first, int) or not isinstance(texts, list):
            return [event]  # Published by something else than a runner: it has no numbers.
        lost = self._bridge(log, first)
        known = self._ledger.take_lines(log, first, len(texts))
        if known >= len(texts):
            return lost
        return [*lost, event if known <= 0 else _without(event, known)]

    def _bridge(self, log: str, line: int) -> list[Item]:
        """Give lines up that did not even come to a connection that asked for them; others can still be asked for."""
        wanted = self._ledger.line(log)
        if wanted is None or line <= wanted or self._starts.get(log) != wanted:
            return []
        now = self._ledger.lose(LOG_PREFIX + log, {LOG_PREFIX + log: {"line": line}})
        return [PositionLost(LOG_PREFIX + log, "unknown", {"line": wanted}, now)]

    # ---- positions -----------------------------------------------------------------------------------------

    def _told(self, content: Mapping[str, Any]) -> list[Item]:
        positions = content.get("positions")
        if not isinstance(positions, Mapping):
            return []
        lost: list[Item] = []
        for name, position in positions.items():
            if name.startswith(LOG_PREFIX) and isinstance(position, Mapping) and isinstance(position.get("line"), int):
                lost += self._bridge(name.removeprefix(LOG_PREFIX), position["line"])
        self._has_asked = False
        self._ledger.told(positions)
        return lost

    def _lost(self, content: Mapping[str, Any]) -> PositionLost:
        name, lost, positions = str(content.get("stream")), content.get("lost"), content.get("positions")
        told = positions if isinstance(positions, Mapping) else {}
        now = self._ledger.lose(name, told)
        if name.startswith(LOG_PREFIX):
            self._starts.pop(name.removeprefix(LOG_PREFIX), None)
        return PositionLost(name, str(content.get("reason")), lost if isinstance(lost, dict) else None, now)

    def _not_resumed(self) -> list[Item]:
        """The server does not take positions: everything goes on from where it said that it is."""
        items: list[Item] = []
        for stream, position in (self._given or {}).items():
            items.append(PositionLost(stream, "unsupported", position, self._ledger.lose(stream, self._welcome)))
        self._given = None
        return items


def _without(event: Event, count: int) -> Event:
    """Return an event of lines without its first ones."""
    data: dict[str, Any] = {
        name: each[count:] if name in _OF_LINES and isinstance(each, list) else each
        for name, each in event.data.items()
    }
    data["firstLine"] += count
    return replace(event, data=data)


def _is_about_positions(content: Mapping[str, Any]) -> bool:
    """Tell whether an error refuses the positions of the auth message."""
    fields = [item.get("field", "") for item in content.get("details") or () if isinstance(item, Mapping)]
    named = [str(content.get("message", "")), *map(str, fields)]
    return content.get("code") in ("unsupported", "invalid_message") and any(
        text.partition(":")[0].partition(".")[0] == "positions" for text in named
    )
