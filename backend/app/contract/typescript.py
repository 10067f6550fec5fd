"""The catalogue as TypeScript: `frontend/src/services/websocket/types.ts`.

Called by `windflow contract build` and by the check. Pure: the same catalogue gives the same
text, whatever the order in which plugins were registered. Nobody edits the text by hand.
"""

import inspect
import json
import re
from collections.abc import Iterable, Iterator

from backend.app.contract.hashes import contract_hashes
from backend.app.contract.shapes import (
    UNKNOWN,
    AllOf,
    Definition,
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
    payload_shape,
    without,
)
from backend.app.schemas.errors import MEANING, STATUS, ErrorCode
from backend.app.schemas.event_spec import Audience, Delivery, EventCatalogue, EventSpec, Payload, Sender
from backend.app.schemas.messages import CLOSE_CODES, CloseCode

_HEADER = """\
// GENERATED from the event catalogue of the server. Do not edit: change the catalogue, then run
//     windflow contract build
// `windflow contract check` names every difference between this file and the catalogue.
"""

_ENVELOPES = """\
/** What the server sends: an event, a reply or an error. */
export interface ServerMessage<T extends string = string, D = unknown> {
  type: T;
  data: D;
  /** RFC 3339 date and time. */
  timestamp: string;
  /** The event's id. */
  id?: string;
  /** The stream that keeps the event, and its place there; only on events that are kept. */
  stream?: string;
  offset?: number;
  /** The `id` of the message that this one answers. */
  reply_to?: string | number;
}

/** An event of the catalogue: comparing `type` narrows `data` to its payload. */
export type EventMessage<T extends WebSocketEventType = WebSocketEventType> = {
  [K in T]: ServerMessage<K, EventPayloads[K]>;
}[T];

/** What the client sends: a command (lower case) or an event (UPPER_CASE). */
export interface ClientMessage<T extends string = string, D = unknown> {
  type: T;
  data?: D;
  /** Chosen by the client; the answer carries it as `reply_to`. */
  id?: string | number;
}
"""

_RESERVED = (
    "WebSocketEventType", "EventPayloads", "EventMeta", "EventMetadata", "Delivery", "Audience", "Sender",
    "ServerMessage", "EventMessage", "ClientMessage", "CONTRACT_HASH", "CONTRACT_HASHES", "ERROR_CODES", "ErrorCode",
    "CLOSE_CODES", "CloseCode", "Record", "Readonly",
)  # fmt: skip

_IDENTIFIER = re.compile(r"[A-Za-z_$][\w$]*", re.ASCII)
_EVENT_NAME = re.compile(r"[A-Z][A-Z0-9_]*", re.ASCII)


def generate(catalogue: EventCatalogue) -> str:
    """Return the text of types.ts for a catalogue, ending in one newline.

    Raises ValueError for an event type that is not named in UPPER_CASE: it could not be an enum member.
    """
    specs = _in_order(catalogue)
    for spec in specs:
        if not _EVENT_NAME.fullmatch(spec.name):
            raise ValueError(f"event type {spec.name!r} of {spec.owner}: the name must be UPPER_CASE")
    interfaces = _Interfaces()
    payloads = {spec.name: interfaces.name(spec) for spec in specs}
    sections = (
        _HEADER,
        _hashes(catalogue),
        _event_enum(specs),
        *interfaces.declarations(),
        _payload_map(payloads),
        _metadata(specs),
        _ENVELOPES,
        _error_codes(),
        _close_codes(),
    )
    return "\n".join(sections)


def _in_order(catalogue: EventCatalogue) -> list[EventSpec]:
    """The core first in its own order, then each plugin's types, plugins by name."""
    return sorted(catalogue.values(), key=lambda spec: (spec.owner != "core", spec.owner))


