"""The form of a payload, in one normal form that everything about the contract shares.

Read from a pydantic model (here) or from a TypeScript file (`declarations`); written as
TypeScript, hashed and compared. Names of nested models live beside a shape, in a table,
so that a recursive model is a finite value.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pydantic import BaseModel

Rules: TypeAlias = tuple[tuple[str, str | int | float | bool], ...]
"""What a value must obey beyond its TypeScript type (`maxLength`, `format`, …): in the hash, not in the file."""

_RULES = (
    "format", "pattern", "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
    "multipleOf", "minItems", "maxItems", "uniqueItems",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plain:
    """A TypeScript keyword: `string`, `number`, `boolean`, `null`, `undefined`, `unknown`, …"""

    name: str
    rules: Rules = ()


@dataclass(frozen=True, slots=True)
class Exactly:
    """One value, as a type."""

    value: str | int | float | bool


@dataclass(frozen=True, slots=True)
class ListOf:
    """An array of one type."""

    items: "Shape"
    rules: Rules = ()


@dataclass(frozen=True, slots=True)
class TupleOf:
    """An array with one type for each place."""

    items: tuple["Shape", ...]


@dataclass(frozen=True, slots=True)
class Field:
    """One named field of a record."""

    name: str
    shape: "Shape"
    is_optional: bool = False
    description: str = field(default="", compare=False)
    line: int = field(default=0, compare=False)
    """Where it stands in the file it was read from; 0 for a model's field."""


@dataclass(frozen=True, slots=True)
class Record:
    """An object: its known fields, and the type of all others (None: there are no others)."""

    fields: tuple[Field, ...]
    others: "Shape | None" = None


@dataclass(frozen=True, slots=True)
class OneOf:
    """A union."""

    members: tuple["Shape", ...]


@dataclass(frozen=True, slots=True)
class AllOf:
    """An intersection, or an interface with what it extends; only ever read from a file."""

    members: tuple["Shape", ...]


@dataclass(frozen=True, slots=True)
class Named:
    """A reference to a table of definitions or declarations."""

    name: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A type in a file that the reader does not understand, as it stands there."""

    text: str
    line: int = field(default=0, compare=False)


Shape: TypeAlias = Plain | Exactly | ListOf | TupleOf | Record | OneOf | AllOf | Named | Unreadable

UNKNOWN = Plain("unknown")
NULL = Plain("null")


@dataclass(frozen=True, slots=True)
class Definition:
    """A shape with the text that explains it."""

    shape: Shape
    description: str = ""


@dataclass(frozen=True, slots=True)
class PayloadShape:
    """A payload model: its own definition, and those of the models it contains, by name."""

    root: Definition
    nested: Mapping[str, Definition]


def one_of(members: Iterable[Shape]) -> Shape:
    """Make the simplest type for a choice: nested unions flattened, doubles dropped, `unknown` swallows the rest."""
    flat: list[Shape] = []
    for member in members:
        flat.extend(member.members if isinstance(member, OneOf) else (member,))
    distinct = tuple(dict.fromkeys(flat))
    if any(isinstance(member, Plain) and member.name == "unknown" for member in distinct):
        return UNKNOWN
    return distinct[0] if len(distinct) == 1 else OneOf(distinct)


def without(shape: Shape, *names: str) -> Shape:
    """Take keywords (`null`, `undefined`) out of a union; anything else stays as it is."""
    if not isinstance(shape, OneOf):
        return shape
    return one_of(part for part in shape.members if not (isinstance(part, Plain) and part.name in names))


def payload_shape(model: type[BaseModel]) -> PayloadShape:
    """Read a payload model by its wire names. A construct that TypeScript has no word for becomes `unknown`."""
    schema = model.model_json_schema(by_alias=True)
    nested = {_local(name): _definition(part) for name, part in schema.get("$defs", {}).items()}
    if "$ref" in schema:
        # A model that contains itself is given as a reference into its own definitions.
        return PayloadShape(nested[_local(schema["$ref"])], nested)
    return PayloadShape(_definition(schema), nested)


def _definition(schema: Mapping[str, Any]) -> Definition:
    return Definition(_shape(schema), schema.get("description", ""))


def _local(reference: str) -> str:
    name = reference.rsplit("/", 1)[-1]
    return "".join(char if char.isalnum() or char == "_" else "_" for char in name)


def _shape(schema: Mapping[str, Any] | bool) -> Shape:
    if isinstance(schema, bool):
        return UNKNOWN
    if "$ref" in schema:
        return Named(_local(schema["$ref"]))
    if "const" in schema:
        return _exactly(schema["const"])
    if "enum" in schema:
        return one_of(_exactly(value) for value in schema["enum"])
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return one_of(_shape(part) for part in schema[key])
    if len(schema.get("allOf", ())) == 1:
        return _shape(schema["allOf"][0])
    kind = schema.get("type")
    if isinstance(kind, list):
        return one_of(_shape({**schema, "type": one}) for one in kind)
    return _typed(schema, kind)


def _typed(schema: Mapping[str, Any], kind: object) -> Shape:
    match kind:
        case "string" | "number" | "boolean" | "null":
            return Plain(str(kind), _rules(schema))
        case "integer":
            return Plain("number", (("integer", True), *_rules(schema)))
        case "array" if "prefixItems" in schema:
            return TupleOf(tuple(_shape(part) for part in schema["prefixItems"]))
        case "array":
            return ListOf(_shape(schema.get("items", True)), _rules(schema))
        case "object":
            return _record(schema)
        case _:
            return UNKNOWN


def _record(schema: Mapping[str, Any]) -> Record:
    required = schema.get("required", ())
    fields = tuple(
        _field(name, part, is_optional=name not in required) for name, part in schema.get("properties", {}).items()
    )
    # Without `properties` an object is a mapping, open unless it says otherwise; a model says so itself.
    others = schema.get("additionalProperties", "properties" not in schema)
    return Record(fields, None if others is False else _shape(others))


def _field(name: str, schema: Mapping[str, Any], *, is_optional: bool) -> Field:
    shape = _shape(schema)
    bare = without(shape, "null")
    note = "RFC 3339 date and time." if isinstance(bare, Plain) and ("format", "date-time") in bare.rules else ""
    return Field(name, shape, is_optional, schema.get("description") or note)


def _exactly(value: Any) -> Shape:
    return NULL if value is None else Exactly(value)


def _rules(schema: Mapping[str, Any]) -> Rules:
    return tuple((key, _plain_number(schema[key])) for key in _RULES if key in schema)


def _plain_number(value: Any) -> Any:
    """0.0 and 0 are one rule, whichever of the two a release of pydantic prints."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
