"""What every command gets: the options all commands share, output, and the client.

`command` registers a function as a command and adds `--server --json --no-color -v` to it, so that
these work before and after the subcommand.
"""

import asyncio
import functools
import inspect
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backend.app.cli.output import Output

if TYPE_CHECKING:
    from backend.app.client import CredentialStore, WindFlowClient

ServerOption = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        help="Address of the server. Default: WINDFLOW_SERVER_URL, else the last login.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON on stdout, nothing else.")]
NoColorOption = Annotated[bool, typer.Option("--no-color", help="Print without colours.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks of errors.")]


@dataclass
class Options:
    """The options all commands share, from before and after the subcommand together."""

    server: str | None = None
    is_json: bool = False
    is_plain: bool = False
    is_verbose: bool = False

    def merge(self, server: str | None, is_json: bool, is_plain: bool, is_verbose: bool) -> None:
        """Take what was given in one place; flags add up, the last address wins."""
        self.server = server or self.server
        self.is_json |= is_json
        self.is_plain |= is_plain
        self.is_verbose |= is_verbose


@dataclass
class Cli:
    """One run of one command."""

    options: Options
    output: Output = field(init=False)

    def __post_init__(self) -> None:
        self.output = Output(is_json=self.options.is_json, is_plain=self.options.is_plain)

    def store(self) -> "CredentialStore":
        """Return the user's credentials files."""
        from backend.app.client.credentials import CredentialStore, config_dir

        return CredentialStore(config_dir())

    def server_url(self) -> str:
        """Return the server to talk to: `--server`, `WINDFLOW_SERVER_URL`, the last login, this machine's."""
        from backend.app.client.address import DEFAULT_SERVER_URL, normalize_server_url

        given = self.options.server or os.environ.get("WINDFLOW_SERVER_URL")
        try:
            return normalize_server_url(given or self.store().default_server() or DEFAULT_SERVER_URL)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--server") from error

    def client(self, **settings: Any) -> "WindFlowClient":
        """Return a client for the chosen server with `WINDFLOW_TOKEN` or the stored login; `settings` go first."""
        return self.client_for(self.server_url(), **settings)

    def client_for(self, server_url: str, **settings: Any) -> "WindFlowClient":
        """Return a client for a server; `WINDFLOW_TOKEN` is shown to none but the chosen one."""
        from backend.app.client.api import WindFlowClient

        token = os.environ.get("WINDFLOW_TOKEN") or None
        defaults = {
            "token": token if token and server_url == self.server_url() else None,
            "token_origin": "the token in WINDFLOW_TOKEN",
            "store": self.store(),
        }
        return WindFlowClient(server_url, **{**defaults, **settings})


Result = int | None
Command = Callable[..., Result | Coroutine[Any, Any, Result]]

_SHARED: dict[str, tuple[Any, Any]] = {
    "server": (ServerOption, None),
    "is_json": (JsonOption, False),
    "is_plain": (NoColorOption, False),
    "is_verbose": (VerboseOption, False),
}


def command(app: typer.Typer, name: str, **settings: Any) -> Callable[[Command], Command]:
    """Register `function(cli, …)`, plain or async, as a command; it returns its exit status (None is 0)."""

    def register(function: Command) -> Command:
        app.command(name, **settings)(_bind(function))
        return function

    return register


def _bind(function: Command) -> Callable[..., None]:
    """Return the function in the form Typer wants: context first, the shared options last, no result."""

    @functools.wraps(function)
    def run(ctx: typer.Context, **given: Any) -> None:
        options = ctx.find_root().obj
        if not isinstance(options, Options):
            options = Options()
        options.merge(*(given.pop(shared) for shared in _SHARED))
        result = function(Cli(options), **given)
        status = asyncio.run(result) if inspect.iscoroutine(result) else result
        if status:
            raise typer.Exit(int(status))  # type: ignore[arg-type]

    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
        for name, (annotation, default) in _SHARED.items()
    ]
    context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    keywords = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    parameters = [context, *keywords, *shared]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del run.__wrapped__
    return run
