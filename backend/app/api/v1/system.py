"""Health, metrics and what this server is. The root routes are for machines: no credentials."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy import text

from backend.app import metrics
from backend.app.api.dependencies import Allowed, Public, UseServices
from backend.app.api.schema import Answer
from backend.app.auth.permissions import Caller, Permission
from backend.app.database import Database
from backend.app.version import VERSION

router = APIRouter(prefix="/system", tags=["system"])
root_router = APIRouter(tags=["health"])


class SystemAnswer(Answer):
    """What this server is."""

    version: str
    node: str
    node_name: str
    connections: int
    database: str
    positions: dict[str, Any]


@router.get("", response_model=SystemAnswer)
async def system(
    services: UseServices, caller: Annotated[Caller, Depends(Allowed(Permission.SYSTEM_VIEW))]
) -> SystemAnswer:
    """Tell version, node and how many sockets are open."""
    return SystemAnswer(
        version=VERSION,
        node=services.node.id,
        node_name=services.settings.node_name,
        connections=len(services.hub),
        database="sqlite" if services.db.is_sqlite else "postgresql",
        positions=await services.positions(caller.principal.organization_id),
    )


@root_router.get("/", include_in_schema=False, dependencies=[Depends(Public())])
async def home(request: Request) -> Response:
    """Lead to the API's page."""
    return RedirectResponse(f"{request.scope.get('root_path', '')}/docs")


@root_router.get("/livez", dependencies=[Depends(Public())], response_class=PlainTextResponse)
async def livez() -> PlainTextResponse:
    """Answer as long as the process serves at all."""
    return PlainTextResponse("ok")


@root_router.get("/readyz", dependencies=[Depends(Public())], responses={503: {"description": "Not ready: reasons"}})
async def readyz(services: UseServices) -> JSONResponse:
    """Answer 200 when requests can be served, else 503 with the reasons."""
    reasons = ["draining"] if services.drain.is_draining else []
    try:
        async with asyncio.timeout(services.settings.readiness_seconds):
            await _ask(services.db)
    except Exception as error:  # noqa: BLE001
        # Whatever keeps the database from answering is the reason.
        reasons.append(f"database: {type(error.__cause__ or error).__name__}")
    return JSONResponse({"ready": not reasons, "reasons": reasons}, status_code=503 if reasons else 200)


async def _ask(db: Database) -> None:
    """Read, and take a turn at writing without changing anything: a database that is locked cannot serve."""
    async with db.session() as session:
        await session.execute(text("SELECT 1"))
    await db.write(lambda tx: tx.conn.execute(text("SELECT 1")).scalar())


@root_router.get("/metrics", dependencies=[Depends(Public())], response_class=PlainTextResponse)
async def prometheus(services: UseServices) -> Response:
    """Print all metrics in the Prometheus text format."""
    metrics.QUEUED_BYTES.set(max((connection.queued_bytes for connection in services.hub), default=0))
    metrics.TASKS.set(len(asyncio.all_tasks()))
    metrics.DATABASE_CONNECTIONS.set(services.db.connections_in_use)
    return Response(generate_latest(metrics.REGISTRY), media_type=CONTENT_TYPE_LATEST)