class _Interfaces:
    """Names and declares each payload model once. Payloads are named before the models within them."""

    def __init__(self) -> None:
        self._taken = set(_RESERVED)
        self._names: dict[type[Payload], str] = {}

    def name(self, spec: EventSpec) -> str:
        """Return the interface of an event's payload, under a name that nothing else in the file has."""
        if spec.payload not in self._names:
            self._names[spec.payload] = self._claim(spec.payload.__name__, spec.owner)
        return self._names[spec.payload]

    def declarations(self) -> Iterator[str]:
        """Give the text of every payload that was named, followed by the models it contains."""
        for model, name in self._names.items():
            payload = payload_shape(model)
            inner = {part: each for part, each in payload.nested.items() if each is not payload.root}
            names = {part: name if part not in inner else self._claim(f"{name}{part}", "") for part in payload.nested}
            yield _declaration(name, payload.root, names)
            for part, each in inner.items():
                yield _declaration(names[part], each, names)

    def _claim(self, wanted: str, owner: str) -> str:
        prefix = "".join(part.capitalize() for part in re.split(r"[^A-Za-z0-9]+", owner))
        number, name = 1, wanted
        while name in self._taken:
            name = f"{prefix}{wanted}{number if number > 1 else ''}"
            number += 1
        self._taken.add(name)
        return name


def _declaration(name: str, definition: Definition, names: dict[str, str]) -> str:
    match definition.shape:
        case Record(fields, others):
            body = "".join(f"{doc}  {text};\n" for doc, text in _members(fields, others, names))
            return f"{_doc(definition.description)}export interface {name} {{\n{body}}}\n"
        case shape:
            return f"{_doc(definition.description)}export type {name} = {_type(shape, names)};\n"


def _members(fields: Iterable[Field], others: Shape | None, names: dict[str, str]) -> Iterator[tuple[str, str]]:
    fields = tuple(fields)
    for each in fields:
        # An optional field that is None is left out on the wire, never sent as null.
        shape = without(each.shape, "null") if each.is_optional else each.shape
        mark = "?" if each.is_optional else ""
        yield _doc(each.description, "  "), f"{_key(each.name)}{mark}: {_type(shape, names)}"
    if others is not None:
        # Beside named fields, TypeScript wants a type that holds them all.
        yield "", f"[key: string]: {_type(UNKNOWN if fields else others, names)}"


def _type(shape: Shape, names: dict[str, str]) -> str:
    """Write a type; what an array or a union needs in brackets comes with them."""
    match shape:
        case Plain(name):
            return name
        case Exactly(value):
            return _literal(value)
        case ListOf(OneOf() as items):
            return f"({_type(items, names)})[]"
        case ListOf(items):
            return f"{_type(items, names)}[]"
        case TupleOf(parts):
            return f"[{', '.join(_type(part, names) for part in parts)}]"
        case Record(fields, others):
            return f"{{ {'; '.join(text for _, text in _members(fields, others, names))} }}"
        case OneOf(members):
            return " | ".join(_type(member, names) for member in members)
        case AllOf(members):
            return " & ".join(_type(member, names) for member in members)
        case Named(name):
            return names.get(name, name)
        case Unreadable(text):
            return text


def type_text(shape: Shape) -> str:
    """Write a type as TypeScript, for a message to a person."""
    return _type(shape, {})


def _literal(value: str | int | float | bool) -> str:
    if isinstance(value, str) and re.fullmatch(r"[^'\\\x00-\x1f\u2028\u2029]*", value):
        return f"'{value}'"
    return json.dumps(value)


def _key(name: str) -> str:
    return name if _IDENTIFIER.fullmatch(name) else json.dumps(name)


def _doc(text: str, indent: str = "") -> str:
    """Write a TSDoc comment above what follows; nothing for no text."""
    lines = inspect.cleandoc(text).replace("*/", "*\\/").splitlines()
    if len(lines) < 2:
        return "".join(f"{indent}/** {line} */\n" for line in lines)
    body = "".join(f"{indent} * {line}".rstrip() + "\n" for line in lines)
    return f"{indent}/**\n{body}{indent} */\n"


