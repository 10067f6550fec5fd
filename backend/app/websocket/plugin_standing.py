"""How one registered plugin stands in this process: its tasks, settings, running calls, and whether it may be called.

Kept by the lifecycle, one for each instance, by identity.
"""

import asyncio
from dataclasses import dataclass, field

from pydantic import BaseModel

from backend.app.websocket import containment
from backend.app.websocket.circuit_breaker import CircuitBreaker
from backend.app.websocket.plugin_base import WebSocketPlugin


@dataclass(eq=False, slots=True)
class Standing:
    """How a plugin stands in this process."""

    plugin: WebSocketPlugin
    scope: containment.TaskScope = field(default_factory=containment.TaskScope)
    """The tasks that it made for the whole process."""
    settings: BaseModel | None = None
    """What its hooks find in their contexts."""
    down: str | None = None
    """Why it must not be called: it is starting, or could not be started."""
    trial: CircuitBreaker | None = None
    """Its breaker while it is not yet, or no longer, the one of its name: what it does must not open the other's."""
    calls: set[asyncio.Future[None]] = field(default_factory=set)
    """Running handlers of the registered instance: its stop waits for them."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by its start or stop, so that a stop waits for the start."""
