"""The query parameters of every list, and the parts that requests and answers of lists share."""

from typing import Annotated, Any

from fastapi import Depends, Query
from pydantic import field_validator

from backend.app.api.schema import Answer, Body
from backend.app.operations.identity_reads import PageRequest


def page_request(
    limit: Annotated[int | None, Query(ge=1, description="Most items; more than allowed counts as allowed.")] = None,
    cursor: Annotated[str | None, Query(max_length=1024, description="`nextCursor` of the page before.")] = None,
) -> PageRequest:
    """Return which page a request asks for."""
    return PageRequest(limit, cursor)


UsePage = Annotated[PageRequest, Depends(page_request)]


class PageAnswer(Answer):
    """Base of list answers, which add `items`."""

    next_cursor: str | None
    positions: dict[str, Any]


class Changes(Body):
    """Base of PATCH bodies: what is absent stays as it is, so null says nothing and is refused."""

    @field_validator("*", mode="before")
    @classmethod
    def _is_not_null(cls, value: object) -> object:
        if value is None:
            raise ValueError("must not be null; leave it out to keep it as it is")
        return value
