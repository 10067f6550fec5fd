"""`windflow watch`: deployments live in the terminal. The following itself is in `watch_loop.py`."""

from typing import Annotated

import typer

from backend.app.cli.context import Cli, command


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    command(app, "watch")(watch)


async def watch(
    cli: Cli,
    deployment_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="One deployment; default: all.", show_default=False)
    ] = None,
    from_line: Annotated[
        int | None, typer.Option("--from-line", help="Begin at this line of the log; -n: the last n.")
    ] = None,
) -> int:
    """Follow status, progress and output, of one deployment or of all in your organization.

    With an ID: prints its log from the beginning, follows it to its end, and exits with its exit status
    (130 if it was cancelled). Without: follows all until Ctrl-C. --json: one object per line. Lost connections
    are made again; it goes on with the exact line.
    """
    from backend.app.cli.watch_feed import Feed
    from backend.app.cli.watch_loop import follow_all, follow_one

    if from_line is not None and deployment_id is None:
        raise typer.BadParameter("needs the ID of a deployment", param_hint="--from-line")

    async with cli.client() as client:
        feed = Feed(client, cli.output, with_names=deployment_id is None)
        if deployment_id is None:
            return await follow_all(client, feed, cli.output.connection_lost)
        return await follow_one(client, feed, deployment_id, from_line, cli.output.connection_lost)
