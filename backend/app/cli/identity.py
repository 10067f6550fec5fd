"""`windflow login`, `logout`, `status`: who this machine's user is to a server."""

import contextlib
import os
import sys
from typing import Annotated, Any

import typer

from backend.app.cli.context import Cli, command
from backend.app.cli.failures import NO_ACCESS


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    command(app, "login")(login)
    command(app, "logout")(logout)
    command(app, "status")(status)


async def login(
    cli: Cli,
    url: Annotated[str | None, typer.Argument(help="Address of the server.", show_default=False)] = None,
    username: Annotated[str | None, typer.Option("--username", "-u", help="User name. Default: asked for.")] = None,
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password from stdin.")] = False,
    token: Annotated[
        str | None, typer.Option("--token", help="Log in with an API token (wf_…); - reads it from stdin.")
    ] = None,
) -> None:
    """Log in and keep the credentials in your config folder.

    The server becomes the one that later commands talk to.
    """
    if token is not None and (username is not None or password_stdin):
        raise typer.BadParameter("an API token needs neither --username nor --password-stdin", param_hint="--token")
    cli.options.server = url or cli.options.server
    async with cli.client() as client:
        if token is not None:
            user = await client.login_with_token(sys.stdin.readline().strip() if token == "-" else token)
        else:
            username = username or _ask("User name", is_secret=False)
            password = read_password(f"Password of {username} on {client.server_url}", from_stdin=password_stdin)
            await client.login(username, password)
            user = await client.get("auth/me")
    if cli.output.is_json:
        cli.output.json({"server": client.server_url, "user": user})
    cli.output.say(f"Logged in to {client.server_url} as {user.get('username')} ({describe_role(user)}).")
    if os.environ.get("WINDFLOW_TOKEN"):
        cli.output.warn("WINDFLOW_TOKEN is set: commands use that token, not this login")


async def logout(
    cli: Cli,
    everywhere: Annotated[bool, typer.Option("--all", help="End all your sessions, on every device.")] = False,
) -> None:
    """End your session on the server and forget the credentials."""
    # The stored login is what ends: the token in WINDFLOW_TOKEN has no session, and would leave that one alive.
    async with cli.client(token=None) as client:
        if os.environ.get("WINDFLOW_TOKEN"):
            cli.output.warn("WINDFLOW_TOKEN is set: commands go on using that token; windflow token revoke ends it")
        if cli.store().read(client.server_url) is None:
            cli.output.say(f"You are not logged in to {client.server_url}.")
        else:
            await client.logout(everywhere=everywhere)
            cli.output.say(f"Logged out of {client.server_url}.")
    if cli.output.is_json:
        cli.output.json({"server": client.server_url})


async def status(cli: Cli) -> int:
    """Show the server you use and who you are there."""
    from backend.app.client.errors import ApiError, NotLoggedIn

    user: dict[str, Any] | None = None
    system: dict[str, Any] = {}
    reason: str | None = None
    async with cli.client() as client:
        try:
            user = await client.get("auth/me")
        except NotLoggedIn as error:
            reason = error.reason
        else:
            with contextlib.suppress(ApiError):
                system = await client.get("system")
    if cli.output.is_json:
        cli.output.json({"server": client.server_url, "user": user, "system": system or None})
        return NO_ACCESS if user is None else 0
    cli.output.facts(
        {
            "Server": client.server_url,
            "Version": system.get("version"),
            "User": user.get("username") if user else None,
            "Role": describe_role(user) if user else None,
            "Organization": user.get("organizationName") if user else None,
        }
    )
    if reason is not None:
        cli.output.warn(f"{reason}; log in with: windflow login {client.server_url}")
    return NO_ACCESS if user is None else 0


def describe_role(user: dict[str, Any]) -> str:
    """Return a user's role in one word."""
    return "superuser" if user.get("isSuperuser") else str(user.get("role") or "no role")


def read_password(prompt: str, *, from_stdin: bool, is_new: bool = False) -> str:
    """Return a password from stdin's first line, or ask for it (twice if it is new).

    Raises BadParameter where there is nobody to ask.
    """
    if from_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
        if not password:
            raise typer.BadParameter("stdin holds no password", param_hint="--password-stdin")
        return password
    return _ask(prompt, is_secret=True, is_new=is_new)


def _ask(prompt: str, *, is_secret: bool, is_new: bool = False) -> str:
    if not sys.stdin.isatty():
        option = "--password-stdin" if is_secret else "--username"
        raise typer.BadParameter("stdin is no terminal to ask on", param_hint=option)
    return str(typer.prompt(prompt, hide_input=is_secret, confirmation_prompt=is_new, err=True))
