"""Reads TypeScript types from tokens into shapes, for `declarations`.

Understood: keywords, literals, unions, intersections, arrays (`T[]`, `Array<T>`), tuples, object
types, `Record<string, T>`, `Readonly<T>`, names, `Enum.MEMBER`. Anything else (functions, mapped,
conditional and generic types, `keyof`, `typeof`, methods) becomes `Unreadable`, never a guess.
"""

from collections.abc import Sequence

from backend.app.contract.shapes import (
    UNKNOWN,
    AllOf,
    Exactly,
    Field,
    ListOf,
    Named,
    Plain,
    Record,
    Shape,
    TupleOf,
    Unreadable,
    one_of,
)
from backend.app.contract.tokens import Token, string_value

_KEYWORDS = {
    "string", "number", "boolean", "null", "undefined", "unknown", "object", "never", "void", "bigint", "symbol",
}  # fmt: skip
_OPERATORS = {"keyof", "typeof", "infer", "new", "unique", "asserts", "abstract", "import"}
_JOINS = {"|", "&", "?", ":", "=>", ".", "="}
_WANTS_MORE = {*_JOINS, ",", "<", "extends", "keyof", "typeof", "is"}
_OPENS, _CLOSES = {"(", "[", "{"}, {")", "]", "}"}


class NotUnderstood(Exception):
    """The reader met something that it has no rule for; the message says what and `line` where."""

    def __init__(self, token: Token) -> None:
        self.line = token.line
        super().__init__(token.text or "the end of the file")