def _hashes(catalogue: EventCatalogue) -> str:
    hashes = contract_hashes(catalogue)
    lines = "".join(f"  {_key(owner)}: {_literal(value)},\n" for owner, value in hashes.items())
    return (
        f"{_doc('The fingerprint of the core catalogue that this file was generated from.')}"
        f"export const CONTRACT_HASH = {_literal(hashes['core'])};\n\n"
        f"{_doc('The fingerprint of each part: the core, and each plugin that has event types of its own.')}"
        f"export const CONTRACT_HASHES: Readonly<Record<string, string>> = {{\n{lines}}};\n"
    )


def _event_enum(specs: list[EventSpec]) -> str:
    lines: list[str] = []
    owner = "core"
    for spec in specs:
        if spec.owner != owner:
            owner = spec.owner
            lines.append(f"\n  // Plugin {' '.join(owner.split())}\n")
        lines.append(f"{_doc(spec.description, '  ')}  {spec.name} = '{spec.name}',\n")
    about = _doc("Every event type; name and value are the same.")
    return f"{about}export enum WebSocketEventType {{\n{''.join(lines)}}}\n"


def _payload_map(payloads: dict[str, str]) -> str:
    lines = "".join(f"  [WebSocketEventType.{event}]: {name};\n" for event, name in payloads.items())
    return f"{_doc('The payload of each event.')}export interface EventPayloads {{\n{lines}}}\n"


def _metadata(specs: list[EventSpec]) -> str:
    def union(values: Iterable[Delivery | Audience | Sender]) -> str:
        return " | ".join(_literal(value.value) for value in values)

    lines = []
    for spec in specs:
        senders = ", ".join(_literal(sender.value) for sender in Sender if sender in spec.senders)
        lines.append(
            f"  [WebSocketEventType.{spec.name}]: {{ delivery: {_literal(spec.delivery.value)}, "
            f"audience: {_literal(spec.audience.value)}, senders: [{senders}] }},\n"
        )
    about_delivery = (
        "Where an event is kept: in a replayed stream, as numbered log lines, as the latest value, or nowhere."
    )
    return (
        f"{_doc(about_delivery)}export type Delivery = {union(Delivery)};\n\n"
        f"{_doc('Whose connections may receive an event.')}export type Audience = {union(Audience)};\n\n"
        f"{_doc('Who may send an event besides the server itself.')}export type Sender = {union(Sender)};\n\n"
        "export interface EventMetadata {\n"
        "  delivery: Delivery;\n  audience: Audience;\n  senders: readonly Sender[];\n}\n\n"
        f"{_doc('How each event is delivered, to whom, and who may send it.')}"
        "export const EventMeta: Readonly<Record<WebSocketEventType, EventMetadata>> = {\n"
        f"{''.join(lines)}}};\n"
    )


def _error_codes() -> str:
    lines = "".join(f"{_doc(MEANING[code], '  ')}  {code.value}: {STATUS[code]},\n" for code in ErrorCode)
    return (
        f"{_doc('Every error code of WEBSOCKET_ERROR and of the REST API, with its HTTP status.')}"
        f"export const ERROR_CODES = {{\n{lines}}} as const;\n\n"
        "export type ErrorCode = keyof typeof ERROR_CODES;\n"
    )


def _close_codes() -> str:
    rules = ((code, CLOSE_CODES[code]) for code in CloseCode)
    lines = "".join(
        f"{_doc(f'{rule.meaning[:1].upper()}{rule.meaning[1:]}; {rule.duty}.', '  ')}  {code.name}: {code.value},\n"
        for code, rule in rules
    )
    return (
        f"{_doc('Every code that the server closes a connection with, and what the client has to do.')}"
        f"export const CLOSE_CODES = {{\n{lines}}} as const;\n\n"
        "export type CloseCode = (typeof CLOSE_CODES)[keyof typeof CLOSE_CODES];\n"
    )
