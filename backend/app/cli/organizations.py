"""`windflow org …`: organizations, for superusers."""

from typing import Annotated

import typer

from backend.app.cli.context import Cli, command
from backend.app.cli.lookup import find_by_name

app = typer.Typer(no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The organization's name (or id).")]


@command(app, "add")
async def add(cli: Cli, name: NameArgument) -> None:
    """Create an organization."""
    async with cli.client() as client:
        organization = await client.post("organizations", {"name": name})
    if cli.output.is_json:
        cli.output.json(organization)
    cli.output.say(f"Created organization {name}.")


@command(app, "list")
async def list_organizations(cli: Cli) -> None:
    """List all organizations."""
    async with cli.client() as client:
        items = [item async for item in client.items("organizations")]
    if cli.output.is_json:
        cli.output.json({"items": items})
        return
    cli.output.table(
        ("ID", "Name", "Created"),
        ((item.get("id"), item.get("name"), item.get("createdAt")) for item in items),
        empty="No organizations.",
    )


@command(app, "delete")
async def delete(cli: Cli, name: NameArgument) -> None:
    """Delete an organization that has neither users nor deployments."""
    async with cli.client() as client:
        organization = await find_by_name(client, "organizations", name, field="name", what="organization")
        await client.delete(f"organizations/{organization['id']}")
    if cli.output.is_json:
        cli.output.json(organization)
    cli.output.say(f"Deleted organization {organization.get('name')}.")
