"""Text of others on a terminal: colours may stay, everything else that acts on it goes."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.app.cli.ansi import safe_line, safe_name
from backend.app.cli.live_display import DirectiveFilter
from backend.app.cli.output import cell_text


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        ("plain ünïcode ✓", "plain ünïcode ✓"),
        ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m\x1b[0m"),
        ("\x1b[1;38;5;200mx", "\x1b[1;38;5;200mx\x1b[0m"),
        ("\x1b]0;new title\x07text", "text"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("a\x1b[2J\x1b[Hb", "ab"),
        ("\x1b[6n", ""),
        ("\x1bcreset", "reset"),
        ("\x9b31mC1", "31mC1"),
        ("bell\x07 back\x08 tab\t", "bell back tab\t"),
        ("cut \x1b", "cut "),
    ],
)
def test_only_colours_survive(stored: str, shown: str) -> None:
    """Log text is data: what would move the cursor, set the title or answer back is removed."""
    assert safe_line(stored, with_colours=True) == shown


@given(st.text(alphabet=st.characters(codec="utf-8") | st.sampled_from("\x1b[]0;m\x07\x9b")))
def test_without_colours_no_control_character_survives(text: str) -> None:
    """`--no-color` and pipes get text alone."""
    shown = safe_line(text, with_colours=False)
    assert not any((ord(char) < 32 and char != "\t") or 127 <= ord(char) < 160 for char in shown)


def test_names_stay_on_one_line() -> None:
    """A name of the server cannot make a second line of a table or an error."""
    assert safe_name("a\nb\x1b[31mc") == "a bc"


def test_cells_are_for_people() -> None:
    """Nothing for None, yes and no, local times."""
    assert [cell_text(value) for value in (None, True, False, 40.0, 3)] == ["", "yes", "no", "40", "3"]
    assert cell_text("2026-01-02T03:04:05.678Z")[:8] == "2026-01-"
    assert cell_text("2026-not-a-timeT-at-allZ") == "2026-not-a-timeT-at-allZ"


def shown_of(*chunks: bytes) -> bytes:
    display = DirectiveFilter()
    return b"".join(display.feed(chunk) for chunk in chunks) + display.finish()


def test_directives_are_not_shown() -> None:
    """`##progress` lines set progress; they are not output."""
    assert shown_of(b"a\n##progress 40 Pulling\r\nb\n") == b"a\nb\n"
    assert shown_of(b"##prog", b"ress 4", b"0\nx") == b"x"


def test_what_only_looks_like_a_directive_is_shown() -> None:
    """A line without a number, in the middle of a line, or that turns out different, is output."""
    for text in (b"##progress soon\n", b"a ##progress 40\n", b"##prose\n", b"##", b"##progress", b"x\r##progress 40\n"):
        assert shown_of(text) == text
        assert shown_of(*(bytes([byte]) for byte in text)) == text


def test_a_prompt_is_shown_at_once() -> None:
    """What cannot become a directive is not held back until its line ends."""
    display = DirectiveFilter()
    assert display.feed(b"Password: ") == b"Password: "
    assert display.feed(b"#") == b"#"
    assert display.feed(b"\n#") == b"\n"


def test_a_line_is_not_held_back_without_bound() -> None:
    """A directive that never ends is output at last."""
    display = DirectiveFilter()
    assert display.feed(b"##progress ") == b""
    assert len(display.feed(b"x" * 5000)) == 5011


@given(
    lines=st.lists(st.sampled_from([b"text", b"##progress 10 a", b"##progress x", b"", b"#", b"##progress 5\r"])),
    ends=st.booleans(),
    cuts=st.lists(st.integers(0, 200), max_size=8),
)
def test_cuts_make_no_difference(lines: list[bytes], ends: bool, cuts: list[int]) -> None:
    """However the bytes were chunked, the same is shown."""
    data = b"\n".join(lines) + (b"\n" if ends else b"")
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    chunks = [data[start:end] for start, end in itertools.pairwise(places)]
    assert shown_of(*chunks) == shown_of(data)
