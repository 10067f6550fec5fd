"""Masking: the values of `--mask` never leave the machine."""

import pytest

from backend.app.runner.lines import LineSplitter
from backend.app.runner.masking import Mask, is_maskable

KEY = "-----BEGIN KEY-----\r\n  MIIEvQIBADANBg\n}\nkqhkiG9w0BAQEF\n-----END KEY-----\n"


@pytest.mark.parametrize(
    ("values", "text", "masked"),
    [
        (["hunter22"], "login hunter22, hunter22!", "login ***, ***!"),
        (["pass", "password"], "password", "***"),
        (["abcd", "bcdefgh"], "xabcdefghx", "x***x"),
        (["abcd", "cdef"], "abcdef", "***"),
        (["abab"], "ababab", "***"),
        (["abcd"], "abcdabcd", "******"),
        (["a.c+"], "aXcc a.c+", "aXcc ***"),
        (["secret\n"], "a secret", "a ***"),
        ([KEY], "MIIEvQIBADANBg", "***"),
        ([KEY], "> kqhkiG9w0BAQEF <", "> *** <"),
        ([KEY], "{}", "{}"),
        (["", "a", "abc"], "a abc", "a abc"),
        ([], "text", "text"),
        (["caf\udcff\udcfe"], "caf\ufffd\ufffd", "***"),
    ],
)
def test_masked(values: list[str], text: str, masked: str) -> None:
    """Each value is replaced, the longest first, overlapping ones wholly, one of several lines line by line."""
    assert Mask(values).apply(text) == masked


def test_too_short_values_are_told() -> None:
    """A value that cannot be masked is known before anything runs."""
    assert not is_maskable("abc")
    assert not is_maskable("\n")
    assert is_maskable("abcd")
    assert is_maskable(KEY)


def test_a_secret_that_the_cut_halves_is_masked() -> None:
    """The start of a value at the end of a cut line is replaced as well, and the line does not grow."""
    mask = Mask(["topsecretvalue"])
    for padding in range(60, 130):
        (line,) = LineSplitter(128).feed(b"x" * padding + b"topsecretvalue" + b"y" * 200 + b"\n")
        masked = mask.apply(line.text)
        assert "tops" not in masked
        assert "[cut: " in masked
        assert len(masked.encode()) <= 128
    assert mask.apply("ends with tops") == "ends with tops", "an uncut line holds no halves"
