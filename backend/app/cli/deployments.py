"""`windflow list`, `show`, `logs`, `cancel`: what deployments there are, and to stop one."""

from typing import Annotated, Any

import typer

from backend.app.cli.ansi import safe_line
from backend.app.cli.context import Cli, command
from backend.app.cli.output import age_text

LOG_PAGE_LINES = 1000

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The deployment's id.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    command(app, "list")(list_deployments)
    command(app, "show")(show)
    command(app, "logs")(logs)
    command(app, "cancel")(cancel)


async def list_deployments(
    cli: Cli,
    status: Annotated[
        str | None, typer.Option("--status", help="Only these: pending, running, success, failed, cancelled.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many at most, newest first.")] = 20,
) -> None:
    """List the deployments of your organization, newest first."""
    async with cli.client() as client:
        items = [item async for item in client.items("deployments", {"status": status}, limit=limit)]
    if cli.output.is_json:
        cli.output.json({"items": items})
        return
    cli.output.table(
        ("ID", "Name", "Status", "Done", "By", "Age"),
        (
            (
                item.get("id"),
                item.get("name"),
                status_text(item),
                percent_text(item),
                item.get("createdByName"),
                age_text(item.get("createdAt")),
            )
            for item in items
        ),
        empty="No deployments. Start one: windflow deploy -- COMMAND",
    )


async def show(cli: Cli, deployment_id: IdArgument) -> None:
    """Show one deployment."""
    from backend.app.client.api import path_segment

    async with cli.client() as client:
        item = await client.get(f"deployments/{path_segment(deployment_id)}")
    if cli.output.is_json:
        cli.output.json(item)
        return
    cli.output.facts(
        {
            "ID": item.get("id"),
            "Name": item.get("name"),
            "Status": item.get("status"),
            "Reason": item.get("reason"),
            "Exit code": item.get("exitCode"),
            "Progress": progress_text(item) or None,
            "Target": item.get("target"),
            "Program": item.get("program"),
            "Lines": item.get("lastLine"),
            "By": item.get("createdByName"),
            "Created": item.get("createdAt"),
            "Started": item.get("startedAt"),
            "Finished": item.get("finishedAt"),
            "Cancel asked for": item.get("cancelRequestedAt"),
        }
    )


async def logs(
    cli: Cli,
    deployment_id: IdArgument,
    from_line: Annotated[
        int, typer.Option("--from-line", help="First line to print; 1 is the start, -n the last n.")
    ] = 1,
    level: Annotated[str | None, typer.Option("--level", help="Only lines of this level.")] = None,
    is_following: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with the lines that come, to the deployment's end.")
    ] = False,
) -> None:
    """Print the log of a deployment, as far as it is written. --json: one object per line.

    --follow survives lost connections: it goes on with the exact line.
    """
    if is_following:
        from backend.app.cli.log_follow import follow_log

        async with cli.client() as client:
            await follow_log(client, cli.output, deployment_id, from_line, level, cli.output.connection_lost)
        return
    from backend.app.client.api import path_segment

    path = f"deployments/{path_segment(deployment_id)}/logs"
    with_colours = cli.output.has_colours
    async with cli.client() as client:
        next_line = from_line
        while True:
            page = await client.get(path, {"fromLine": next_line, "limit": LOG_PAGE_LINES, "level": level})
            for item in page["items"]:
                if cli.output.is_json:
                    cli.output.json(item)
                else:
                    print(safe_line(item["text"], with_colours=with_colours))
            if page["nextLine"] <= next_line or page["nextLine"] > page["lastLine"]:
                return
            next_line = page["nextLine"]


async def cancel(
    cli: Cli,
    deployment_id: IdArgument,
    reason: Annotated[str | None, typer.Option("--reason", help="Why; shown to everybody.")] = None,
) -> None:
    """Ask the runner of a deployment to stop its command; one without a runner is cancelled at once."""
    from backend.app.client.api import path_segment

    async with cli.client() as client:
        answer = await client.request(
            "POST",
            f"deployments/{path_segment(deployment_id)}/cancel",
            body={} if reason is None else {"reason": reason},
        )
    is_asked = answer.status == 202
    if cli.output.is_json:
        cli.output.json(answer.body if answer.body is not None else {"isRunnerAsked": is_asked})
    cli.output.say("The runner was asked to stop the command." if is_asked else "Cancelled: no runner held it.")


def status_text(item: dict[str, Any]) -> str:
    """Return a deployment's status, with the exit status where it failed."""
    code = item.get("exitCode")
    return f"{item.get('status')} ({code})" if code else str(item.get("status"))


def percent_text(item: dict[str, Any]) -> str:
    """Return how far a deployment is; nothing where that is not known."""
    progress = item.get("progress")
    return "" if progress is None else f"{progress:.0f} %"


def progress_text(item: dict[str, Any]) -> str:
    """Return a deployment's progress as people read it: percent and step."""
    return " ".join(part for part in (percent_text(item), item.get("step")) if part)
