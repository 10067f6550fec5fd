"""The command tree: every group mounted, the options all commands share, errors to exit statuses.

Run by `main` and by tests through `run(arguments)`, which never raises.
"""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from backend.app.cli import (
    contract,
    database,
    deploy,
    deployments,
    identity,
    organizations,
    plugin_reload,
    plugins,
    serve,
    spool,
    tokens,
    users,
    watch,
)
from backend.app.cli.context import JsonOption, NoColorOption, Options, ServerOption, VerboseOption
from backend.app.cli.failures import FAILED, INTERRUPTED, report

app = typer.Typer(
    name="windflow",
    help="WindFlow: run deployments that everybody can watch.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from backend.app.version import VERSION

        print(f"windflow {VERSION}")
        raise typer.Exit


@app.callback()
def shared(
    ctx: typer.Context,
    server: ServerOption = None,
    is_json: JsonOption = False,
    is_plain: NoColorOption = False,
    is_verbose: VerboseOption = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """WindFlow: run deployments that everybody can watch.

    Exit status: 0 done, 1 failed, 2 wrong usage, 3 not logged in or not allowed, 4 server not reachable.
    """
    if not isinstance(ctx.obj, Options):
        ctx.obj = Options()
    ctx.obj.merge(server, is_json, is_plain, is_verbose)


serve.add_to(app)
identity.add_to(app)
deploy.add_to(app)
watch.add_to(app)
deployments.add_to(app)
app.add_typer(users.app, name="user", help="Users of your organization.")
app.add_typer(organizations.app, name="org", help="Organizations (superusers).")
app.add_typer(tokens.app, name="token", help="Your API tokens, for CI jobs.")
app.add_typer(contract.app, name="contract", help="Event types for other languages.")
plugin_reload.add_to(plugins.app)
app.add_typer(plugins.app, name="plugin", help="Plugins of the server.")
app.add_typer(spool.app, name="spool", help="What deployments left on this machine while their server was away.")
app.add_typer(database.app, name="db", help="The database of this machine's server.")


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status; errors are one line on stderr."""
    options = Options()
    try:
        app(list(arguments), prog_name="windflow", obj=options)
    except SystemExit as ended:
        return _status(ended)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Who read the output has left. Python would complain when it flushes at exit: give it somewhere to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:  # noqa: BLE001 - the outermost frame: a person gets a line, not a traceback
        return report(error, is_verbose=options.is_verbose)
    return 0


def _status(ended: SystemExit) -> int:
    if ended.code is None:
        return 0
    return ended.code if isinstance(ended.code, int) else FAILED
