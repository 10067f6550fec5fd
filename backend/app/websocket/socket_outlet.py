"""What the endpoint needs of a socket beyond its way out: receiving, the heartbeat, an end. And which kind it has.

Two kinds: our own protocol class under `windflow serve`, and plain ASGI `send` under any other server.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from starlette.websockets import WebSocket

from backend.app.config import Settings
from backend.app.realtime.connection import Connection
from backend.app.realtime.outlet import Outlet
from backend.app.websocket.frame_protocol import EXTENSION
from backend.app.websocket.heartbeat import Heartbeat
from backend.app.websocket.send_outlet import SendOutlet


class SocketOutlet(Outlet, Protocol):
    """One accepted socket, as the endpoint sees it."""

    async def receive(self) -> Mapping[str, Any]:
        """Return the next ASGI message; `websocket.disconnect` once either side has closed."""

    def watched_by(self, heartbeat: Heartbeat, connection: Connection) -> Callable[[], None]:
        """Have the heartbeat watch this socket, where it can; return the undo."""

    async def stop(self) -> None:
        """Let go of what the outlet runs. The endpoint calls it last."""


def outlet_of(websocket: WebSocket, settings: Settings) -> SocketOutlet:
    """Return the way out that the server offers for an accepted socket."""
    found: SocketOutlet | None = websocket.scope.get("extensions", {}).get(EXTENSION)
    if found is not None:
        return found
    return SendOutlet(
        websocket, high_water_bytes=settings.socket_high_water_bytes, send_seconds=settings.write_stall_seconds
    )
