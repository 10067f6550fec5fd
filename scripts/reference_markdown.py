"""Markdown for the reference pages: inline code, tables, and JSON Schema in words. Pure.

Used by `reference.py` for the payloads of events, for settings and for bodies and answers alike.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]


def code(text: object) -> str:
    """Return inline code."""
    return f"`{text}`"


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table; a `|` in a cell is escaped."""
    lines = [headings, ["---"] * len(headings), *rows]
    shown = (
        "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
    )
    return "\n".join(shown) + "\n\n"


def words(schema: Json, models: Json) -> str:
    """Return what values a schema takes, in words; a model of `models` is a link to its heading."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        target = models[name]
        if "$ref" in target:
            return words(target, models)
        return words(target, models) if "enum" in target else f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(words(option, models) for option in schema["anyOf"]))
    if "allOf" in schema and len(schema["allOf"]) == 1:
        return words(schema["allOf"][0], models)
    if "const" in schema:
        return code(literal(schema["const"]))
    if "enum" in schema:
        return ", ".join(code(value) for value in schema["enum"])
    kind = schema.get("type")
    if kind == "array":
        return f"list of {words(schema.get('items', {}), models)}{_size(schema, 'Items', '')}"
    if kind == "string":
        shape = {"date-time": "time", "path": "path", "password": "secret text"}.get(schema.get("format", ""), "text")
        pattern = f" matching {code(schema['pattern'])}" if "pattern" in schema else ""
        return f"{shape}{_size(schema, 'Length', ' characters')}{pattern}"
    if kind in ("integer", "number"):
        return ("whole number" if kind == "integer" else "number") + _bounds(schema)
    return {"boolean": "`true` or `false`", "object": "object", "null": "null"}.get(str(kind), "anything")


def literal(value: object) -> str:
    """Return a constant as JSON spells it, text without its quotes."""
    return {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _size(schema: Json, suffix: str, unit: str) -> str:
    low, high = schema.get(f"min{suffix}"), schema.get(f"max{suffix}")
    if low is None and high is None:
        return ""
    if high is None:
        return f" (at least {low}{unit})"
    return f" (at most {high}{unit})" if not low else f" ({low} to {high}{unit})"


def _bounds(schema: Json) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    given = [f"{sign} {_number(schema[key])}" for key, sign in signs.items() if key in schema]
    return " " + ", ".join(given) if given else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def field_table(schema: Json, models: Json) -> str:
    """Return a table of an object's fields."""
    required = schema.get("required", ())
    rows = []
    for name, field in schema.get("properties", {}).items():
        default = field.get("default")
        note = "required" if name in required else "" if default is None else f"default {code(literal(default))}"
        rows.append((code(name), words(field, models), note))
    return table(("Field", "Value", ""), rows) if rows else "No fields.\n\n"
