"""Splits the text of a TypeScript file into tokens, for `declarations`.

Comments and white space are dropped; what stands on which line, and what begins one, is kept,
because TypeScript may end a statement at a line's end. Not understood: templates within a
template, and regular expressions that hold a quote; the reader reports where that leads.
"""

import json
import re
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""
      (?P<space>\s+|//[^\n]*|/\*.*?\*/)
    | (?P<string>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|`(?:[^`\\]|\\.)*`)
    | (?P<number>\d[\w.]*)
    | (?P<name>[^\W\d][\w$]*|\$[\w$]*|\#\w+)
    | (?P<mark>=>|\.\.\.|.)
    """,
    re.X | re.S,
)


@dataclass(frozen=True, slots=True)
class Token:
    """One word, literal or mark. The last one of a file has kind `end` and no text."""

    kind: str
    text: str
    line: int
    is_first: bool
    """Nothing but white space or a comment stands before it on its line."""

    @property
    def is_end(self) -> bool:
        """The file ends here."""
        return self.kind == "end"


def tokenize(text: str) -> list[Token]:
    """Return the tokens of a text, and an `end` token. Never fails: an unknown character is a mark."""
    tokens: list[Token] = []
    line, is_first = 1, True
    for match in _TOKEN.finditer(text.removeprefix("\ufeff")):
        kind, word = match.lastgroup or "mark", match.group()
        if kind == "space":
            is_first = is_first or "\n" in word
        else:
            tokens.append(Token(kind, word, line, is_first))
            is_first = False
        line += word.count("\n")
    return [*tokens, Token("end", "", line, True)]


def string_value(token: Token) -> str | None:
    """Return what a string literal says; None for a template with something to fill in."""
    body = token.text[1:-1]
    if token.text[0] == "`" and "${" in body:
        return None
    if "\\" not in body:
        return body
    try:
        value = json.loads(f'"{_QUOTING.sub(_as_json, body)}"')
    except ValueError:
        # An escape that JSON has no word for: shown as it stands, and so unequal to every name.
        return body
    return str(value)


_QUOTING = re.compile(r"\\.|\"", re.S)


def _as_json(match: re.Match[str]) -> str:
    return {"\\'": "'", "\\`": "`", '"': '\\"'}.get(match.group(), match.group())
