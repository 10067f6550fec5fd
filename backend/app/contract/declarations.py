"""Reads what a TypeScript file declares: enums, types and constants, as values to compare.

Imports, re-exports, functions and classes declare nothing that the contract is about and are
stepped over; a statement of any other kind is listed in `unread`, as is a name declared twice.
Nothing is resolved here: a name stays a name. Never fails on any text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from backend.app.contract.shapes import AllOf, Shape, Unreadable
from backend.app.contract.tokens import Token, string_value, tokenize
from backend.app.contract.type_reader import NotUnderstood, TypeReader

_MODIFIERS = ("export", "declare", "default", "abstract", "async")
_STARTS = {
    *_MODIFIERS, "enum", "interface", "type", "const", "let", "var", "import", "function", "class", "namespace",
    "module",
}  # fmt: skip
_CONTINUES_STATEMENT = {".", "?", ":", "=", "=>", "|", "&", "(", "[", "{", ",", "+", "as", "satisfies", "from"}


@dataclass(frozen=True, slots=True)
class Reference:
    """A name used as a value, such as `WebSocketEventType.AUTH_LOGOUT`."""

    name: str


Constant: TypeAlias = (
    str | int | float | bool | Reference | Unreadable | Sequence["Constant"] | Mapping[str, "Constant"] | None
)


@dataclass(frozen=True, slots=True)
class EnumMember:
    """One member; `value` is None where it is not a string that can be read."""

    name: str
    value: str | None
    line: int


@dataclass(frozen=True, slots=True)
class Declared:
    """A type, by `interface` or `type`."""

    name: str
    shape: Shape
    line: int


@dataclass(frozen=True, slots=True)
class DeclaredConstant:
    """A value, by `const`."""

    name: str
    value: Constant
    line: int


@dataclass(frozen=True, slots=True)
class Unread:
    """A place that was not understood, and what is wrong there."""

    line: int
    reason: str


@dataclass(slots=True)
class Declarations:
    """What a file declares, by name."""

    enums: dict[str, tuple[EnumMember, ...]] = field(default_factory=dict)
    types: dict[str, Declared] = field(default_factory=dict)
    constants: dict[str, DeclaredConstant] = field(default_factory=dict)
    unread: list[Unread] = field(default_factory=list)


def read_declarations(text: str) -> Declarations:
    """Return what the text declares; what is not understood is in `unread`, with its line."""
    reader = _StatementReader(tokenize(text))
    reader.read()
    return reader.found


class _StatementReader(TypeReader):
    def __init__(self, tokens: Sequence[Token]) -> None:
        super().__init__(tokens)
        self.found = Declarations()

    def read(self) -> None:
        while not self.next.is_end:
            start = self.place
            try:
                self._statement()
            except NotUnderstood as problem:
                self._give_up(start, problem.line, f"not understood: `{problem}`")
            except RecursionError:
                self._give_up(start, self._tokens[start].line, "nested too deep")

    def _give_up(self, start: int, line: int, reason: str) -> None:
        self.found.unread.append(Unread(line, reason))
        self.place = start
        self._skip_statement()

    def _statement(self) -> None:
        start = self.place
        is_default = False
        while modifier := self.take(*_MODIFIERS):
            is_default = is_default or modifier.text == "default"
        token = self.next
        after = self.ahead(1)
        match token.text:
            case ";":
                self.need(";")
            case "enum":
                self._enum()
            case "const" if after.text == "enum":
                self.need("const")
                self._enum()
            case "interface":
                self._interface()
            case "type" if after.kind == "name" and after.text != "from":
                self._alias()
            case "const" | "let" | "var" if after.kind == "name":
                self._constant()
            case "import" | "function" | "class":
                self._skip_statement()
            case "{" | "*" | "type" if self.place > start:
                self._skip_statement()
            case _ if is_default:
                self._skip_statement()
            case _:
                raise NotUnderstood(token)

    def _skip_statement(self) -> None:
        """Step over a statement that is of no interest, to its semicolon or to the line that begins the next one."""
        while not self.next.is_end:
            if self.take(";"):
                return
            was_block = self.next.text == "{"
            self.skip_brackets()
            token = self.next
            if token.is_first and token.text in _STARTS:
                return
            if was_block and token.is_first and token.text not in _CONTINUES_STATEMENT:
                return

    def _end_of_statement(self) -> None:
        if not self.take(";") and not self.next.is_end and not self.next.is_first:
            raise NotUnderstood(self.next)

    def _unless_declared(self, table: Mapping[str, object], name: str, line: int) -> bool:
        if name in table:
            self.found.unread.append(Unread(line, f"{name} is declared a second time"))
        return name not in table

    def _enum(self) -> None:
        line = self.need("enum").line
        name = self.name()
        members: list[EnumMember] = []
        self.need("{")
        while not self.take("}"):
            token = self.next
            members.append(EnumMember(self.key(), self._enum_value(), token.line))
            if not self.take(","):
                self.need("}")
                break
        if self._unless_declared(self.found.enums, name, line):
            self.found.enums[name] = tuple(members)

    def _enum_value(self) -> str | None:
        if not self.take("="):
            return None
        token = self.next
        value = string_value(token) if token.kind == "string" else None
        is_whole = self.ahead(1).text in (",", "}")
        while self.next.text not in (",", "}") and not self.next.is_end:
            self.skip_brackets()
        return value if is_whole else None

    def _interface(self) -> None:
        line = self.need("interface").line
        name = self.name()
        is_generic = self._skip_type_parameters()
        parents: list[Shape] = []
        if self.take("extends"):
            parents.append(self._intersection())
            while self.take(","):
                parents.append(self._intersection())
        own = self.object_type()
        shape: Shape = AllOf((*parents, own)) if parents else own
        self._declare_type(name, Unreadable(f"generic interface {name}", line) if is_generic else shape, line)

    def _alias(self) -> None:
        line = self.need("type").line
        name = self.name()
        is_generic = self._skip_type_parameters()
        self.need("=")
        shape = self.type_or_unreadable()
        self._end_of_statement()
        self._declare_type(name, Unreadable(f"generic type {name}", line) if is_generic else shape, line)

    def _declare_type(self, name: str, shape: Shape, line: int) -> None:
        if self._unless_declared(self.found.types, name, line):
            self.found.types[name] = Declared(name, shape, line)

    def _skip_type_parameters(self) -> bool:
        if self.next.text != "<":
            return False
        depth = 0
        while not self.next.is_end:
            depth += (self.next.text == "<") - (self.next.text == ">")
            self.skip_brackets()
            if depth == 0:
                return True
        raise NotUnderstood(self.next)

    def _constant(self) -> None:
        line = self.need("const", "let", "var").line
        name = self.name()
        start = self.place
        try:
            if self.take(":"):
                self.type_or_unreadable()
            value: Constant = self._value() if self.take("=") else Unreadable("no value", line)
            self._end_of_statement()
        except NotUnderstood:
            self.place = start
            self._skip_statement()
            words = (token.text for token in self._tokens[start : self.place])
            value = Unreadable(" ".join(words), line)
        if self._unless_declared(self.found.constants, name, line):
            self.found.constants[name] = DeclaredConstant(name, value, line)

    def _value(self) -> Constant:
        value = self._plain_value()
        while self.take("as", "satisfies"):
            if not self.take("const"):
                self._union()
        return value

    def _plain_value(self) -> Constant:
        token = self.next
        if token.kind == "string":
            self.place += 1
            return string_value(token)
        if token.kind == "number" or token.text in ("-", "true", "false", "null"):
            shape = self._primary()
            return getattr(shape, "value", None)
        if self.take("["):
            return self._list_value()
        if self.take("{"):
            return self._object_value()
        name = self.name()
        while self.take("."):
            name = f"{name}.{self.name()}"
        if name == "Object.freeze" and self.take("("):
            value = self._value()
            self.need(")")
            return value
        return Reference(name)

    def _list_value(self) -> Constant:
        values: list[Constant] = []
        while not self.take("]"):
            values.append(self._value())
            if not self.take(","):
                self.need("]")
                break
        return values

    def _object_value(self) -> Constant:
        values: dict[str, Constant] = {}
        while not self.take("}"):
            key = self.key()
            if key in values:
                raise NotUnderstood(self.next)
            values[key] = self._value() if self.take(":") else Reference(key)
            if not self.take(","):
                self.need("}")
                break
        return values
