"""Compares one payload type of a file with its model, field by field; used by `check`.

Records and arrays are walked in both, so that a difference is named by its path; whatever else
differs is named by both types. A pair of names is walked once, so recursive models end.
"""

from collections.abc import Mapping

from backend.app.contract.resolution import FileTypes, canonical
from backend.app.contract.shapes import (
    NULL,
    UNKNOWN,
    Definition,
    Field,
    ListOf,
    Named,
    OneOf,
    Record,
    Shape,
    Unreadable,
    without,
)
from backend.app.contract.typescript import type_text


class PayloadCheck:
    """Collects in `found` what differs: a sentence, and the line in the file (0: none)."""

    def __init__(self, types: FileTypes, nested: Mapping[str, Definition]) -> None:
        self.found: list[tuple[str, int]] = []
        self._types = types
        self._nested = nested
        self._walked: set[tuple[str, str]] = set()

    def compare_payload(self, name: str, expected: Shape, actual: Shape) -> None:
        """Compare a payload type; one that is the whole message (`type` and `data`) is compared in its `data`."""
        record = self._types.resolve(actual)
        if isinstance(record, Record) and isinstance(expected, Record):
            inside = {field.name: field for field in record.fields}
            if {"type", "data"} <= inside.keys() and not {"type", "data"} <= {each.name for each in expected.fields}:
                name, actual = f"{name}.data", inside["data"].shape
        self._compare(name, expected, actual, 0)

    def _say(self, sentence: str, line: int) -> None:
        self.found.append((sentence, line))

    def _model(self, shape: Shape) -> Shape:
        return self._nested[shape.name].shape if isinstance(shape, Named) else shape

    def _compare(self, where: str, expected: Shape, actual: Shape, line: int) -> None:
        if isinstance(expected, Named) and isinstance(actual, Named):
            if (expected.name, actual.name) in self._walked:
                return
            self._walked.add((expected.name, actual.name))
        expected, actual = self._model(expected), self._types.resolve(actual)
        if unreadable := _unreadable(actual):
            sentence = f"{where}: its type cannot be read, so it was not compared: {unreadable.text}"
            self._say(sentence, unreadable.line or line)
            return
        match expected, actual:
            case Record(), Record():
                self._fields(where, expected, actual, line)
            case ListOf(wanted), ListOf(given):
                self._compare(f"{where}[]", wanted, given, line)
            case _ if canonical(expected, self._model) != canonical(actual, self._types.resolve):
                self._say(f"{where}: {type_text(expected)} in the catalogue, {type_text(actual)} in the file", line)

    def _fields(self, where: str, expected: Record, actual: Record, line: int) -> None:
        given = {field.name: field for field in actual.fields}
        if len(given) < len(actual.fields):
            self._say(f"{where}: a field stands twice in the file", line)
        for field in expected.fields:
            if field.name in given:
                self._field(f"{where}.{field.name}", field, given.pop(field.name))
            else:
                self._say(f"{where}.{field.name} is missing", line)
        for name, field in given.items():
            self._say(f"{where}.{name} is in the file, not in the catalogue", field.line)
        self._others(where, expected, actual, line)

    def _field(self, where: str, expected: Field, actual: Field) -> None:
        if expected.is_optional != actual.is_optional:
            words = ("optional", "required") if expected.is_optional else ("required", "optional")
            self._say(f"{where}: {words[0]} in the catalogue, {words[1]} in the file", actual.line)
        wanted, given = expected.shape, actual.shape
        resolved = self._types.resolve(given)
        if isinstance(resolved, OneOf):
            given = without(resolved, "undefined") if actual.is_optional else resolved
        if expected.is_optional and _takes_null(wanted):
            # Left out on the wire rather than null: the file may say so or not.
            wanted, given = without(wanted, "null"), without(given, "null")
        self._compare(where, wanted, given, actual.line)

    def _others(self, where: str, expected: Record, actual: Record, line: int) -> None:
        if expected.others is None:
            if actual.others is not None:
                self._say(f"{where}: the file allows further fields, the catalogue does not", line)
            return
        if actual.others is None:
            if not expected.fields and not actual.fields:
                self._say(f"{where}: any field is allowed in the catalogue, none in the file", line)
            return
        wanted = UNKNOWN if expected.fields else expected.others
        self._compare(f"{where}[key]", wanted, actual.others, line)


def _takes_null(shape: Shape) -> bool:
    return isinstance(shape, OneOf) and NULL in shape.members


def _unreadable(shape: Shape) -> Unreadable | None:
    parts = shape.members if isinstance(shape, OneOf) else (shape,)
    return next((part for part in parts if isinstance(part, Unreadable)), None)
