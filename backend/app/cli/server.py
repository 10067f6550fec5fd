"""Runs the application with uvicorn: from the first signal that is taken to the exit status.

Called by `windflow serve` only. The socket is bound before anything else, so that the printed
port is the real one; a start that fails is told in one line.
"""

import json
import logging
import os
import shutil
import socket
import sys
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

from backend.app.cli.collector import tune_collector
from backend.app.cli.descriptors import log_limits
from backend.app.cli.failures import FAILED, describe
from backend.app.cli.listener import BACKLOG, bind, free_vanished_peers
from backend.app.cli.output import Output
from backend.app.cli.stop_signals import StopSignals
from backend.app.config import Settings

if TYPE_CHECKING:
    from backend.app.websocket.drain import Drain

FALLBACK_PORTS = 100
"""How many further ports `--port-fallback` tries."""

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Any, Any], Awaitable[None]]


def run_server(settings: Settings, output: Output, *, with_port_fallback: bool, is_verbose: bool = False) -> int:
    """Serve until SIGINT or SIGTERM: both end in an orderly shutdown and status 0; a failed start is 1.

    A second signal ends the process at once, with status 128 + its number.
    """
    from backend.app.logs import configure_logging

    configure_logging(settings)
    with StopSignals(settings.drain_seconds) as signals:
        return _listen(settings, output, signals, with_port_fallback=with_port_fallback, is_verbose=is_verbose)


def _listen(
    settings: Settings, output: Output, signals: StopSignals, *, with_port_fallback: bool, is_verbose: bool
) -> int:
    try:
        listener = bind(settings.host, settings.port, further_ports=FALLBACK_PORTS if with_port_fallback else 0)
        free_vanished_peers(listener, settings.tcp_user_timeout_seconds)
    except OSError as error:
        output.warn(f"cannot listen on {settings.host}:{settings.port}: {describe(error)}")
        return FAILED
    with listener:
        port: int = listener.getsockname()[1]
        if settings.port not in (0, port):
            output.say(f"Port {settings.port} is taken; using {port}.")
        settings = settings.model_copy(update={"port": port})
        return _serve(settings, listener, output, signals, is_verbose)


def server_address(settings: Settings) -> str:
    """Return the address for people: `PUBLIC_URL`, else host and port, this machine's for "all addresses"."""
    if settings.public_url:
        return settings.public_url.rstrip("/")
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(settings.host, settings.host)
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return f"http://{host}:{settings.port}{settings.root_path.rstrip('/')}"


def own_command() -> str:
    """Return how a person starts this program in the folder it was started in, whether or not PATH knows it."""
    if shutil.which("windflow"):
        return "windflow"
    script = Path(sys.argv[0])
    return os.path.relpath(script) if script.name == "windflow" and script.is_file() else "windflow"


def banner(settings: Settings, first_admin: Any) -> str:
    """Return what a person needs to begin: address, first login (its password once), login command, reference."""
    address, windflow = server_address(settings), own_command()
    user = f" --username {first_admin.username}" if first_admin else ""
    lines = [f"WindFlow is running on {address}", ""]
    if first_admin and first_admin.password:
        lines.append(f"  First user     {first_admin.username}, password {first_admin.password} (shown only now)")
    elif first_admin:
        lines.append(f"  First user     {first_admin.username}, with the password of WINDFLOW_ADMIN_PASSWORD")
    lines += [
        f"  Log in         {windflow} login {address}{user}",
        f"  Then           {windflow} deploy -- sh -c 'for i in 1 2 3; do echo line $i; sleep 1; done'",
        f"  API reference  {address}/docs",
        "  Stop           Ctrl-C",
    ]
    return "\n".join(lines)


def _serve(settings: Settings, listener: socket.socket, output: Output, signals: StopSignals, is_verbose: bool) -> int:
    from backend.app.cli.draining_server import DrainingServer
    from backend.app.cli.waiting_start import WaitingStart
    from backend.app.main import create_app

    log_limits(settings)
    try:
        app = create_app(settings)
    except Exception as error:  # noqa: BLE001 - a start that fails, for whatever reason, is told in one line
        return _failed(error, output, is_verbose)

    def tell_ready() -> None:
        _tell_ready(settings, output, getattr(app.state, "first_admin", None))

    def drain() -> "Drain | None":
        return app.state.services.drain if start.is_ready else None

    start = WaitingStart(app, settings, on_ready=tell_ready, on_failure=lambda: server.end())
    server = DrainingServer(
        _uvicorn_config(start, settings),
        settings,
        signals,
        find_drain=drain,
        on_ready=lambda: tell_ready() if start.is_ready else None,
    )
    log_filter = _without_startup_failure
    logging.getLogger("uvicorn.error").addFilter(log_filter)
    try:
        server.run(sockets=[listener])
    except SystemExit:
        # How uvicorn ends when the application did not start.
        return _failed(start.failure, output, is_verbose)
    finally:
        logging.getLogger("uvicorn.error").removeFilter(log_filter)
    return 0 if start.failure is None else _failed(start.failure, output, is_verbose)


def _uvicorn_config(application: Application, settings: Settings) -> uvicorn.Config:
    from backend.app.websocket.frame_protocol import frame_protocol
    from backend.app.websocket.http_protocol import http_protocol

    return uvicorn.Config(
        application,
        interface="asgi3",
        lifespan="on",
        http=http_protocol(settings),
        ws=frame_protocol(settings),
        # Sizes, pings and time-outs are the protocol class's own.
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        log_config=None,
        access_log=False,
        server_header=False,
        # Forwarded addresses are believed from nobody: limits count by address.
        proxy_headers=False,
        root_path=settings.root_path,
        backlog=BACKLOG,
    )


def _tell_ready(settings: Settings, output: Output, first_admin: Any) -> None:
    tune_collector()
    if output.is_json:
        admin = {"username": first_admin.username, "password": first_admin.password} if first_admin else None
        print(json.dumps({"url": server_address(settings), "firstAdmin": admin}), flush=True)
    else:
        print(banner(settings, first_admin), flush=True)


def _without_startup_failure(record: logging.LogRecord) -> bool:
    """Leave out uvicorn's line about a failed start: ours says why."""
    return record.getMessage() != "Application startup failed. Exiting."


def _failed(error: BaseException | None, output: Output, is_verbose: bool) -> int:
    if is_verbose and error is not None:
        traceback.print_exception(error)
    reason = describe(error) if isinstance(error, Exception) else str(error or "the application did not start")
    output.warn(f"cannot start: {reason}")
    return FAILED
