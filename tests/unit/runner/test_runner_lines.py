"""The splitter: line ends, carriage returns, decoding, the cut; and that chunking never shows."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.app.runner.lines import SMALLEST_LIMIT_BYTES, LineSplitter, split_cut_mark

WIDE = 1_048_576


def split(data: bytes, *cuts: int, limit: int = WIDE) -> list[str]:
    """Feeds the data in the pieces that the cuts make and returns all texts."""
    splitter = LineSplitter(limit)
    bounds = [0, *sorted(cuts), len(data)]
    lines = [line for start, end in pairwise(bounds) for line in splitter.feed(data[start:end])]
    return [line.text for line in lines + splitter.finish()]


def reference(data: bytes) -> list[str]:
    """The same rules without cut, said as simply as possible."""
    *whole, rest = data.split(b"\n")
    texts = [part.rstrip(b"\r").split(b"\r")[-1] for part in (*whole, rest)]
    if not texts[-1]:
        texts.pop()
    return [text.decode("utf-8", "replace").replace("\0", "\ufffd") for text in texts]


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"one\ntwo\n", ["one", "two"]),
        (b"one\r\ntwo\r\r\n", ["one", "two"]),
        (b"no end", ["no end"]),
        (b"\n\n", ["", ""]),
        (b"one\n\r", ["one"]),
        (b" 10%\r 50%\r100%\n", ["100%"]),
        (b" 10%\r100%\r\n", ["100%"]),
        (b"100%\r", ["100%"]),
        (b"old\r\r\rnew\r\r\n", ["new"]),
        (b"\x1b[32mok\x1b[0m\r\x1b[2K\x1b[1mdone\x1b[0m\n", ["\x1b[2K\x1b[1mdone\x1b[0m"]),
        (b"a\xffb\xe2\x82\nc\n", ["a\ufffdb\ufffd", "c"]),
        (b"\xed\xa0\x80\n", ["\ufffd\ufffd\ufffd"]),
        (b"a\0b\n", ["a\ufffdb"]),
        ("é\u2028\x85\x0bz\n".encode(), ["é\u2028\x85\x0bz"]),
    ],
)
def test_lines_of(data: bytes, lines: list[str]) -> None:
    r"""`\n` and `\r\n` end a line, a lone `\r` replaces it, colours stay, invalid bytes become U+FFFD."""
    assert split(data) == lines
    assert split(data, *range(len(data))) == lines, "byte by byte"


def test_live_line_is_shown_without_half_a_character() -> None:
    """The unfinished line is known for the live display."""
    splitter = LineSplitter(WIDE)
    assert [line.text for line in splitter.feed(b"done\nPulling caf" + b"\xc3")] == ["done"]
    assert splitter.pending == "Pulling caf"
    splitter.feed(b"\xa9\r")
    assert splitter.pending == "Pulling café"
    splitter.feed(b"x")
    assert splitter.pending == "x"
    splitter.finish()
    assert splitter.pending == ""


def test_finished_splitter_is_new_again() -> None:
    """A carriage return at the end of one stream does not replace the next one's first line."""
    splitter = LineSplitter(WIDE)
    splitter.feed(b"\r")
    assert splitter.finish() == []
    splitter.feed(b"a")
    assert splitter.pending == "a"


def test_line_over_the_limit_is_cut_with_its_mark() -> None:
    """A line of 2 MiB is cut with its mark, which names what was kept and what there was."""
    (text,) = split(b"x" * 2_097_152 + b"\n", *range(0, 2_097_152, 4096))
    body, mark = split_cut_mark(text)
    assert mark == f" … [cut: {len(body)} of 2097152 bytes kept]"
    assert len(text.encode()) == WIDE
    assert body == "x" * len(body)


def test_line_at_the_limit_is_whole() -> None:
    """Only a line longer than the limit is cut."""
    assert split(b"y" * WIDE + b"\n") == ["y" * WIDE]
    assert split(b"y" * WIDE, 7) == ["y" * WIDE]
    assert split_cut_mark("y" * WIDE)[1] == ""
    assert split_cut_mark(split(b"y" * (WIDE + 1))[0])[1] != ""


def test_limit_counts_the_bytes_of_the_text() -> None:
    """A byte that becomes U+FFFD counts as the three bytes it is stored as, wherever the line was chunked."""
    for cuts in ((), (50,), tuple(range(100))):
        (text,) = split(b"\0" * 100, *cuts, limit=SMALLEST_LIMIT_BYTES)
        body, mark = split_cut_mark(text)
        assert mark == f" … [cut: {3 * len(body)} of 300 bytes kept]"
        assert len(text.encode()) <= SMALLEST_LIMIT_BYTES


