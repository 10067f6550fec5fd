"""How the servers of this folder start: a free port of this machine, printed as JSON, then uvicorn with uvloop."""

import json
import socket
from typing import Any

import uvicorn


def listener() -> socket.socket:
    """Return a listening socket on a free port of 127.0.0.1, and print the port."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=4096)
    print(json.dumps({"port": listening.getsockname()[1]}), flush=True)
    return listening


def serve(app: Any) -> None:
    """Serve with stock uvicorn: uvloop, the sans-I/O WebSocket protocol, no compression, no access log."""
    config = uvicorn.Config(
        app,
        loop="uvloop",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        log_level="warning",
        access_log=False,
    )
    uvicorn.Server(config).run(sockets=[listener()])
