"""`windflow db …`: acts on the database of this machine's server, not over the network."""

from pathlib import Path
from typing import Annotated, Any

import typer

from backend.app.cli.context import Cli, command

app = typer.Typer(no_args_is_help=True)


@app.callback()
def group() -> None:
    """The database of this machine's server."""


@command(app, "upgrade")
async def upgrade(
    cli: Cli,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="Folder of the server. Default: data.")] = None,
) -> None:
    """Bring the database to the tables of this version; the server does the same at its start."""
    from backend.app import migrations
    from backend.app.config import Settings

    given: dict[str, Any] = {} if data_dir is None else {"data_dir": data_dir}
    before, after = await migrations.upgrade(Settings(**given))
    if cli.output.is_json:
        cli.output.json({"before": before, "after": after})
    is_new = "" if before == after else f" (revision {before or 'none'} → {after})"
    cli.output.say(f"The database is up to date{is_new}.")
