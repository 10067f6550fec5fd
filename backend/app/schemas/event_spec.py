"""How an event is described: delivery class, audience, senders, subject.

`websocket_events` fills these in for the core, a plugin for its own types. The pydantic
base of all payloads stands here: camelCase on the wire, snake_case in Python, unknown
fields kept, NaN and infinity refused.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.alias_generators import to_camel

from backend.app.schemas.roles import Role


class Delivery(StrEnum):
    """Where an event is kept, and so what a reader gets after a reconnect."""

    STREAM = "stream"
    """Kept in `events` with an offset: replayed in order, once."""
    LOG = "log"
    """Kept as numbered lines: continues at the reader's line."""
    LATEST = "latest"
    """One value per subject: a newer one replaces it."""
    TRANSIENT = "transient"
    """Kept nowhere: who is not there misses it."""


class Audience(StrEnum):
    """Whose connections may receive an event."""

    ORGANIZATION = "organization"
    USER = "user"
    USER_OR_ORGANIZATION = "user or organization"
    SESSION = "session"
    CONNECTION = "connection"


class Sender(StrEnum):
    """Who may publish an event. The server itself may publish every one."""

    CLIENT = "client"
    """A socket message of that type."""
    API = "api"
    """`POST /api/v1/events`."""
    PLUGIN = "plugin"
    """`context.broadcast_to_event_subscribers` and `broadcast_to_user`."""


class Payload(BaseModel):
    """Base of every payload model."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        extra="allow",
        allow_inf_nan=False,
    )

    @model_validator(mode="after")
    def _unknown_fields_are_finite(self) -> Self:
        """`allow_inf_nan` looks at declared fields only; in the others NaN would become null in silence."""
        if self.model_extra and not _is_finite(self.model_extra):
            raise ValueError("NaN and infinity are refused")
        return self

    def wire(self) -> dict[str, Any]:
        """Return the payload as it crosses the wire: camelCase keys, optional fields that have no value left out.

        A null in an unknown field, or in a field that must be there, is a value and stays.
        """
        wire = self.model_dump(mode="json", by_alias=True)
        for name, field in type(self).model_fields.items():
            key = field.serialization_alias or field.alias or name
            if not field.is_required() and wire.get(key, "") is None:
                del wire[key]
        return wire


def _is_finite(value: Any) -> bool:
    """Tell whether no number in a JSON value is NaN or infinite."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(_is_finite(item) for item in value.values())
    return not isinstance(value, list | tuple) or all(_is_finite(item) for item in value)


@dataclass(frozen=True, slots=True)
class EventSpec:
    """Everything the system knows of one event type besides its payload's fields."""

    name: str
    payload: type[Payload]
    delivery: Delivery
    audience: Audience
    senders: frozenset[Sender]
    description: str
    audited: bool = False
    subject_field: str | None = None
    """Wire name of the payload field that names the subject (order and topic key), e.g. `deploymentId`."""
    least_role: Role = Role.VIEWER
    """The role that a receiver needs."""
    is_pushed: bool = True
    """False: never delivered to subscribers (`AUTH_LOGIN_SUCCESS` is only a reply)."""
    owner: str = "core"
    """`core`, or the name of the plugin that declares the type."""


class EventCatalogue(Mapping[str, EventSpec]):
    """The event types of a running process: the core's, and those of registered plugins.

    A type belongs to exactly one owner: claiming one twice raises ValueError and adds nothing.
    """

    def __init__(self, specs: Iterable[EventSpec]) -> None:
        self._specs: dict[str, EventSpec] = {}
        self.add(specs)

    def add(self, specs: Iterable[EventSpec]) -> None:
        """Add event types; raise ValueError naming the first one that is already claimed."""
        new = list(specs)
        names = [spec.name for spec in new]
        for spec in new:
            if spec.name in self._specs or names.count(spec.name) > 1:
                owner = self._specs[spec.name].owner if spec.name in self._specs else spec.owner
                raise ValueError(f"event type {spec.name} is already declared by {owner}")
        self._specs.update((spec.name, spec) for spec in new)

    def remove_owner(self, owner: str) -> None:
        """Forget the event types of an owner (a plugin that was unregistered)."""
        self._specs = {name: spec for name, spec in self._specs.items() if spec.owner != owner}

    def __getitem__(self, name: str) -> EventSpec:
        return self._specs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)