def test_cut_colour_does_not_swallow_the_mark() -> None:
    """An escape sequence that the cut would halve is left out, and an open colour ends before the mark."""
    for length in range(80, 100):
        (text,) = split(b"r" * length + b"\x1b[38;5;196m" * 30 + b"\n", limit=SMALLEST_LIMIT_BYTES)
        assert re.fullmatch(r"r+(\x1b\[38;5;196m)*\x1b\[0m … \[cut: \d+ of \d+ bytes kept\]|r+ … .*", text)
    (text,) = split(b"t" * 40 + b"\x1b]0;a window title " + b"t" * 200 + b"\n", limit=SMALLEST_LIMIT_BYTES)
    assert split_cut_mark(text)[0] == "t" * 40


def test_chunking_does_not_decide_about_the_reset() -> None:
    """A colour that only begins at the limit is not kept, so nothing is to be ended before the mark."""
    data = b"\n" + b"w" * 127 + b"\x1b[31m\n"
    assert split(data, 1, limit=SMALLEST_LIMIT_BYTES) == split(data, limit=SMALLEST_LIMIT_BYTES)


def test_overlong_line_that_is_replaced_leaves_nothing() -> None:
    """After `\\r` the last state counts, however long the one before was."""
    assert split(b"z" * 5000 + b"\rshort\n", 1, 4000, limit=SMALLEST_LIMIT_BYTES) == ["short"]


def test_memory_is_bounded_by_the_limit() -> None:
    """What is kept of an unfinished line never exceeds the limit."""
    splitter = LineSplitter(1000)
    for _ in range(1000):
        splitter.feed(b"0123456789" * 100)
        assert len(splitter.pending) <= 1000
    assert splitter.finish()[0].text.endswith(" of 1000000 bytes kept]")


def test_limit_without_room_for_the_mark_is_refused() -> None:
    """Bad input gets a clear error naming the field and the rule."""
    with pytest.raises(ValueError, match="max_line_bytes must be at least 128, not 127"):
        LineSplitter(SMALLEST_LIMIT_BYTES - 1)


def test_large_output_is_split_at_once() -> None:
    """50 MB of lines take seconds (a deadline, not a measurement: it would take minutes character by character)."""
    block = b"0123456789 0123456789 0123456789 ok\r\n" * 1750
    splitter = LineSplitter(WIDE)
    assert sum(len(splitter.feed(block)) for _ in range(800)) == 1_400_000


PIECES = st.one_of(
    st.sampled_from([b"\n", b"\r", b"\r\n", b"\r\r\n", b"\0", b"\xff", b"\xf0\x9f", b"\x1b[31m", b"\x1b]0;t", b"\x07"]),
    st.sampled_from(["é".encode(), "😀".encode(), "\ufeff".encode(), "\u2028".encode(), b"\xed\xa0\x80"]),
    st.binary(max_size=8),
    st.text(alphabet="ab \r\n", max_size=8).map(str.encode),
    st.integers(1, 200).map(lambda count: b"w" * count),
)
STREAMS = st.lists(PIECES, max_size=40).map(b"".join)


@given(STREAMS, st.lists(st.integers(0, 4000), max_size=30))
def test_chunking_never_shows(data: bytes, cuts: list[int]) -> None:
    """The lines are those of the simple reference, however the bytes were chunked."""
    cuts = [min(cut, len(data)) for cut in cuts]
    assert split(data, *cuts) == reference(data)


@given(STREAMS, st.lists(st.integers(0, 4000), max_size=30))
def test_chunking_never_shows_in_cut_lines(data: bytes, cuts: list[int]) -> None:
    """A line over the limit, and only such a line, is a start of the whole line with a mark that tells the truth."""
    cuts = [min(cut, len(data)) for cut in cuts]
    lines = split(data, *cuts, limit=SMALLEST_LIMIT_BYTES)
    assert lines == split(data, limit=SMALLEST_LIMIT_BYTES)
    for text, whole in zip(lines, reference(data), strict=True):
        assert len(text.encode()) <= SMALLEST_LIMIT_BYTES
        if len(whole.encode()) <= SMALLEST_LIMIT_BYTES:
            assert text == whole
        else:
            body, mark = split_cut_mark(text)
            assert f"[cut: {len(body.encode())} of {len(whole.encode())} bytes kept]" in mark
            assert whole.startswith(body)
