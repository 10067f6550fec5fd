"""`windflow plugin reload`: a plugin's code is loaded anew on the running server."""

import typer

from backend.app.cli.context import Cli, command
from backend.app.cli.plugins import NameArgument, act_on


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    command(app, "reload")(reload)


async def reload(cli: Cli, name: NameArgument) -> None:
    """Load a plugin's code anew while connections stay open; what cannot work changes nothing (superusers)."""
    await act_on(cli, name, "reload", "reloaded: generation {generation}")
