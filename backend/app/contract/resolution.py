"""Follows the names in a file's types to what they stand for, so that `check` compares forms and not names.

Enums become unions of their values, intersections and `extends` one record. What the file does
not declare, or declares in a way that cannot be read, resolves to `Unreadable`.
"""

import json
from collections.abc import Callable
from typing import TypeAlias

from backend.app.contract.declarations import Declarations
from backend.app.contract.shapes import (
    UNKNOWN,
    AllOf,
    Exactly,
    Field,
    ListOf,
    Named,
    OneOf,
    Plain,
    Record,
    Shape,
    TupleOf,
    Unreadable,
    one_of,
    without,
)

Resolve: TypeAlias = Callable[[Shape], Shape]
"""Gives a shape that is neither a name nor an intersection; what is inside of it may still be."""


class FileTypes:
    """The types that one file declares."""

    def __init__(self, found: Declarations) -> None:
        self._found = found

    def resolve(self, shape: Shape, above: tuple[str, ...] = ()) -> Shape:
        """Follow a name or an intersection to what it stands for; `Unreadable` where that leads nowhere."""
        match shape:
            case Named(name) if name in above:
                return Unreadable(f"{name}, which is declared as itself")
            case Named(name):
                return self._named(name, above)
            case AllOf(members):
                return _merged([self.resolve(member, above) for member in members])
            case OneOf(members):
                # A union inside a union is one union; records and lists stay names until they are looked at.
                return one_of(self._flat(member, above) for member in members)
            case _:
                return shape

    def _flat(self, member: Shape, above: tuple[str, ...]) -> Shape:
        resolved = self.resolve(member, above)
        return member if isinstance(resolved, Record | ListOf | TupleOf) else resolved

    def _named(self, name: str, above: tuple[str, ...]) -> Shape:
        if "." in name:
            return self._enum_member(*name.rsplit(".", 1))
        if name in self._found.enums:
            values = [member.value for member in self._found.enums[name]]
            if None in values or not values:
                return Unreadable(f"{name}, an enum whose values are not all strings")
            return one_of(Exactly(value) for value in values if value is not None)
        if name not in self._found.types:
            return Unreadable(f"{name}, which the file does not declare")
        shape = self._found.types[name].shape
        return self._values_of_constant(name, shape) or self.resolve(shape, (*above, name))

    def _enum_member(self, enum: str, name: str) -> Shape:
        for member in self._found.enums.get(enum, ()):
            if member.name == name and member.value is not None:
                return Exactly(member.value)
        return Unreadable(f"{enum}.{name}, which the file does not declare")

    def _values_of_constant(self, name: str, shape: Shape) -> Shape | None:
        """Read `type X = (typeof X)[keyof typeof X]` beside `const X = { … }`, the other way to write an enum."""
        declared = self._found.constants.get(name)
        text = shape.text.replace("( ", "").replace(" )", "") if isinstance(shape, Unreadable) else ""
        if declared is None or text != f"typeof {name} [ keyof typeof {name} ]":
            return None
        if not isinstance(declared.value, dict):
            return None
        values = [value for value in declared.value.values() if isinstance(value, str)]
        return one_of(Exactly(value) for value in values) if len(values) == len(declared.value) else None


def _merged(parts: list[Shape]) -> Shape:
    fields: dict[str, Field] = {}
    others: Shape | None = None
    for part in parts:
        if not isinstance(part, Record):
            return part if isinstance(part, Unreadable) else Unreadable("an intersection of more than objects")
        others = part.others or others
        for each in part.fields:
            before = fields.get(each.name)
            if before is None:
                fields[each.name] = each
                continue
            shape = each.shape if each.shape == before.shape else Unreadable("two types at once", each.line)
            fields[each.name] = Field(
                each.name, shape, each.is_optional and before.is_optional, each.description, each.line
            )
    return Record(tuple(fields.values()), others)


def canonical(shape: Shape, resolve: Resolve) -> str:
    """Write a shape so that two that mean the same are the same text, whatever their order and names."""
    return _joined(_choices(shape, resolve, ()))


def _joined(choices: set[str]) -> str:
    return " | ".join(sorted(choices))


def _choices(shape: Shape, resolve: Resolve, above: tuple[str, ...]) -> set[str]:
    def inner(part: Shape) -> str:
        return _joined(_choices(part, resolve, above))

    match shape:
        case Named(name) if name in above:
            return {f"^{above[::-1].index(name)}"}
        case Named(name):
            return _choices(resolve(shape), resolve, (*above, name))
        case AllOf():
            return _choices(resolve(shape), resolve, above)
        case Plain("boolean"):
            return {"false", "true"}
        case Plain(name):
            return {name}
        case Exactly(value):
            return {json.dumps(value)}
        case ListOf(items):
            return {f"({inner(items)})[]"}
        case TupleOf(parts):
            return {f"[{', '.join(inner(part) for part in parts)}]"}
        case Record(fields, others):
            known = sorted(_canonical_field(each, inner) for each in fields)
            # Beside named fields the type of the others is `check`'s business; alone it is the whole type.
            rest = [f"[]: {inner(others)}"] if others is not None and not known else []
            return {f"{{{'; '.join(known + rest)}}}"}
        case OneOf(members):
            return _simplest({choice for member in members for choice in _choices(member, resolve, above)})
        case Unreadable(text):
            return {f"`{text}`"}


def _canonical_field(each: Field, inner: Callable[[Shape], str]) -> str:
    shape = without(each.shape, "null", "undefined") if each.is_optional else each.shape
    return f"{each.name}{'?' if each.is_optional else ''}: {inner(shape)}"


def _simplest(choices: set[str]) -> set[str]:
    if UNKNOWN.name in choices:
        return {UNKNOWN.name}
    if "string" in choices:
        return {choice for choice in choices if not choice.startswith('"')}
    return choices
