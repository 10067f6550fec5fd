"""Bases of request bodies and answers: camelCase, unknown fields refused, times with milliseconds and `Z`."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints
from pydantic.alias_generators import to_camel

Name = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")
]
"""A name people see: 1 to 128 characters, no control characters."""


class Body(BaseModel):
    """Base of request bodies. A field nobody knows is an error: it is most likely a misspelt one."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=False,
        validate_by_alias=True,
        extra="forbid",
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )


class Answer(BaseModel):
    """Base of answers."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        from_attributes=True,
    )

    def wire(self) -> dict[str, Any]:
        """Return the answer as it crosses the wire."""
        return self.model_dump(mode="json", by_alias=True)


class ErrorAnswer(Answer):
    """Every error of the API has this shape."""

    code: str
    message: str
    details: Any | None = None
    request_id: str | None = None
