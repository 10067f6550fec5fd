"""Compares any types.ts with a catalogue and names every difference. Pure; called by `windflow contract check`.

Compared: event names, a payload type for each event, and where the file has them the constants
that the generator writes; not the envelopes. Quotes, order, comments, `type` or `interface` and
`any` or `unknown` do not matter, nor `null` beside an optional field's type where the catalogue
takes null, nor a missing index signature. What is not understood (see `type_reader`; imports, too)
is reported wherever a payload needs it, never accepted.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from backend.app.contract.declarations import Constant, EnumMember, Reference, read_declarations
from backend.app.contract.hashes import contract_hashes
from backend.app.contract.payload_check import PayloadCheck
from backend.app.contract.resolution import FileTypes
from backend.app.contract.shapes import Exactly, Named, OneOf, Record, Shape, Unreadable, payload_shape
from backend.app.schemas.errors import STATUS
from backend.app.schemas.event_spec import EventCatalogue, EventSpec
from backend.app.schemas.messages import CloseCode

_ENUM = "WebSocketEventType"
_SUFFIXES = ("", "Payload", "Data", "EventPayload", "EventData", "Event")


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference, as a sentence that says where; `line` is its place in the file, if it has one."""

    sentence: str
    line: int | None = None

    def __str__(self) -> str:
        return self.sentence


def differences(text: str, catalogue: EventCatalogue) -> list[Difference]:
    """Return every difference between the text of a types.ts and the catalogue; an empty list means none.

    Never raises on any text: what cannot be read is itself a difference.
    """
    check = _Check(text, catalogue)
    for step in (
        check.unread,
        check.event_names,
        check.payloads,
        check.metadata,
        check.hashes,
        check.codes,
    ):
        try:
            step()
        except RecursionError:
            check.found.append(Difference("the types in the file are nested too deep, so not all was compared"))
    # Two events may share a payload, whose differences are then found twice.
    return list(dict.fromkeys(check.found))


