"""All routes of REST, in the order of the reference."""

from fastapi import APIRouter

from backend.app.api.v1 import (
    auth,
    deployment_logs,
    deployments,
    event_stream,
    events,
    notifications,
    organizations,
    plugin_reload,
    plugins,
    system,
    tickets,
    users,
)

_MODULES = (
    auth,
    organizations,
    users,
    deployments,
    deployment_logs,
    notifications,
    event_stream,
    events,
    tickets,
    plugins,
    plugin_reload,
    system,
)


def rest_router(prefix: str) -> APIRouter:
    """Return the routes of every resource under a prefix, and those at the root."""
    router = APIRouter()
    router.include_router(system.root_router)
    for module in _MODULES:
        router.include_router(module.router, prefix=prefix)
    return router
