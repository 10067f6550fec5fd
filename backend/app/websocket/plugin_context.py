"""What a plugin's hooks are given: the context, the event's envelope, and the connection's plugin copies.

Made by the endpoint (one per connection) and the dispatcher (one per event, by
`dataclasses.replace`); plain data, nothing is validated, so that tests can pass mocks.
Invariant: `dataclasses.replace` keeps the same `ConnectionPlugins`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from backend.app.websocket import containment

if TYPE_CHECKING:
    import asyncio

    from sqlalchemy.ext.asyncio import AsyncSession
    from starlette.websockets import WebSocket

    from backend.app.models.user import User
    from backend.app.websocket.plugin_base import WebSocketPlugin


@dataclass(frozen=True, slots=True)
class EventEnvelope:
    """What is known of the event being handled besides its payload. `id` stays the same if it is handled again."""

    id: str
    type: str
    organization_id: str | None = None
    subject: str | None = None
    hop: int = 0
    """0 for an event of the product, one more for each plugin that caused it."""
    user_id: str | None = None
    """The one user it is addressed to; None: the organization."""
    stream: str | None = None
    offset: int | None = None
    created_at: datetime | None = None


class CopyState(Enum):
    """Where a connection's copy of a plugin is in its life."""

    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"


@dataclass(eq=False, slots=True)
class PluginCopy:
    """One plugin on one connection: the copy that `initialize` ran on, and the tasks it made."""

    registered: WebSocketPlugin
    name: str
    scope: containment.TaskScope
    instance: WebSocketPlugin | None = None
    state: CopyState = CopyState.STARTING
    failure: str | None = None
    """How its `initialize` failed."""
    is_refused: bool = False
    """Its `initialize` was not called for a cause that passes: it is made up for."""
    calls: set[asyncio.Future[None]] = field(default_factory=set)
    """Running handlers, and `initialize` while it runs: clean-up waits for them."""


class ConnectionPlugins:
    """The plugin copies of one connection. Filled by `initialize_all`, emptied by `cleanup_all`."""

    def __init__(self) -> None:
        self.context: PluginContext | None = None
        self._copies: dict[int, PluginCopy] = {}

    def find(self, plugin: WebSocketPlugin) -> PluginCopy | None:
        """Return the connection's copy of a registered plugin, None if it has none."""
        copy = self._copies.get(id(plugin))
        return copy if copy is not None and copy.registered is plugin else None

    def add(self, copy: PluginCopy) -> None:
        """Take a new copy in; it also keeps the registered instance, and so its id, alive."""
        self._copies[id(copy.registered)] = copy

    def take(self, plugin: WebSocketPlugin) -> list[PluginCopy]:
        """Remove and return the copy of one plugin, in a list that is empty if there is none."""
        copy = self._copies.pop(id(plugin), None)
        return [] if copy is None else [copy]

    def take_all(self) -> list[PluginCopy]:
        """Remove and return all copies: who takes them cleans them up, nobody else."""
        copies = list(self._copies.values())
        self._copies.clear()
        return copies


class CreateTask(Protocol):
    """Starts a task that the supervisor contains and that ends with the connection or the plugin."""

    def __call__(self, coroutine: Coroutine[Any, Any, containment.T], /) -> asyncio.Task[containment.T]: ...


@dataclass
class PluginContext:
    """What a plugin can reach. The first six fields are those of the specification, in its order."""

    db: AsyncSession | None
    """None on a running server: no session is kept open; use `session()`."""
    user: User | None
    """Who caused the event; the user `system` (id "system") for what the system did."""
    websocket: WebSocket | None
    """None for an event that was not born on a connection."""
    logger: logging.Logger
    broadcast_to_user: Callable[..., Awaitable[Any]] | None
    """`await broadcast_to_user(user_id, message)`, to all sockets of that user."""
    broadcast_to_event_subscribers: Callable[..., Awaitable[Any]] | None
    """`await broadcast_to_event_subscribers(event_type, data)`, in the organization of the event."""

    event: EventEnvelope | None = None
    """None in the hooks that handle no event."""
    organization_id: str | None = None
    settings: Any = None
    create_task: CreateTask = containment.create_task
    """`create_task(coroutine)`: a task whose failure is logged and which ends with the connection or the plugin."""
    session: Callable[[], AbstractAsyncContextManager[AsyncSession]] | None = None
    """`async with session() as db`: a new database session."""
    send: Callable[[dict[str, Any]], Awaitable[None]] | None = None
    """`await send(message)`, to this connection only; None where there is none."""
    _connection_plugins: ConnectionPlugins = field(default_factory=ConnectionPlugins, repr=False, compare=False)
