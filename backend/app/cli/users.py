"""`windflow user …`: the users of an organization over REST, and a lost password on the server's own machine."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from backend.app.cli.context import Cli, command
from backend.app.cli.identity import describe_role, read_password
from backend.app.cli.lookup import find_by_name

app = typer.Typer(no_args_is_help=True)

RoleName = Literal["viewer", "operator", "admin"]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="User name (or id).")]
OrganizationOption = Annotated[
    str | None, typer.Option("--org", metavar="NAME", help="Organization (superusers). Default: your own.")
]
PasswordOption = Annotated[bool, typer.Option("--password-stdin", help="Read the password from stdin.")]


@command(app, "add")
async def add(
    cli: Cli,
    name: NameArgument,
    role: Annotated[RoleName, typer.Option("--role", help="What the user may do.")] = "viewer",
    org: OrganizationOption = None,
    password_stdin: PasswordOption = False,
) -> None:
    """Create a user. Without --password-stdin the server makes a password, which is printed once."""
    body: dict[str, Any] = {"username": name, "role": role}
    if password_stdin:
        body["password"] = read_password("", from_stdin=True)
    async with cli.client() as client:
        if org is not None:
            found = await find_by_name(client, "organizations", org, field="name", what="organization")
            body["organizationId"] = found["id"]
        user = await client.post("users", body)
    _result(cli, user, f"Created {role} {name}.")
    _show_password(cli, user.get("password"))


@command(app, "list")
async def list_users(cli: Cli, org: OrganizationOption = None) -> None:
    """List the users of your organization."""
    async with cli.client() as client:
        parameters = {}
        if org is not None:
            found = await find_by_name(client, "organizations", org, field="name", what="organization")
            parameters["organizationId"] = found["id"]
        users = [item async for item in client.items("users", parameters)]
    if cli.output.is_json:
        cli.output.json({"items": users})
        return
    cli.output.table(
        ("ID", "Name", "Role", "Active", "Created"),
        ((u.get("id"), u.get("username"), describe_role(u), u.get("isActive"), u.get("createdAt")) for u in users),
        empty="No users.",
    )


@command(app, "set")
async def set_user(
    cli: Cli,
    name: NameArgument,
    role: Annotated[RoleName | None, typer.Option("--role", help="New role.")] = None,
    org: Annotated[str | None, typer.Option("--org", metavar="NAME", help="Move to this organization.")] = None,
    enable: Annotated[bool, typer.Option("--enable", help="Let a disabled user in again.")] = False,
    password_stdin: PasswordOption = False,
    new_password: Annotated[
        bool, typer.Option("--new-password", help="Have the server make a new password; it is printed once.")
    ] = False,
) -> None:
    """Change a user: role, organization, password; or enable one that was disabled."""
    changes: dict[str, Any] = {}
    if role is not None:
        changes["role"] = role
    if enable:
        changes["isActive"] = True
    if not changes and org is None and not password_stdin and not new_password:
        raise typer.BadParameter("nothing to change: give --role, --org, --enable, --password-stdin or --new-password")
    if password_stdin and new_password:
        raise typer.BadParameter("either a password from stdin or a new one", param_hint="--new-password")
    password = {"password": read_password("", from_stdin=True)} if password_stdin else {}
    generated: str | None = None
    async with cli.client() as client:
        user = await find_by_name(client, "users", name, field="username", what="user")
        if org is not None:
            found = await find_by_name(client, "organizations", org, field="name", what="organization")
            changes["organizationId"] = found["id"]
        if changes:
            user = await client.patch(f"users/{user['id']}", changes)
        if password_stdin or new_password:
            generated = (await client.post(f"users/{user['id']}/password", password)).get("password")
    _result(cli, user if generated is None else {**user, "password": generated}, f"Changed {user.get('username')}.")
    _show_password(cli, generated)


@command(app, "disable")
async def disable(cli: Cli, name: NameArgument) -> None:
    """Lock a user out at once: logins, tokens and open connections end."""
    async with cli.client() as client:
        user = await find_by_name(client, "users", name, field="username", what="user")
        user = await client.patch(f"users/{user['id']}", {"isActive": False})
    _result(cli, user, f"Disabled {user.get('username')}.")


@command(app, "delete")
async def delete(cli: Cli, name: NameArgument) -> None:
    """Delete a user."""
    async with cli.client() as client:
        user = await find_by_name(client, "users", name, field="username", what="user")
        await client.delete(f"users/{user['id']}")
    _result(cli, user, f"Deleted {user.get('username')}.")


@command(app, "reset-password")
async def reset_password(
    cli: Cli,
    name: NameArgument,
    password_stdin: PasswordOption = False,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="Folder of the server. Default: data.")] = None,
) -> None:
    """Give a user a new password, on the server's own machine: the way back in for a superuser.

    Works on the database itself, with the server's settings (WINDFLOW_… or windflow.toml), whether the
    server runs or not. All sessions of the user end.
    """
    from backend.app.cli.local_database import open_database
    from backend.app.config import Settings
    from backend.app.operations.bootstrap import reset_password as reset

    password = read_password("", from_stdin=True) if password_stdin else None
    given: dict[str, Any] = {} if data_dir is None else {"data_dir": data_dir}
    settings = Settings(**given)
    async with open_database(settings) as database:
        made = await reset(database, name, password, min_length=settings.password_min_length)
    shown = None if password_stdin else made
    if cli.output.is_json:
        cli.output.json({"username": name, "password": shown})
    cli.output.say(f"Changed the password of {name}; all sessions ended.")
    _show_password(cli, shown)


def _show_password(cli: Cli, password: str | None) -> None:
    if password is not None:
        cli.output.say(f"Password, shown only now: {password}")


def _result(cli: Cli, user: Any, sentence: str) -> None:
    if cli.output.is_json:
        cli.output.json(user)
    cli.output.say(sentence)
