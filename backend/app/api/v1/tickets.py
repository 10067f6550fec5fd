"""The route under /ws that gives out one-time tickets; what happens is in `operations/tickets.py`."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from backend.app.api.dependencies import Allowed, UseServices
from backend.app.api.refusals import AUTHENTICATED, refusals
from backend.app.api.schema import Answer
from backend.app.api.strict_route import StrictRoute
from backend.app.auth.permissions import Caller, Permission
from backend.app.schemas.errors import ErrorCode
from backend.app.schemas.times import WireTime

router = APIRouter(prefix="/ws", tags=["events"], route_class=StrictRoute)

Own = Annotated[Caller, Depends(Allowed(Permission.OWN_ACCOUNT))]


class TicketAnswer(Answer):
    """A ticket: once, as `?ticket=` of a socket's address or of `GET /events`, before it ends."""

    ticket: str
    expires_at: WireTime


@router.post(
    "/ticket",
    status_code=201,
    response_model=TicketAnswer,
    responses={**AUTHENTICATED, **refusals(ErrorCode.RATE_LIMITED)},
)
async def create_ticket(request: Request, response: Response, caller: Own, services: UseServices) -> dict[str, Any]:
    """Get a one-time ticket for clients that can send neither a header nor a first message.

    It opens one connection with the caller's rights, from the origin that it was asked from.
    """
    response.headers["Cache-Control"] = "no-store"
    return await services.tickets.create(caller, request.headers.get("origin"))
