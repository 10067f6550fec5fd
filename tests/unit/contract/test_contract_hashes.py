"""The fingerprint of the catalogue: changes with the contract and with nothing else."""

from datetime import datetime
from typing import Annotated, Literal

import pytest
from pydantic import Field, StringConstraints

from backend.app.contract.hashes import contract_hash, contract_hashes
from backend.app.schemas.event_spec import Audience, Delivery, EventCatalogue, EventSpec, Payload, Sender
from backend.app.schemas.websocket_events import CORE_EVENTS, core_catalogue


class Base(Payload):
    """A payload."""

    name: Annotated[str, StringConstraints(max_length=10)]
    level: Literal["a", "b"] = "a"
    count: int | None = Field(default=None, ge=0)


class Reworded(Payload):
    """Another text, another order, another default."""

    count: int | None = Field(default=None, ge=0.0, description="How many.")
    level: Literal["b", "a"] = "b"
    name: Annotated[str, StringConstraints(max_length=10)] = Field(title="Name")


class Longer(Base):
    name: Annotated[str, StringConstraints(max_length=11)]


class MoreLevels(Base):
    level: Literal["a", "b", "c"] = "a"  # type: ignore[assignment]


class Fraction(Base):
    count: float | None = Field(default=None, ge=0)  # type: ignore[assignment]


class Required(Base):
    count: int | None = Field(ge=0)


class NotNull(Base):
    count: int = Field(default=0, ge=0)


class Time(Base):
    name: datetime  # type: ignore[assignment]


class Further(Base):
    more: str | None = None


def catalogue(
    payload: type[Payload] = Base,
    *,
    name: str = "ONE",
    delivery: Delivery = Delivery.STREAM,
    audience: Audience = Audience.USER,
    senders: frozenset[Sender] = frozenset({Sender.API, Sender.CLIENT}),
    description: str = "",
) -> EventCatalogue:
    return EventCatalogue([EventSpec(name, payload, delivery, audience, senders, description)])


def test_descriptions_defaults_and_order_do_not_count() -> None:
    """Equal on both ends exactly when they speak the same contract."""
    assert contract_hash(catalogue(Reworded, description="Words.")) == contract_hash(catalogue(Base))
    backwards = EventCatalogue(reversed(CORE_EVENTS))
    assert contract_hash(backwards) == contract_hash(core_catalogue())


@pytest.mark.parametrize("payload", [Longer, MoreLevels, Fraction, Required, NotNull, Time, Further])
def test_each_change_of_a_field_counts(payload: type[Payload]) -> None:
    """Rules of a field count even where TypeScript has no word for them."""
    assert contract_hash(catalogue(payload)) != contract_hash(catalogue(Base))


def test_name_delivery_audience_and_senders_count() -> None:
    """The fingerprint covers names, payloads, delivery, audience and senders."""
    hashes = [
        contract_hash(each)
        for each in (
            catalogue(),
            catalogue(name="TWO"),
            catalogue(delivery=Delivery.LOG),
            catalogue(audience=Audience.ORGANIZATION),
            catalogue(senders=frozenset({Sender.API})),
        )
    ]
    assert len(set(hashes)) == len(hashes)


def test_each_owner_has_its_own_fingerprint() -> None:
    """A plugin's types leave the core's fingerprint as it is."""
    one = EventSpec("ONE", Base, Delivery.STREAM, Audience.USER, frozenset(), "", owner="zebra")
    two = EventSpec("TWO", Base, Delivery.STREAM, Audience.USER, frozenset(), "", owner="ant")
    hashes = contract_hashes(EventCatalogue([*CORE_EVENTS, one, two]))
    assert list(hashes) == ["core", "ant", "zebra"]
    assert hashes["core"] == contract_hash(core_catalogue())
    assert len(set(hashes.values())) == 3


def test_the_fingerprint_is_sixteen_hexadecimal_digits_and_stays_the_same() -> None:
    """The same catalogue has the same fingerprint in every process, with every release of Python and pydantic."""
    assert contract_hash(catalogue()) == "9fc79e1b0b5eaa32"
