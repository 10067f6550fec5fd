"""`windflow token …`: the API tokens of the logged-in user."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import typer

from backend.app.cli.context import Cli, command
from backend.app.cli.lookup import find_by_name

app = typer.Typer(no_args_is_help=True)


@command(app, "add")
async def add(
    cli: Cli,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the token is for.")],
    role: Annotated[
        Literal["viewer", "operator", "admin"], typer.Option("--role", help="What it may do; at most your own role.")
    ] = "operator",
    days: Annotated[int | None, typer.Option("--days", min=1, max=36_500, help="It ends after so many days.")] = None,
) -> None:
    """Make an API token, for WINDFLOW_TOKEN in a CI job. It is printed once and can be revoked."""
    body: dict[str, Any] = {"name": name, "role": role}
    if days is not None:
        moment = datetime.now(UTC) + timedelta(days=days)
        body["expiresAt"] = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    async with cli.client() as client:
        token = await client.post("auth/tokens", body)
    if cli.output.is_json:
        cli.output.json(token)
        return
    cli.output.warn(f"made the {role} token {name}; it is shown only now:")
    print(token["secret"])


@command(app, "list")
async def list_tokens(cli: Cli) -> None:
    """List your API tokens; the secrets are not kept and cannot be shown."""
    async with cli.client() as client:
        items = [item async for item in client.items("auth/tokens")]
    if cli.output.is_json:
        cli.output.json({"items": items})
        return
    cli.output.table(
        ("ID", "Name", "Role", "Created", "Ends"),
        (tuple(item.get(key) for key in ("id", "name", "role", "createdAt", "expiresAt")) for item in items),
        empty="No tokens.",
    )


@command(app, "revoke")
async def revoke(
    cli: Cli, name: Annotated[str, typer.Argument(metavar="NAME", help="The token's name (or id).")]
) -> None:
    """Revoke an API token: it and its open connections end at once."""
    async with cli.client() as client:
        token = await find_by_name(client, "auth/tokens", name, field="name", what="token")
        await client.delete(f"auth/tokens/{token['id']}")
    if cli.output.is_json:
        cli.output.json(token)
    cli.output.say(f"Revoked token {token.get('name')}.")
