"""Reloading a plugin: its code is loaded anew while connections stay open. Superusers only."""

from fastapi import APIRouter

from backend.app.api.dependencies import UseServices
from backend.app.api.refusals import AUTHENTICATED, refusals
from backend.app.api.strict_route import StrictRoute
from backend.app.api.v1.plugins import PluginDetail, Superuser, detail_of
from backend.app.schemas.errors import ErrorCode

router = APIRouter(prefix="/plugins", tags=["plugins"], route_class=StrictRoute)


@router.post(
    "/{name}/reload",
    response_model=PluginDetail,
    responses={**AUTHENTICATED, **refusals(ErrorCode.NOT_FOUND, ErrorCode.RELOAD_FAILED)},
)
async def reload_plugin(name: str, services: UseServices, caller: Superuser) -> PluginDetail:
    """Load a plugin's code anew and let it take over. What cannot work changes nothing. On the server that is asked."""
    await services.reloads.reload_for(caller, name)
    return await detail_of(services, name, caller)
