"""`windflow serve`: the server as a command. What it does is in `server.py`."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from backend.app.cli.context import Cli, command


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    command(app, "serve")(serve)


def serve(
    cli: Cli,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on. Default: 127.0.0.1.")] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="Port; 0 takes any free one. Default: 8000.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Folder of database, secret and locks. Default: data.")
    ] = None,
    log_format: Annotated[
        Literal["json", "text"] | None, typer.Option("--log-format", help="Logs for programs or for people.")
    ] = None,
    reload_plugins: Annotated[
        bool, typer.Option("--reload-plugins", help="Reload a plugin of WINDFLOW_PLUGINS_DIR when its file changes.")
    ] = False,
    port_fallback: Annotated[
        bool, typer.Option("--port-fallback", help="If the port is taken, use the next free one and say so.")
    ] = False,
) -> int:
    """Run the server until it is told to stop (Ctrl-C or SIGTERM).

    Every other setting comes from WINDFLOW_… variables or windflow.toml. Logs go to stderr.
    """
    from backend.app.cli.descriptors import raise_descriptor_limit
    from backend.app.cli.server import run_server
    from backend.app.config import Settings

    raise_descriptor_limit()
    given: dict[str, Any] = {"host": host, "port": port, "data_dir": data_dir, "log_format": log_format}
    given["reload_plugins"] = reload_plugins or None
    settings = Settings(**{name: value for name, value in given.items() if value is not None})
    return run_server(settings, cli.output, with_port_fallback=port_fallback, is_verbose=cli.options.is_verbose)
