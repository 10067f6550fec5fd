"""The fingerprint of a catalogue: equal on both ends exactly when they speak the same contract.

Made from names, payload fields with their rules, delivery, audience and senders; not from
descriptions, defaults or the order of anything. It is computed over the project's own normal
form, so that a release of Python or pydantic that words a schema differently changes nothing.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from backend.app.contract.shapes import (
    AllOf,
    Definition,
    Exactly,
    ListOf,
    Named,
    OneOf,
    Plain,
    Record,
    Shape,
    TupleOf,
    Unreadable,
    payload_shape,
)
from backend.app.schemas.event_spec import EventCatalogue, EventSpec

HASH_LENGTH = 16
"""Hexadecimal digits kept: 64 bits tell any two versions of a contract apart."""


def contract_hash(catalogue: EventCatalogue, owner: str = "core") -> str:
    """Return the fingerprint of one owner's event types; the same for every order of them."""
    events = [_canonical_event(spec) for _, spec in sorted(catalogue.items()) if spec.owner == owner]
    return hashlib.sha256(_text(events).encode()).hexdigest()[:HASH_LENGTH]


def contract_hashes(catalogue: EventCatalogue) -> dict[str, str]:
    """Return the fingerprint of each owner in the catalogue, the core first."""
    owners = {spec.owner for spec in catalogue.values()} - {"core"}
    return {owner: contract_hash(catalogue, owner) for owner in ("core", *sorted(owners))}


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _canonical_event(spec: EventSpec) -> dict[str, Any]:
    payload = payload_shape(spec.payload)
    return {
        "name": spec.name,
        "payload": _canonical(payload.root.shape, payload.nested, ()),
        "delivery": spec.delivery.value,
        "audience": spec.audience.value,
        "senders": sorted(sender.value for sender in spec.senders),
    }


def _canonical(shape: Shape, nested: Mapping[str, Definition], above: tuple[str, ...]) -> Any:
    """Turn a shape into plain JSON values. Nested models are written out; a recursive one says how far up it goes."""

    def inner(part: Shape) -> Any:
        return _canonical(part, nested, above)

    match shape:
        case Plain(name, rules):
            return {"type": name, **dict(rules)}
        case Exactly(value):
            return {"value": value}
        case ListOf(items, rules):
            return {"list": inner(items), **dict(rules)}
        case TupleOf(parts):
            return {"tuple": [inner(part) for part in parts]}
        case Record(fields, others):
            known = {each.name: {"optional": each.is_optional, "is": inner(each.shape)} for each in fields}
            return {"fields": known, "others": None if others is None else inner(others)}
        case OneOf(members) | AllOf(members):
            return {"any": sorted((inner(member) for member in members), key=_text)}
        case Named(name) if name in above:
            return {"up": above[::-1].index(name)}
        case Named(name):
            return _canonical(nested[name].shape, nested, (*above, name))
        case Unreadable(text):
            return {"text": text}
