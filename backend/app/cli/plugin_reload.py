"""`windflow plugin reload`: a plugin's code is loaded anew on the running server."""

from urllib.parse import quote

import typer

from backend.app.cli.context import Cli, command
from backend.app.cli.plugins import NameArgument


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    command(app, "reload")(reload)


async def reload(cli: Cli, name: NameArgument) -> None:
    """Load a plugin's code anew while connections stay open; what cannot work changes nothing (superusers)."""
    async with cli.client() as client:
        found = await client.post(f"plugins/{quote(name, safe='')}/reload")
    if cli.output.is_json:
        cli.output.json(found)
    else:
        cli.output.say(f"Plugin {name} is reloaded: generation {found.get('generation')}.")
