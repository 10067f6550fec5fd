"""`windflow plugin …`: what plugins a server runs, and whether a plugin file would load."""

from pathlib import Path
from typing import Annotated

import typer

from backend.app.cli.context import Cli, command

app = typer.Typer(no_args_is_help=True)


@command(app, "list")
async def list_plugins(cli: Cli) -> None:
    """List the server's plugins, with the reason where one failed (superusers)."""
    async with cli.client() as client:
        items = [item async for item in client.items("plugins")]
    if cli.output.is_json:
        cli.output.json({"items": items})
        return
    cli.output.table(
        ("Name", "State", "Version", "Event types", "Reason"),
        (
            (
                item.get("name"),
                item.get("state"),
                item.get("version"),
                "" if item.get("state") == "failed" else ", ".join(item.get("eventTypes") or ("all",)),
                item.get("reason"),
            )
            for item in items
        ),
        empty="No plugins.",
    )


@command(app, "check")
def check(cli: Cli, file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A plugin file.")]) -> int:
    """Load a plugin file as the server would, on this machine, and say what is wrong or what it handles."""
    raise NotImplementedError
