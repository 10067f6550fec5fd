"""What the contexts of a running server let a plugin do: broadcasts with quota and hops, `send`; and who caused it."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any
from unittest.mock import AsyncMock

import pytest

from backend.app import metrics
from backend.app.auth.permissions import Principal
from backend.app.config import Settings
from backend.app.database import Database
from backend.app.realtime.connection import Connection
from backend.app.realtime.event import Event, new_event
from backend.app.realtime.flusher import Flusher
from backend.app.schemas.errors import ErrorCode, WindFlowError
from backend.app.schemas.roles import Role
from backend.app.schemas.websocket_events import core_catalogue
from backend.app.websocket.contexts import Contexts
from backend.app.websocket.plugin import PluginContext
from tests.deployment_world import World
from tests.dispatch_world import make_dispatcher
from tests.plugin_world import make_manager, make_plugin, until
from tests.unit.realtime.outlets import BUDGET, connect

LIMIT = 20
ADA = Principal("ada", "ada", "o1", Role.OPERATOR)


@pytest.fixture
async def world(database: Database, settings: Settings, committed: list[Event]) -> World:
    limited = settings.model_copy(update={"broadcasts_per_call": LIMIT, "max_hops": 3, "plugin_timeout_seconds": 60})
    return await World.make(database, limited, committed)


def contexts_of(world: World) -> Contexts:
    return Contexts(world.settings, world.db, world.events)


def connection_of(principal: Principal = ADA) -> Connection:
    """A connection that is not greeted yet: what is pushed waits in its budget."""
    return connect(Flusher(), principal, is_greeted=False)[0]


def event_of(connection: Connection | None = None, hop: int = 0, principal: Principal = ADA) -> Event:
    spec = core_catalogue()["CUSTOM_EVENT"]
    connection_id = connection.id if connection else None
    return new_event(spec, "o1", {"n": 1}, actor=principal, connection_id=connection_id, hop=hop)


async def to_all(context: PluginContext) -> None:
    assert context.broadcast_to_event_subscribers is not None
    await context.broadcast_to_event_subscribers("CUSTOM_EVENT", {"n": 1})


async def to_ada(context: PluginContext) -> None:
    assert context.broadcast_to_user is not None
    await context.broadcast_to_user("ada", {"type": "hello"})


@pytest.mark.parametrize("broadcast", [to_all, to_ada])
@pytest.mark.parametrize("kind", ["event", "connection"])
async def test_a_flood_of_broadcasts_is_refused_with_a_clear_error(
    world: World, broadcast: Callable[[PluginContext], Awaitable[None]], kind: str
) -> None:
    """A plugin that floods (10,000 broadcasts in one call) meets a quota and a clear error."""
    contexts = contexts_of(world)
    of_event = kind == "event"
    context = contexts.for_event(event_of()) if of_event else contexts.open(connection_of(), AsyncMock())
    for _ in range(LIMIT):
        await broadcast(context)
    with pytest.raises(WindFlowError, match=f"more than {LIMIT} broadcasts in") as refused:
        await broadcast(context)
    assert refused.value.code is ErrorCode.RATE_LIMITED


async def test_a_connections_quota_is_each_plugins_own_and_comes_back(world: World) -> None:
    """The quota of one plugin is not spent by another, and a periodic task of a connection goes on for ever."""
    outcomes: list[tuple[str, int]] = []

    async def handle_message(self: Any, message: dict[str, Any], context: PluginContext) -> None:
        for number in range(LIMIT + 5):
            try:
                await to_all(context)
            except WindFlowError:
                outcomes.append((self.name, number))
                return
        outcomes.append((self.name, LIMIT + 5))

    first = make_plugin("FirstPlugin", message_types=["one"], handle_message=handle_message)
    second = make_plugin("SecondPlugin", message_types=["two"], handle_message=handle_message)
    manager = make_manager(first, second, timeout_seconds=10)
    moment = 100.0
    context = Contexts(world.settings, world.db, world.events, lambda: moment).open(connection_of(), AsyncMock())
    await manager.handle_message("one", {}, context)
    await manager.handle_message("two", {}, context)
    assert outcomes == [("first", LIMIT), ("second", LIMIT)]

    moment += world.settings.plugin_timeout_seconds
    await manager.handle_message("one", {}, context)
    assert outcomes[-1] == ("first", LIMIT)


async def test_a_loop_over_a_kept_context_ends_at_the_hop_limit(world: World) -> None:
    """A → B → A loops end at the hop limit, also when a handler broadcasts with a context that it kept."""
    contexts = contexts_of(world)
    kept = contexts.open(connection_of(), AsyncMock())
    refused: list[WindFlowError] = []
    calls = 0

    async def handle_event(self: Any, event_type: str, event_data: dict[str, Any], context: PluginContext) -> None:
        nonlocal calls
        calls += 1
        try:
            await to_all(kept)
        except WindFlowError as error:
            refused.append(error)

    manager = make_manager(make_plugin(event_types=["CUSTOM_EVENT"], handle_event=handle_event))
    dispatcher = make_dispatcher(manager, contexts, database=world.db, plugin_queue=100)
    seen = 0
    dispatcher(event_of())

    def pump() -> bool:
        nonlocal seen
        for event in world.committed[seen:]:
            seen += 1
            dispatcher(event)
        return bool(refused)

    await until(pump)
    assert refused[0].code is ErrorCode.FORBIDDEN
    assert calls == world.settings.max_hops + 1


async def test_a_plugins_messages_never_end_the_connection_they_are_for(world: World) -> None:
    """`send`: what the budget does not take is dropped and counted; the connection lives."""
    connection = connection_of()
    context = contexts_of(world).open(connection, AsyncMock())
    assert context.send is not None
    before = metrics.EVENTS_DROPPED.labels("connection")._value.get()
    for number in range(2 * BUDGET.max_messages):
        await context.send({"type": "news", "number": number})
    assert connection.close_code is None
    waiting = connection.queued_messages
    assert 0 < waiting <= BUDGET.max_messages
    assert metrics.EVENTS_DROPPED.labels("connection")._value.get() == before + 2 * BUDGET.max_messages - waiting


async def test_the_user_of_an_event_has_the_rights_of_that_moment(world: World) -> None:
    """The user is who caused the event, with the role of that moment, not of the connection's start."""
    contexts = contexts_of(world)
    connection = connection_of()
    contexts.open(connection, AsyncMock())
    connection.principal = replace(ADA, role=Role.VIEWER)
    context = contexts.for_event(event_of(connection, principal=connection.principal))
    assert context.user is not None
    assert (context.user.id, context.user.role) == ("ada", "viewer")
    assert context.websocket is not None
