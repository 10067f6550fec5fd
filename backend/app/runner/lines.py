"""Bytes in, lines out: how a command's raw output becomes the lines that are stored and shown.

Owns line ends, carriage returns, decoding and the cut of overlong lines; does no input or output. Called by
`windflow deploy` with each chunk of `process.py`. Invariants: the lines do not depend on how the bytes were
chunked; every text is valid Unicode without NUL, without line ends, and at most `max_line_bytes` long as UTF-8;
what is kept between two calls is bounded by `max_line_bytes`.
"""

import codecs
import re
from typing import NamedTuple

SMALLEST_LIMIT_BYTES = 128
"""A limit must leave room for the cut mark with its two byte counts."""

REPLACEMENT = "\ufffd"
UTF8_BYTES_PER_CHARACTER = 4

_CUT_MARK = re.compile(r"(?:\x1b\[0m)? … \[cut: \d+ of \d+ bytes kept\]\Z")
# A colour or title sequence of which the cut left only the start: it would swallow the mark.
_UNFINISHED_ESCAPE = re.compile(r"\x1b(?:\[[0-?]{0,256}[ -/]{0,16}|[\]PX^_][^\x07\x1b]{0,2048}\x1b?)?\Z")


class Line(NamedTuple):
    """One finished line of output, without its line end; ANSI colour sequences are kept."""

    text: str


class LineSplitter:
    """Splits one stream of bytes into lines, chunk by chunk.

    `\\n` and `\\r\\n` (also `\\r\\r\\n`, which a terminal makes of `\\r\\n`) end a line. A `\\r` that does not belong
    to a line end replaces the line: of a progress bar that redraws itself only the last state is given. Bytes that
    are not UTF-8, and NUL (PostgreSQL cannot store it), become U+FFFD. A line longer than `max_line_bytes` (UTF-8
    bytes of its text) is cut and ends with ` … [cut: K of N bytes kept]`; text and mark together fit the limit.
    """

    def __init__(self, max_line_bytes: int) -> None:
        """Raises ValueError if the limit has no room for the cut mark."""
        if max_line_bytes < SMALLEST_LIMIT_BYTES:
            raise ValueError(f"max_line_bytes must be at least {SMALLEST_LIMIT_BYTES}, not {max_line_bytes}")
        self._limit = max_line_bytes
        self._kept = bytearray()  # the start of the unfinished line, at most `_limit` bytes
        self._length: _TextLength | None = None  # counts the whole unfinished line once it outgrew `_kept`
        self._returned = False  # the last byte was `\r`: a line end to come, or the line is replaced

    @property
    def pending(self) -> str:
        """The text of the unfinished line so far, for a live display; an unfinished character is left out."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        return _without_nul(decoder.decode(bytes(self._kept)))

    def feed(self, data: bytes) -> list[Line]:
        """Takes the next bytes of the stream and returns the lines they finished, oldest first."""
        head, newline, tail = data.partition(b"\n")
        self._extend(head)
        if not newline:
            return []
        lines = [self._take_line()]
        block, newline, rest = tail.rpartition(b"\n")
        if newline:
            lines += self._split(block)
        self._extend(rest)
        return lines

    def finish(self) -> list[Line]:
        """Ends the stream: returns the last line if it had no line end, else nothing. The splitter is new again."""
        return [self._take_line()] if self._kept else []

    def _split(self, block: bytes) -> list[Line]:
        """Splits a block of whole lines at once: decoding and splitting in C is what makes large output cheap.

        `\\n` is never part of a longer UTF-8 sequence, so decoding before splitting gives the same texts.
        """
        texts = _without_nul(block.decode("utf-8", "replace")).split("\n")
        if b"\r" in block:
            texts = [text.rstrip("\r").rpartition("\r")[2] for text in texts]
        if len(block) * UTF8_BYTES_PER_CHARACTER > self._limit:
            texts = [self._fit(text, None) for text in texts]
        return list(map(Line, texts))

    def _extend(self, part: bytes) -> None:
        """Adds bytes without `\\n` to the unfinished line."""
        if not part:
            return
        body = part.rstrip(b"\r")
        if body:
            _, carriage_return, last = body.rpartition(b"\r")
            if carriage_return or self._returned:
                self._clear()
            self._keep(last)
        self._returned = len(body) < len(part)

    def _keep(self, part: bytes) -> None:
        room = self._limit - len(self._kept)
        if self._length is None and len(part) > room:
            self._length = _TextLength()
            self._length.add(bytes(self._kept))
        if self._length is not None:
            self._length.add(part)
        self._kept += part[:room]

    def _take_line(self) -> Line:
        text = _without_nul(self._kept.decode("utf-8", "replace"))
        total = None if self._length is None else self._length.finish()
        self._clear()
        return Line(self._fit(text, total))

    def _clear(self) -> None:
        self._kept.clear()
        self._length = None
        self._returned = False

    def _fit(self, text: str, total_bytes: int | None) -> str:
        """Returns the text, cut if the line is over the limit; `total_bytes` is known if `text` is only its start."""
        if total_bytes is None and len(text) * UTF8_BYTES_PER_CHARACTER <= self._limit:
            return text
        encoded = text.encode()
        total = len(encoded) if total_bytes is None else total_bytes
        if total <= self._limit:
            return text
        room = self._limit - len(_cut_mark(self._limit, total, "").encode())
        # A line with escape sequences may end in a colour that its lost end would have reset. Only what may be kept is
        # looked at: what else is known of the line depends on how it was chunked.
        reset = "\x1b[0m" if b"\x1b[" in encoded[:room] else ""
        room -= len(reset)
        kept = _UNFINISHED_ESCAPE.sub("", encoded[:room].decode("utf-8", "ignore"))
        return kept + _cut_mark(len(kept.encode()), total, reset)


def split_cut_mark(text: str) -> tuple[str, str]:
    """Returns a line's own text and its cut mark (empty if the line was not cut)."""
    found = _CUT_MARK.search(text[-SMALLEST_LIMIT_BYTES:])
    if found is None:
        return text, ""
    return text[: len(text) - len(found.group())], found.group()


class _TextLength:
    """Counts the UTF-8 bytes that a stream's text will have, without keeping it."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._bytes = 0

    def add(self, part: bytes) -> None:
        self._bytes += len(_without_nul(self._decoder.decode(part)).encode())

    def finish(self) -> int:
        self._bytes += len(self._decoder.decode(b"", final=True).encode())
        return self._bytes


def _without_nul(text: str) -> str:
    return text.replace("\0", REPLACEMENT)


def _cut_mark(kept_bytes: int, total_bytes: int, reset: str) -> str:
    return f"{reset} … [cut: {kept_bytes} of {total_bytes} bytes kept]"
