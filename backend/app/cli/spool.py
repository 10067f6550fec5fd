"""`windflow spool`: what deployments left on this machine while their server was away, delivered or dropped."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from backend.app.cli.context import Cli, command
from backend.app.cli.output import age_text

if TYPE_CHECKING:
    from backend.app.runner.spool_folder import Kept, SpoolFolder

app = typer.Typer(no_args_is_help=True)

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The deployment's id.")]


@command(app, "list")
def list_spools(cli: Cli) -> None:
    """List what is kept on this machine for servers that were away."""
    from backend.app.runner.spool_folder import SpoolMissing

    folder = _folder()
    kept = []
    for deployment_id in folder.ids():
        try:
            kept.append(folder.look(deployment_id))
        except SpoolMissing:
            continue  # delivered meanwhile
    if cli.output.is_json:
        cli.output.json({"folder": str(folder.path), "items": [_shown(item) for item in kept]})
        return
    cli.output.table(
        ("ID", "Name", "Server", "Lines", "Size", "Age", "Reason"),
        (
            (
                item.deployment_id,
                item.head.create.get("name") if item.head else None,
                item.head.server_url if item.head else None,
                item.lines,
                size_text(item.size),
                age_text(item.head.made_at) if item.head else None,
                _why(item),
            )
            for item in kept
        ),
        empty="Nothing is kept.",
    )


@command(app, "flush")
async def flush(
    cli: Cli,
    deployment_id: Annotated[str | None, typer.Argument(metavar="ID", help="Only this deployment.")] = None,
    deliver_for: Annotated[
        float, typer.Option("--deliver-for", min=0, help="Seconds without an answer until a server counts as away.")
    ] = 5.0,
) -> int:
    """Deliver what is kept, to the server that each deployment was begun for; --server: only what is for that one.

    What a running `deploy` owns is left to it. What a server refuses is kept, and the reason told.
    """
    from backend.app.cli.spool_flush import Flush

    done = Flush(cli, _folder(), silent_seconds=deliver_for)
    await done.run(deployment_id)
    if cli.output.is_json:
        cli.output.json({"items": done.told})
    elif not done.told:
        cli.output.say("Nothing is kept.")
    return done.exit_status


@command(app, "drop")
def drop(cli: Cli, deployment_id: IdArgument) -> None:
    """Delete what is kept of a deployment without delivering it."""
    from backend.app.client.errors import ClientError
    from backend.app.runner.spool_folder import SpoolMissing, SpoolTaken

    try:
        _folder().drop(deployment_id)
    except SpoolTaken as error:
        raise ClientError(f"{deployment_id} is still running: a process owns what is kept of it") from error
    except SpoolMissing as error:
        raise ClientError(f"nothing is kept of {deployment_id}") from error
    if cli.output.is_json:
        cli.output.json({"deploymentId": deployment_id})
    cli.output.say(f"Dropped what was kept of {deployment_id}.")


def size_text(size: int) -> str:
    """Return a number of bytes in the unit that people read."""
    value = float(size)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def _folder() -> "SpoolFolder":
    from backend.app.cli.runner_settings import runner_settings
    from backend.app.runner.spool_folder import SpoolFolder, default_folder

    return SpoolFolder(default_folder(), runner_settings().spool_bytes)


def _shown(item: "Kept") -> dict[str, Any]:
    end = item.state.end if item.state else None
    return {
        "deploymentId": item.deployment_id,
        "name": item.head.create.get("name") if item.head else None,
        "serverUrl": item.head.server_url if item.head else None,
        "createdAt": item.head.made_at if item.head else None,
        "lines": item.lines,
        "missingLines": item.state.missing if item.state else 0,
        "bytes": item.size,
        "status": end.status if end else None,
        "endedAt": end.at if end else None,
        "isOwned": item.is_owned,
        "isReadable": item.head is not None,
        "refusal": item.state.refusal if item.state else None,
        "folder": str(item.folder),
    }


def _why(item: "Kept") -> str:
    """Say why it is still here."""
    if item.state is None:
        return "damaged: not even its name can be read"
    if item.is_owned:
        return "its command is running" if item.state.end is None else "it is being delivered"
    if item.state.refusal is not None:
        return f"refused: {item.state.refusal}"
    if item.state.end is None:
        return "its runner was killed; not delivered"
    return f"ended: {item.state.end.status}; not delivered"
