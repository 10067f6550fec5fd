"""FastAPI's application with a short way for sockets: no routing, no middleware, nothing held per connection.

Sockets come all at once after a restart, and each one keeps every frame of its call stack as long as it lives.
"""

from collections.abc import Awaitable, Callable, Collection

from fastapi import FastAPI
from starlette._utils import get_route_path
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket


class Application(FastAPI):
    """Set `serve_socket` and `socket_paths` before the first connection."""

    serve_socket: Callable[[WebSocket], Awaitable[None]]
    socket_paths: Collection[str] = ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and get_route_path(scope) in self.socket_paths:
            scope["app"] = self
            await self.serve_socket(WebSocket(scope, receive, send))
        else:
            await super().__call__(scope, receive, send)
