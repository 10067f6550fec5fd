"""Keeps secrets out of the lines that leave the machine: each value becomes `***`.

Pure; called by `windflow deploy --mask` for each finished line, before progress is read from it and before it is
stored or sent. Invariant: masking never makes a text longer in bytes, so a line stays within its limit.
"""

import re
from collections.abc import Iterable

from backend.app.runner.lines import split_cut_mark

MASK = "***"

SHORTEST_SECRET_CHARACTERS = 4
"""Shorter values are not masked: they occur by chance, and the stars would give away where. Tell the user
(`is_maskable`)."""


def is_maskable(value: str) -> bool:
    """Says whether at least one line of the value is long enough to be masked."""
    return bool(_secrets_of(value))


class Mask:
    """Masks a fixed set of secret values."""

    def __init__(self, values: Iterable[str]) -> None:
        """Takes the values as they stand in the environment.

        A value of several lines (a key, JSON) is masked line by line, each without the space around it, because that
        is how it appears in line-wise output. Lines and values under `SHORTEST_SECRET_CHARACTERS` are ignored.
        """
        secrets = {secret for value in values for secret in _secrets_of(value)}
        self._secrets = sorted(secrets, key=len, reverse=True)
        self._any = re.compile("|".join(map(re.escape, self._secrets))) if self._secrets else None

    def apply(self, text: str) -> str:
        """Returns the text with every occurrence of every value replaced; overlapping ones become one `***`.

        In a cut line also the start of a value that the cut left at the end is replaced (from three characters).
        """
        if self._any is None:
            return text
        body, mark = split_cut_mark(text)
        spans = self._spans(body) if self._any.search(body) else []
        if mark:
            spans += self._spans_at_cut(body)
        return _replace(body, sorted(spans)) + mark if spans else text

    def _spans(self, text: str) -> list[tuple[int, int]]:
        """Finds every occurrence, also those that begin within another: plain substitution would leave their ends."""
        spans = []
        for secret in self._secrets:
            start = text.find(secret)
            while start >= 0:
                spans.append((start, start + len(secret)))
                start = text.find(secret, start + 1)
        return spans

    def _spans_at_cut(self, text: str) -> list[tuple[int, int]]:
        lengths = (
            length
            for secret in self._secrets
            for length in range(len(secret) - 1, len(MASK) - 1, -1)
            if text.endswith(secret[:length])
        )
        longest = max(lengths, default=0)
        return [(len(text) - longest, len(text))] if longest else []


def _secrets_of(value: str) -> list[str]:
    # Bytes that are not UTF-8 stand as surrogates in the environment, but as U+FFFD in a line.
    shown = value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    lines = (line.strip() for line in re.split(r"[\r\n]+", shown))
    return [line for line in lines if len(line) >= SHORTEST_SECRET_CHARACTERS]


def _replace(text: str, spans: list[tuple[int, int]]) -> str:
    parts: list[str] = []
    done = 0
    for start, end in spans:
        if start >= done:
            parts += (text[done:start], MASK)
        done = max(done, end)
    return "".join(parts) + text[done:]
