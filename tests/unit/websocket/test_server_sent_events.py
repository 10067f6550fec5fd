"""The id of each event: where the client is once it has it, derived from the messages; and read back."""

import base64
from typing import Any

import orjson
import pytest

from backend.app.realtime.event_log import Position
from backend.app.schemas.errors import WindFlowError
from backend.app.websocket.server_sent_events import EventStreamFormat, LastEvent, read_last_event_id


def parts(event: bytes) -> dict[str, str]:
    assert event.endswith(b"\n\n")
    return dict(line.split(": ", 1) for line in event.decode().strip().split("\n"))


def place(event: bytes) -> Any:
    text = parts(event)["id"]
    return orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def message(kind: str, data: Any, **more: Any) -> str:
    return orjson.dumps({"type": kind, "data": data, **more}).decode()


def at(offset: int, epoch: str = "e") -> dict[str, Any]:
    return {"epoch": epoch, "offset": offset}


@pytest.fixture
def events() -> EventStreamFormat:
    made = EventStreamFormat("d", 5)
    made.event(message("AUTH_LOGIN_SUCCESS", {"positions": {"org:o": at(7), "system": at(0)}}))
    return made


def test_stream_events_and_lines_advance_the_id(events: EventStreamFormat) -> None:
    """An event's own offset, and the line after the last one that came."""
    event = events.event(message("X", {}, id="i", stream="org:o", offset=9))
    assert place(event) == {"log:d": {"line": 5}, "org:o": at(9), "system": at(0)}
    event = events.event(message("DEPLOYMENT_LOGS_UPDATE", {"deploymentId": "d", "firstLine": 5, "logs": ["a", "b"]}))
    assert place(event)["log:d"] == {"line": 7}
    assert parts(event)["event"] == "DEPLOYMENT_LOGS_UPDATE"
    other = message("DEPLOYMENT_LOGS_UPDATE", {"deploymentId": "other", "firstLine": 50, "logs": ["a"]})
    assert place(events.event(other))["log:d"] == {"line": 7}
    assert "log:other" not in place(events.event(other))


def test_positions_never_move_the_id_back_within_an_epoch(events: EventStreamFormat) -> None:
    """What was said before an event came does not undo it; another epoch begins anew."""
    events.event(message("X", {}, id="i", stream="org:o", offset=9))
    assert place(events.event(message("positions", {"positions": {"org:o": at(8)}})))["org:o"] == at(9)
    assert place(events.event(message("caught_up", {"positions": {"org:o": at(12)}})))["org:o"] == at(12)
    assert place(events.event(message("positions", {"positions": {"org:o": at(1, "f")}})))["org:o"] == at(1, "f")


def test_what_is_lost_begins_where_the_server_says(events: EventStreamFormat) -> None:
    """`position_lost` moves the id, also back."""
    lost = message("position_lost", {"stream": "org:o", "positions": {"org:o": at(2)}})
    assert place(events.event(lost))["org:o"] == at(2)
    lines = message("position_lost", {"stream": "log:d", "positions": {"log:d": {"line": 3}}})
    assert place(events.event(lines))["log:d"] == {"line": 3}


def test_an_event_with_a_field_called_positions_is_only_an_event(events: EventStreamFormat) -> None:
    """Somebody's payload does not move the id."""
    forged = message("CUSTOM_EVENT", {"positions": {"org:o": at(99)}}, id="i")
    assert place(events.event(forged))["org:o"] == at(7)


def test_a_type_of_many_lines_stays_one_field(events: EventStreamFormat) -> None:
    """What a plugin calls its message cannot forge an event."""
    assert parts(events.event(message("a\nid: forged", {})))["event"] == "a id: forged"


@pytest.mark.parametrize(
    "text",
    ['{"a":1}', '{"type":null,"data":[]}', '{"type":"positions","data":{"positions":{"org:o":1}}}',
     '{"type":"position_lost","data":{"positions":{"org:o":{"offset":"x"}}}}', '{"stream":{},"id":"i","data":{}}',
     '{"type":"WEBSOCKET_ERROR","data":{"code":"server_restarting"}}', '{"type":{},"data":{"positions":{}}}'],
)  # fmt: skip
def test_whatever_a_plugin_sends_is_an_event(events: EventStreamFormat, text: str) -> None:
    """Any object can be sent to a user: it becomes an event as it is, and the id stays."""
    event = events.event(text)
    assert parts(event)["data"] == text
    assert place(event) == {"log:d": {"line": 5}, "org:o": at(7), "system": at(0)}


def test_an_id_is_read_back() -> None:
    """What was given out says where to go on."""
    made = EventStreamFormat("d", 5)
    event = made.event(message("AUTH_LOGIN_SUCCESS", {"positions": {"org:o": at(7)}}))
    assert read_last_event_id(parts(event)["id"]) == LastEvent({"org:o": Position("e", 7)}, {"d": 5})
    assert read_last_event_id(None) == read_last_event_id("") == LastEvent()


@pytest.mark.parametrize("text", ["x", "\xff", "bnVsbA", "W10", "eyJhIjoxfQ", "e" * 9])
def test_what_no_event_had_is_refused(text: str) -> None:
    """A clear refusal naming the header."""
    with pytest.raises(WindFlowError) as refused:
        read_last_event_id(text)
    assert refused.value.status == 422
    assert refused.value.fields[0].field.startswith("Last-Event-ID")
