"""The composition root: makes every object, gives each its collaborators, starts and stops them.

`create_app()` is what `windflow serve` runs; `WindFlow` adds the same to an application that
exists already. Nothing is connected or discovered before the lifespan starts.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from starlette.websockets import WebSocket

from backend.app import metrics, migrations
from backend.app.api import deployment_page
from backend.app.api.application import Application
from backend.app.api.dependencies import Public
from backend.app.api.errors import install_error_handlers, install_refusals
from backend.app.api.middleware import RequestMiddleware
from backend.app.api.reference_page import install_reference_page
from backend.app.api.routes import rest_router
from backend.app.api.services import Services
from backend.app.auth.secret_file import derived, load_or_create_secret
from backend.app.config import Settings, warnings_at_start
from backend.app.contract.handshake import ServerContract
from backend.app.data_folder import DataFolderLock
from backend.app.database import db
from backend.app.operations.bootstrap import FirstAdmin, first_start
from backend.app.operations.deployments import Deployments
from backend.app.operations.disabled_plugins import DisabledPlugins
from backend.app.operations.events import Events
from backend.app.operations.housekeeping import Housekeeping
from backend.app.operations.leases import LeaseSweeper
from backend.app.operations.notifications import Notifications
from backend.app.operations.organizations import Organizations
from backend.app.operations.periodic import Periodic
from backend.app.operations.retention import Retention
from backend.app.operations.sessions import Sessions
from backend.app.operations.tickets import Tickets
from backend.app.operations.tokens import ApiTokens
from backend.app.operations.users import Users
from backend.app.realtime.budget import Budget
from backend.app.realtime.bus import Bus
from backend.app.realtime.catch_up import CatchUp
from backend.app.realtime.flusher import Flusher
from backend.app.realtime.head_poll import HeadPoll
from backend.app.realtime.heads import Heads
from backend.app.realtime.hub import Hub
from backend.app.realtime.log_reader import LogReader
from backend.app.realtime.lost_streams import tell_followers
from backend.app.realtime.node import Node
from backend.app.realtime.node_hooks import NodeHooks
from backend.app.realtime.position_notices import PositionNotices
from backend.app.realtime.resume import LostReason
from backend.app.realtime.resumes import Resumes
from backend.app.realtime.unit_of_work import write_hooks
from backend.app.schemas.event_spec import EventCatalogue
from backend.app.version import VERSION
from backend.app.websocket.access import Access
from backend.app.websocket.admission import Admission
from backend.app.websocket.authentication import Authentication
from backend.app.websocket.commands import Commands
from backend.app.websocket.connect_records import ConnectRecords
from backend.app.websocket.contexts import Contexts
from backend.app.websocket.cursor_log import CursorLog
from backend.app.websocket.dispatch_limits import DispatchLimits
from backend.app.websocket.dispatcher import Dispatcher
from backend.app.websocket.drain import Drain
from backend.app.websocket.endpoint import Endpoint
from backend.app.websocket.event_streams import EventStreams
from backend.app.websocket.heartbeat import Heartbeat
from backend.app.websocket.liveness import LivenessRules
from backend.app.websocket.loop_blocks import watching
from backend.app.websocket.node_keeper import NodeKeeper
from backend.app.websocket.plugin import plugin_manager
from backend.app.websocket.plugin_reloads import Reloads
from backend.app.websocket.plugin_start import start_plugins
from backend.app.websocket.plugin_switchboard import Switchboard
from backend.app.websocket.plugin_watch import PluginWatch

logger = logging.getLogger("windflow")

API = "/api/v1"
SOCKET_PATHS = (f"{API}/ws", f"{API}/ws/")
Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]


class WindFlow:
    """Everything of WindFlow for one FastAPI application: include `router`, and wrap the lifespan."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.router = _router(self)
        self._endpoint: Endpoint | None = None
        self._drain: Drain | None = None
        self.first_admin: FirstAdmin | None = None
        """Set while the server runs, if this start made the first administrator."""

    def wrap(self, lifespan: Lifespan | None = None) -> Lifespan:
        """Return a lifespan that starts WindFlow before and stops it after the application's own."""

        @asynccontextmanager
        async def wrapped(app: FastAPI) -> AsyncIterator[Any]:
            install_refusals(app)
            async with self.running(app), AsyncExitStack() as stack:
                yield await stack.enter_async_context(lifespan(app)) if lifespan else None

        return wrapped

    async def serve_socket(self, websocket: WebSocket) -> None:
        """Serve one socket; refused before the start and after the stop, turned away while draining."""
        if self._endpoint is None or self._drain is None:
            await websocket.close()
            return
        if self._drain.is_draining:
            await self._drain.turn_away(websocket)
            return
        await self._endpoint.serve(websocket)

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[Services]:
        """Run WindFlow: lock, migrate, connect, first start, plugins; everything undone in reverse order."""
        settings = self.settings
        for sentence in warnings_at_start():
            logger.warning(sentence)
        async with AsyncExitStack() as stack:
            stack.enter_context(DataFolderLock(settings.data_dir))
            if settings.migrate:
                await migrations.upgrade(settings)
            services = await self._start(stack)
            app.state.services = services
            assert self._endpoint is not None
            app.state.event_streams = EventStreams(self._endpoint, services.drain, services.deployments)
            app.state.first_admin = self.first_admin
            stack.callback(setattr, self, "_endpoint", None)
            yield services
            # `windflow serve` has drained by now, and this finds nothing to do; another server has not.
            await services.drain.run(settings.drain_seconds / 2)

    async def _start(self, stack: AsyncExitStack) -> Services:
        settings, flusher = self.settings, Flusher()
        # What is written without a look at each budget must fit into every one of them.
        join_bytes = min(settings.socket_high_water_bytes, settings.outbound_bytes - settings.socket_high_water_bytes)
        heads = Heads()
        hub, admission = Hub(flusher, join_bytes, heads), Admission(settings)
        self._drain = drain = Drain(settings, hub, lambda: admission.authenticated)
        catalogue = plugin_manager.catalogue
        bus = Bus(db, catalogue, settings.gap_seconds, settings.late_lines_seconds, heads)
        hooks, log = NodeHooks(Node(), partial(write_hooks, hand_on=bus.hand_on)), CursorLog(db, catalogue)
        await db.connect(settings, hooks.hooks)
        stack.push_async_callback(db.disconnect)
        await log.register(hooks.node, settings.node_lease_seconds)
        self.first_admin = await first_start(db, settings)
        await bus.start()
        stack.push_async_callback(bus.stop)
        services = self._services(settings, hooks.node, hub, bus, catalogue, drain)
        contexts = Contexts(settings, db, services.events)
        access = Access(hub, services.sessions, catalogue, settings.recheck_seconds)
        dispatcher = Dispatcher(plugin_manager, contexts, log, hooks, DispatchLimits.of(settings))
        await dispatcher.learn()
        keeper = NodeKeeper(log, hooks, dispatcher, settings)
        stack.push_async_callback(keeper.release)
        stack.push_async_callback(_owned(keeper.run()))
        stack.enter_context(watching(plugin_manager.supervisor, settings, lambda: plugin_manager.plugins))
        for listener in (hub.deliver, access, dispatcher):
            stack.callback(bus.listen(listener))
        stack.push_async_callback(access.stop)
        await start_plugins(stack, settings, contexts, dispatcher, services.switchboard, services.reloads)
        if settings.reload_plugins and settings.plugins_dir is not None:
            watch = PluginWatch(services.reloads, settings.plugins_dir, settings.plugin_watch_seconds)
            stack.push_async_callback(_owned(watch.run()))
        elif settings.reload_plugins:
            logger.warning("no plugin file is watched: WINDFLOW_PLUGINS_DIR names no folder")
        await keeper.round()
        await self._start_sweeper(stack, LeaseSweeper(db, settings, catalogue))
        poll = HeadPoll(
            db, catalogue, bus, hub,
            poll_seconds=settings.poll_seconds, late_lines_seconds=settings.late_lines_seconds,
        )  # fmt: skip
        tidy = Housekeeping(db, settings).run
        for work in (
            Periodic("housekeeping", tidy, settings.housekeeping_seconds),
            Periodic("retention", Retention(db, settings).run, settings.retention_seconds),
            Periodic("access check", access.check_all, settings.recheck_seconds),
            Periodic("plugins in service", services.switchboard.apply, settings.recheck_seconds),
            Periodic("head poll", poll.look, settings.poll_seconds),
        ):
            stack.push_async_callback(_owned(work.run()))
        await self._start_catching_up(stack, bus, hub, catalogue)
        self._endpoint = await self._start_endpoint(stack, services, bus, flusher, contexts, admission)
        return services

    async def _start_catching_up(self, stack: AsyncExitStack, bus: Bus, hub: Hub, catalogue: EventCatalogue) -> None:
        settings = self.settings
        reader = LogReader(db, settings, catalogue)
        stack.push_async_callback(reader.stop)
        catch_up = CatchUp(
            hub,
            reader,
            catalogue,
            chunk_bytes=min(settings.socket_high_water_bytes, settings.outbound_bytes // 4),
            gap_seconds=settings.gap_seconds,
            retry_seconds=settings.catch_up_retry_seconds,
        )
        hub.on_behind = catch_up.start
        bus.on_hole = partial(tell_followers, hub, LostReason.EXPIRED)
        stack.push_async_callback(catch_up.stop)
        stack.push_async_callback(_owned(PositionNotices(hub, settings.positions_seconds).run()))

    @staticmethod
    async def _start_endpoint(
        stack: AsyncExitStack,
        services: Services,
        bus: Bus,
        flusher: Flusher,
        contexts: Contexts,
        admission: Admission,
    ) -> Endpoint:
        settings, hub, sessions = services.settings, services.hub, services.sessions
        heartbeat = Heartbeat(
            LivenessRules(
                settings.heartbeat_seconds,
                settings.pong_timeout_seconds,
                settings.write_stall_seconds,
                settings.write_stall_max_seconds,
            )
        )
        stack.push_async_callback(_owned(heartbeat.run()))
        records = ConnectRecords(
            sessions.sockets_authenticated,
            group_seconds=settings.connect_group_seconds,
            group_rows=settings.connect_group_rows,
        )
        stack.push_async_callback(records.stop)
        metrics.QUEUED_BYTES.set_function(hub.most_queued_bytes)
        budget = Budget(
            max_bytes=settings.outbound_bytes,
            max_messages=settings.outbound_messages,
            high_water_bytes=settings.socket_high_water_bytes,
            close_seconds=settings.close_timeout_seconds,
            stalled_close_seconds=settings.write_stall_seconds,
        )
        return Endpoint(
            settings=settings,
            hub=hub,
            flusher=flusher,
            budget=budget,
            authentication=Authentication(
                sessions,
                services.tickets,
                timeout_seconds=settings.auth_timeout_seconds,
                max_json_depth=settings.max_json_depth,
            ),
            commands=Commands(
                settings, bus, plugin_manager.catalogue, hub, sessions, services.deployments, services.events,
                plugin_manager,
            ),
            contexts=contexts,
            plugins=plugin_manager,
            admission=admission,
            heartbeat=heartbeat,
            connect_records=records,
            resumes=Resumes(db, bus, hub),
            contract=ServerContract(plugin_manager.catalogue),
        )  # fmt: skip

    @staticmethod
    def _services(
        settings: Settings, node: Node, hub: Hub, bus: Bus, catalogue: EventCatalogue, drain: Drain
    ) -> Services:
        secret = load_or_create_secret(settings)
        sessions = Sessions(db, settings, catalogue, secret)
        deployments_ = Deployments(db, settings, catalogue)
        disabled = DisabledPlugins(db)
        notifications_ = Notifications(db, settings, catalogue)
        return Services(
            settings=settings,
            db=db,
            node=node,
            sessions=sessions,
            users=Users(db, settings, catalogue, sessions),
            organizations=Organizations(db, settings),
            tokens=ApiTokens(db, settings, catalogue),
            tickets=Tickets(db, settings, sessions),
            deployments=deployments_,
            notifications=notifications_,
            events=Events(db, settings, catalogue, bus.hand_on, deployments_, notifications_, hub.push_raw),
            plugins=plugin_manager,
            switchboard=Switchboard(plugin_manager, disabled),
            reloads=Reloads(plugin_manager, disabled, settings),
            hub=hub,
            drain=drain,
            request_secret=derived(secret, "idempotency"),
        )

    @staticmethod
    async def _start_sweeper(stack: AsyncExitStack, sweeper: LeaseSweeper) -> None:
        await sweeper.renew_all()
        stack.push_async_callback(_owned(sweeper.run()))


def _owned(work: Coroutine[Any, Any, None]) -> Callable[[], Awaitable[None]]:
    """Run something until the end; return what ends it."""
    task = asyncio.create_task(work)

    async def stop() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    return stop


def _router(windflow: WindFlow) -> APIRouter:
    router = rest_router(API)
    for path in SOCKET_PATHS:
        router.add_api_websocket_route(path, windflow.serve_socket, dependencies=[Depends(Public())])
    return router


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the application that `windflow serve` runs."""
    windflow = WindFlow(settings)
    app = Application(
        title="WindFlow",
        version=VERSION,
        summary="Realtime backend: deployments, notifications and events, live",
        lifespan=windflow.wrap(),
        docs_url=None,
        redoc_url=None,
    )
    app.serve_socket, app.socket_paths = windflow.serve_socket, SOCKET_PATHS
    app.include_router(windflow.router)
    app.include_router(deployment_page.router)
    install_reference_page(app, windflow.settings.root_path.rstrip("/"))
    app.add_middleware(RequestMiddleware, max_bytes=windflow.settings.request_bytes)
    install_error_handlers(app)
    return app
