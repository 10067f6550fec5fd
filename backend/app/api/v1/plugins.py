"""The registered plugins and those that failed to load. They serve every organization: superusers only."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends

from backend.app.api.dependencies import Allowed, UseServices
from backend.app.api.refusals import AUTHENTICATED, refusals
from backend.app.api.schema import Answer
from backend.app.api.services import Services
from backend.app.api.strict_route import StrictRoute
from backend.app.auth.permissions import Caller, Permission
from backend.app.schemas.errors import ErrorCode, not_found
from backend.app.websocket.circuit_breaker import BreakerState
from backend.app.websocket.plugin import WebSocketPlugin

router = APIRouter(prefix="/plugins", tags=["plugins"], route_class=StrictRoute)

_FOUND = {**AUTHENTICATED, **refusals(ErrorCode.NOT_FOUND)}

Superuser = Annotated[Caller, Depends(Allowed(Permission.PLUGINS_MANAGE))]


class PluginAnswer(Answer):
    """One plugin."""

    name: str
    state: Literal["enabled", "disabled", "failed"]
    version: str | None = None
    event_types: Sequence[str] | None = None
    """None: every event."""
    message_types: Sequence[str] = ()
    reason: str | None = None
    """Why it failed to load."""
    calls: int = 0
    failures: int = 0
    timeouts: int = 0
    abandoned: int = 0
    """Calls that ignored their cancellation."""
    refused: int = 0
    """Calls that were not made."""
    loop_blocks: int = 0
    """Times that it blocked the event loop."""
    breaker: BreakerState = BreakerState.CLOSED
    breaker_reason: str | None = None
    """Why it is not closed."""
    retry_after_seconds: float = 0
    """How long an open breaker lets no call through."""
    waiting: int = 0
    """Stream events that it has not handled yet."""
    skipped: int = 0
    """Stream events that it is not given any more."""
    last_error: str | None = None
    generation: int = 1
    """How often its code was loaded since the server started."""
    loaded_at: datetime | None = None
    reload_error: str | None = None
    """Why its last reload failed; the old generation went on."""


class PluginsAnswer(Answer):
    """All plugins; `nextCursor` is always null: there are few."""

    items: Sequence[PluginAnswer]
    next_cursor: str | None = None
    positions: dict[str, Any]


class PluginDetail(PluginAnswer):
    """One plugin, with the positions every detail answer has."""

    positions: dict[str, Any]


def _shown(services: Services, plugin: WebSocketPlugin) -> PluginAnswer:
    supervisor = services.plugins.supervisor
    stats, breaker = supervisor.stats_of(plugin.name), supervisor.breaker_of(plugin.name)
    reason = services.plugins.failures.get(plugin.name)
    return PluginAnswer(
        **_described(services, plugin),
        state="failed" if reason else "enabled",
        reason=reason,
        calls=stats.calls,
        failures=stats.failures,
        timeouts=stats.timeouts,
        abandoned=stats.abandoned,
        refused=stats.refused,
        loop_blocks=stats.loop_blocks,
        breaker=breaker.state,
        breaker_reason=breaker.reason,
        retry_after_seconds=round(breaker.retry_after_seconds, 3),
        waiting=stats.waiting,
        skipped=stats.skipped,
        last_error=stats.last_error,
    )


def _described(services: Services, plugin: WebSocketPlugin) -> dict[str, Any]:
    """Return what is shown of a plugin in and out of service."""
    types, found = plugin.event_types, services.reloads.generation_of(plugin.name)
    return {
        "name": plugin.name,
        "version": plugin.version,
        "event_types": None if types is None else [str(name) for name in types],
        "message_types": [str(name) for name in plugin.message_types],
        "generation": found.number,
        "loaded_at": found.loaded_at,
        "reload_error": found.error,
    }


def _all(services: Services) -> list[PluginAnswer]:
    found = [_shown(services, plugin) for plugin in services.plugins.plugins]
    known = {plugin.name for plugin in found}
    aside = [
        PluginAnswer(**_described(services, plugin), state="disabled") for plugin in services.plugins.aside.values()
    ]
    known.update(plugin.name for plugin in aside)
    failed = [
        PluginAnswer(name=name, state="failed", reason=reason)
        for name, reason in services.plugins.failures.items()
        if name not in known
    ]
    return sorted(found + aside + failed, key=lambda plugin: plugin.name)


@router.get("", response_model=PluginsAnswer)
async def list_plugins(services: UseServices, caller: Superuser) -> PluginsAnswer:
    """List every plugin with its state and how its calls went."""
    return PluginsAnswer(items=_all(services), positions=await services.positions(caller.principal.organization_id))


async def detail_of(services: Services, name: str, caller: Caller) -> PluginDetail:
    """Return the detail answer about a plugin; raise `not_found`."""
    for plugin in _all(services):
        if plugin.name == name:
            positions = await services.positions(caller.principal.organization_id)
            return PluginDetail(**plugin.model_dump(by_alias=False), positions=positions)
    raise not_found("plugin")


@router.get("/{name}", response_model=PluginDetail, responses=_FOUND)
async def get_plugin(name: str, services: UseServices, caller: Superuser) -> PluginDetail:
    """Show one plugin with its last error."""
    return await detail_of(services, name, caller)


@router.post("/{name}/disable", response_model=PluginDetail, responses=_FOUND)
async def disable_plugin(name: str, services: UseServices, caller: Superuser) -> PluginDetail:
    """Take a plugin out of service, also after a restart. It is cleaned up and shut down."""
    await services.switchboard.disable(caller, name)
    return await detail_of(services, name, caller)


@router.post("/{name}/enable", response_model=PluginDetail, responses={**_FOUND, **refusals(ErrorCode.NAME_TAKEN)})
async def enable_plugin(name: str, services: UseServices, caller: Superuser) -> PluginDetail:
    """Put a plugin back into service: it is started, and gets the events from now on."""
    await services.switchboard.enable(caller, name)
    return await detail_of(services, name, caller)


@router.post("/{name}/reset", response_model=PluginDetail, responses=_FOUND)
async def reset_plugin(name: str, services: UseServices, caller: Superuser) -> PluginDetail:
    """Close a plugin's breaker; one whose start failed is started again. On the server that is asked."""
    await services.switchboard.reset(caller, name)
    return await detail_of(services, name, caller)