class TypeReader:
    """A place in a list of tokens, and the rules for types from there on."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens
        self.place = 0

    @property
    def next(self) -> Token:
        """The token that comes next; at the end, the `end` token for ever."""
        return self.ahead(0)

    def ahead(self, count: int) -> Token:
        """The token `count` places after the next one."""
        return self._tokens[min(self.place + count, len(self._tokens) - 1)]

    def take(self, *marks: str) -> Token | None:
        """Step over the next token if it is one of these marks or words; tell which, or None."""
        token = self.next
        if token.kind != "string" and token.text in marks:
            self.place += 1
            return token
        return None

    def need(self, *marks: str) -> Token:
        """As `take`, but anything else is not understood."""
        token = self.take(*marks)
        if token is None:
            raise NotUnderstood(self.next)
        return token

    def name(self) -> str:
        """Step over a name and return it."""
        if self.next.kind != "name":
            raise NotUnderstood(self.next)
        self.place += 1
        return self._tokens[self.place - 1].text

    def skip_brackets(self) -> None:
        """Step over the next token; if it opens a bracket, to behind the one that closes it."""
        depth = 0
        while not self.next.is_end:
            token = self.next
            self.place += 1
            if token.kind == "mark":
                depth += (token.text in _OPENS) - (token.text in _CLOSES)
            if depth <= 0:
                return

    def type_or_unreadable(self) -> Shape:
        """Read a type; if it is not understood, step over all of it and return it as text."""
        start = self.place
        try:
            shape = self._union()
            if self._is_end_of_type(self.next):
                return shape
        except NotUnderstood:
            pass
        self.place = start
        return self._opaque()

    def _is_end_of_type(self, token: Token) -> bool:
        return token.is_end or token.text in {";", ",", "=", *_CLOSES} or (token.is_first and not self._continues())

    def _continues(self) -> bool:
        """A type that goes on in the next line has an operator on one side of the break."""
        before = self._tokens[self.place - 1]
        return self.next.text in _JOINS or before.text in _WANTS_MORE

    def _opaque(self) -> Unreadable:
        words: list[str] = []
        line, angles = self.next.line, 0
        while not self.next.is_end:
            token = self.next
            is_outside = angles <= 0
            if is_outside and words and self._is_end_of_type(token):
                break
            if token.text in _CLOSES:
                break
            if token.kind == "mark":
                angles += (token.text == "<") - (token.text == ">")
            start = self.place
            self.skip_brackets()
            words.extend(part.text for part in self._tokens[start : self.place])
        return Unreadable(" ".join(words), line)

    def _union(self) -> Shape:
        self.take("|")
        members = [self._intersection()]
        while self.take("|"):
            members.append(self._intersection())
        return one_of(members)

    def _intersection(self) -> Shape:
        self.take("&")
        members = [self._postfix()]
        while self.take("&"):
            members.append(self._postfix())
        return members[0] if len(members) == 1 else AllOf(tuple(members))

    def _postfix(self) -> Shape:
        if self.take("readonly"):
            return self._postfix()
        shape = self._primary()
        while self.next.text == "[" and not self.next.is_first:
            self.need("[")
            self.need("]")
            shape = ListOf(shape)
        return shape

    def _primary(self) -> Shape:
        token = self.next
        match token.kind:
            case "string":
                value = string_value(token)
                if value is None:
                    raise NotUnderstood(token)
                self.place += 1
                return Exactly(value)
            case "number":
                self.place += 1
                return Exactly(_number(token))
            case "name":
                return self._named()
        if self.take("-"):
            self.place += 1
            return Exactly(-_number(self._tokens[self.place - 1]))
        if self.take("("):
            shape = self._union()
            self.need(")")
            if self.next.text == "=>":
                raise NotUnderstood(self.next)
            return shape
        if self.take("["):
            return self._tuple()
        return self.object_type()

    def _tuple(self) -> Shape:
        parts: list[Shape] = []
        while not self.take("]"):
            parts.append(self._union())
            if not self.take(","):
                self.need("]")
                break
        return TupleOf(tuple(parts))

    def _named(self) -> Shape:
        token = self.next
        name = self.name()
        if name in _OPERATORS:
            raise NotUnderstood(token)
        if name in ("true", "false"):
            return Exactly(name == "true")
        if name in _KEYWORDS or name == "any":
            return UNKNOWN if name == "any" else Plain(name)
        while self.take("."):
            name = f"{name}.{self.name()}"
        if self.next.text != "<":
            return Named(name)
        return self._generic(token, name)

    def _generic(self, token: Token, name: str) -> Shape:
        self.need("<")
        arguments = [self._union()]
        while self.take(","):
            arguments.append(self._union())
        self.need(">")
        match name, arguments:
            case ("Array" | "ReadonlyArray", [items]):
                return ListOf(items)
            case ("Readonly", [shape]):
                return shape
            case ("Record", [Plain("string"), values]):
                return Record((), values)
        raise NotUnderstood(token)

    def object_type(self) -> Record:
        """Read `{ … }`: its fields, and its index signature if it has one."""
        self.need("{")
        fields: list[Field] = []
        others: Shape | None = None
        while not self.take("}"):
            if self.next.text == "readonly" and self.ahead(1).text not in (":", "?"):
                self.need("readonly")
            line = self.next.line
            if self.next.text == "[" and self.ahead(2).text == ":":
                others = self._index_signature()
            else:
                name = self.key()
                is_optional = self.take("?") is not None
                shape = self._field_type()
                fields.append(Field(name, shape, is_optional, line=line))
            if not self.take(";", ",") and self.next.text != "}" and not self.next.is_first:
                raise NotUnderstood(self.next)
        return Record(tuple(fields), others)

    def _field_type(self) -> Shape:
        if self.next.text in ("(", "<"):
            return self._opaque()
        self.need(":")
        return self.type_or_unreadable()

    def _index_signature(self) -> Shape:
        self.need("[")
        self.name()
        self.need(":")
        self._union()
        self.need("]")
        self.need(":")
        return self.type_or_unreadable()

    def key(self) -> str:
        """Step over a field's name; a computed one, `[Enum.MEMBER]`, counts as its last word."""
        token = self.next
        if self.take("["):
            name = self.name()
            while self.take("."):
                name = self.name()
            self.need("]")
            return name
        if token.kind == "string":
            self.place += 1
            return string_value(token) or ""
        if token.kind == "number":
            self.place += 1
            return token.text
        return self.name()


def _number(token: Token) -> int | float:
    try:
        value = float(token.text.replace("_", ""))
    except ValueError:
        raise NotUnderstood(token) from None
    return int(value) if value.is_integer() else value