class _Check:
    def __init__(self, text: str, catalogue: EventCatalogue) -> None:
        self.found: list[Difference] = []
        self._file = read_declarations(text)
        self._types = FileTypes(self._file)
        self._catalogue = catalogue
        self._members: list[EnumMember] | None = None

    def _say(self, sentence: str, line: int | None = None) -> None:
        self.found.append(Difference(sentence, line or None))

    def unread(self) -> None:
        for place in self._file.unread:
            self._say(f"line {place.line}: {place.reason}", place.line)

    # ---- names -------------------------------------------------------------------------------

    def _read_event_names(self) -> list[EnumMember] | None:
        if _ENUM in self._file.enums:
            return list(self._file.enums[_ENUM])
        constant = self._file.constants.get(_ENUM)
        if constant is not None and isinstance(constant.value, dict):
            values = constant.value.items()
            return [EnumMember(key, value if isinstance(value, str) else None, constant.line) for key, value in values]
        if _ENUM in self._file.types:
            line = self._file.types[_ENUM].line
            shape = self._types.resolve(Named(_ENUM))
            choices = shape.members if isinstance(shape, OneOf) else (shape,)
            names = [choice.value for choice in choices if isinstance(choice, Exactly)]
            if len(names) == len(choices):
                return [EnumMember(str(name), str(name), line) for name in names]
        return None

    def event_names(self) -> None:
        self._members = self._read_event_names()
        if self._members is None:
            self._say(f"{_ENUM}: the file declares no enum, const object or union of strings of this name")
            return
        known: set[str] = set()
        for member in self._members:
            if member.name in known:
                self._say(f"{member.name} stands twice in {_ENUM}", member.line)
            known.add(member.name)
        renamed = {member.value: member for member in self._members if member.name not in self._catalogue}
        for name in self._catalogue:
            if name not in known and name in renamed:
                self._say(f"{name} is named {renamed[name].name} in the file", renamed[name].line)
            elif name not in known:
                self._say(f"{name} is missing")
        for member in self._members:
            self._event_value(member, known)

    def _event_value(self, member: EnumMember, known: set[str]) -> None:
        if member.name not in self._catalogue:
            if member.value not in self._catalogue or member.value in known:
                self._say(f"{member.name} is in the file, not in the catalogue", member.line)
        elif member.value is None:
            self._say(f"{member.name}: its value in the file is not a string, so it was not compared", member.line)
        elif member.value != member.name:
            self._say(f"{member.name}: its value is '{member.value}' in the file", member.line)

    def _event_of(self, key: str) -> str:
        """The event that a computed key means: a member may have another name than its value."""
        return next((str(member.value) for member in self._members or () if member.name == key), key)

    # ---- payloads ----------------------------------------------------------------------------

    def payloads(self) -> None:
        mapped = self._payload_map()
        for spec in self._catalogue.values():
            found = self._by_name(spec) if mapped is None else mapped.get(spec.name)
            if found is not None:
                model = payload_shape(spec.payload)
                check = PayloadCheck(self._types, model.nested)
                check.compare_payload(found[0], model.root.shape, found[1])
                for sentence, line in check.found:
                    self._say(sentence, line)
            elif mapped is not None:
                self._say(f"EventPayloads: {spec.name} is missing")
            else:
                self._say(f"{spec.payload.__name__}: the file declares no payload type for {spec.name}")

    def _payload_map(self) -> dict[str, tuple[str, Shape]] | None:
        """The payload type of each event by `EventPayloads`; None if the file has no such map that can be read."""
        if "EventPayloads" not in self._file.types:
            return None
        declared = self._file.types["EventPayloads"]
        record = self._types.resolve(Named("EventPayloads"))
        if not isinstance(record, Record):
            self._say("EventPayloads: cannot be read, so payload types were looked for by their names", declared.line)
            return None
        mapped: dict[str, tuple[str, Shape]] = {}
        for field in record.fields:
            event = self._event_of(field.name)
            if event not in self._catalogue:
                self._say(f"EventPayloads: {event} is not in the catalogue", field.line)
            if event in mapped or field.is_optional:
                self._say(f"EventPayloads: {event} is {'optional' if field.is_optional else 'there twice'}", field.line)
            label = field.shape.name if isinstance(field.shape, Named) else f"EventPayloads.{event}"
            mapped[event] = (label, field.shape)
        return mapped

    def _by_name(self, spec: EventSpec) -> tuple[str, Shape] | None:
        pascal = "".join(word.capitalize() for word in spec.name.split("_"))
        for suffix in _SUFFIXES:
            for name in (f"{spec.payload.__name__}{suffix}", f"{pascal}{suffix}"):
                if name in self._file.types:
                    return name, Named(name)
        return None

    # ---- tables ------------------------------------------------------------------------------

    def _table(self, name: str) -> Mapping[str, Constant] | None:
        constant = self._file.constants.get(name)
        if constant is None:
            return None
        if isinstance(constant.value, dict):
            return constant.value
        self._say(f"{name}: cannot be read, so it was not compared", constant.line)
        return None

    def _compare_table(self, name: str, expected: Mapping[str, object], actual: Mapping[str, Constant]) -> None:
        line = self._file.constants[name.split(".")[0]].line
        for key, value in expected.items():
            if key not in actual:
                self._say(f"{name}.{key} is missing", line)
            elif actual[key] != value:
                self._say(f"{name}.{key}: {value!r} in the catalogue, {_shown(actual[key])} in the file", line)
        for key in actual:
            if key not in expected:
                self._say(f"{name}.{key} is in the file, not in the catalogue", line)

    def metadata(self) -> None:
        table = self._table("EventMeta")
        if table is None:
            return
        line = self._file.constants["EventMeta"].line
        entries = {self._event_of(key): value for key, value in table.items()}
        for spec in self._catalogue.values():
            entry = entries.pop(spec.name, None)
            if isinstance(entry, dict):
                senders = entry.get("senders")
                if isinstance(senders, list):
                    entry = {**entry, "senders": sorted(senders, key=str)}
                expected = {
                    "delivery": spec.delivery.value,
                    "audience": spec.audience.value,
                    "senders": sorted(sender.value for sender in spec.senders),
                }
                self._compare_table(f"EventMeta.{spec.name}", expected, entry)
            else:
                self._say(f"EventMeta.{spec.name} {'is missing' if entry is None else 'cannot be read'}", line)
        for name in entries:
            self._say(f"EventMeta.{name} is in the file, not in the catalogue", line)

    def hashes(self) -> None:
        hashes = contract_hashes(self._catalogue)
        one = self._file.constants.get("CONTRACT_HASH")
        if one is not None and one.value != hashes["core"]:
            sentence = f"CONTRACT_HASH: {_shown(one.value)} in the file, {hashes['core']!r} is the catalogue's"
            self._say(sentence, one.line)
        table = self._table("CONTRACT_HASHES")
        if table is not None:
            self._compare_table("CONTRACT_HASHES", hashes, table)

    def codes(self) -> None:
        tables: dict[str, dict[str, object]] = {
            "ERROR_CODES": {code.value: status for code, status in STATUS.items()},
            "CLOSE_CODES": {code.name: code.value for code in CloseCode},
        }
        for name, expected in tables.items():
            table = self._table(name)
            if table is not None:
                self._compare_table(name, expected, table)


def _shown(value: Constant) -> str:
    match value:
        case Reference(name):
            return name
        case Unreadable(text):
            return f"`{text}`"
        case _:
            return repr(value)
