"""Prepared frames: what a WebSocket library reads back is what was framed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.uri import parse_uri

from backend.app.realtime.frames import text_frame, texts_of


def read_by_a_library(data: bytes) -> list[Frame]:
    client = ClientProtocol(parse_uri("ws://127.0.0.1/"), state=OPEN, max_size=None)
    client.receive_data(data)
    assert client.parser_exc is None
    return [event for event in client.events_received() if isinstance(event, Frame)]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 1_000_000])
def test_every_length_is_framed_as_rfc_6455_says(size: int) -> None:
    """One unmasked final text frame, whatever the size."""
    (frame,) = read_by_a_library(text_frame(b"x" * size))
    assert (frame.opcode, frame.fin, bytes(frame.data)) == (Opcode.TEXT, True, b"x" * size)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=300), max_size=8))
def test_joined_frames_are_read_one_by_one(texts: list[str]) -> None:
    """Connections owed the same frames share one joined bytes object; a client sees the messages in order."""
    joined = b"".join(text_frame(text.encode()) for text in texts)
    assert [bytes(frame.data).decode() for frame in read_by_a_library(joined)] == texts
    assert list(texts_of(joined)) == texts


def test_long_texts_come_back_from_their_frames() -> None:
    """A server that takes messages is given the texts of the same frames."""
    texts = ["a" * 125, "b" * 126, "ü" * 40_000]
    assert list(texts_of(b"".join(text_frame(text.encode()) for text in texts))) == texts
