"""`windflow deploy`: its options. The run itself is in `deploy_session.py`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from backend.app.cli.context import Cli, command


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    # What follows the first word of the command belongs to the command, options too.
    settings = {"allow_interspersed_args": False}
    command(app, "deploy", context_settings=settings, no_args_is_help=True)(deploy)


def deploy(
    cli: Cli,
    argv: Annotated[list[str], typer.Argument(metavar="COMMAND", help="The command and its arguments, after `--`.")],
    name: Annotated[str | None, typer.Option("--name", help="Name of the deployment. Default: the program.")] = None,
    target: Annotated[str | None, typer.Option("--target", help="What is deployed to: a host, an environment.")] = None,
    deployment_id: Annotated[
        str | None, typer.Option("--id", help="Id of the deployment (a UUID), made by you. Default: a new one.")
    ] = None,
    progress_regex: Annotated[
        str | None, typer.Option("--progress-regex", help="Finds progress in lines: groups `percent`, `step`.")
    ] = None,
    mask: Annotated[
        list[str] | None,
        typer.Option("--mask", metavar="NAME", help="Mask this variable's value in lines; several: repeat, or commas."),
    ] = None,
    show_command: Annotated[
        bool, typer.Option("--show-command", help="Send the whole command line, not only the program's name.")
    ] = False,
    kill_after: Annotated[
        float, typer.Option("--kill-after", min=0, help="Seconds from TERM to KILL when the command is stopped.")
    ] = 10.0,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0.001, help="Stop the command after so many seconds; exit 124.")
    ] = None,
    deliver_for: Annotated[
        float | None,
        typer.Option(
            "--deliver-for",
            min=0,
            help="Seconds to wait, after the end, for a server that does not answer. Default: 10; with --no-spool 30.",
            show_default=False,
        ),
    ] = None,
    no_spool: Annotated[
        bool, typer.Option("--no-spool", help="Keep nothing on disk; exit 4 if no server is there at the start.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Do not show the command's output here.")] = False,
    cwd: Annotated[
        Path | None, typer.Option("--cwd", exists=True, file_okay=False, help="Folder to run the command in.")
    ] = None,
    no_pty: Annotated[bool, typer.Option("--no-pty", help="Run on a pipe instead of a pseudo-terminal.")] = False,
    split: Annotated[
        bool, typer.Option("--split", help="Keep stdout and stderr apart; their common order is lost.")
    ] = False,
) -> int:
    """Run a command as a deployment that everybody in your organization can watch.

    Its output appears here and at every watcher as it is printed. Lines `##progress 40 Pulling images` set the
    progress. Ctrl-C, or a cancel by somebody else, stops it. Exit status: the command's; 128+n on signal n; 130
    when cancelled; 124 on a time-out; 126 or 127 when it cannot be started. What cannot be delivered never
    changes it: while no server can be reached, also at the start, everything is kept on disk, and delivered by this
    command, by the next one or by `windflow spool flush`.
    """
    from backend.app.cli.deploy_session import DeployOptions, run_deployment
    from backend.app.cli.runner_settings import runner_settings
    from backend.app.runner.progress import ProgressPattern
    from backend.app.runner.spool_folder import is_deployment_id

    pattern: ProgressPattern | None = None
    if progress_regex is not None:
        try:
            pattern = ProgressPattern(progress_regex)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--progress-regex") from error
    if deployment_id is not None and not is_deployment_id(deployment_id):
        raise typer.BadParameter("1 to 64 of the characters A-Z a-z 0-9 . _ -", param_hint="--id")
    options = DeployOptions(
        argv=tuple(argv),
        name=name,
        target=target,
        deployment_id=deployment_id,
        pattern=pattern,
        masked=masked_values(cli, mask or []),
        shows_command=show_command,
        kill_after_seconds=kill_after,
        timeout_seconds=timeout,
        deliver_seconds=deliver_for if deliver_for is not None else 30.0 if no_spool else 10.0,
        is_quiet=quiet,
        cwd=None if cwd is None else str(cwd),
        mode="split" if split else "pipe" if no_pty else "pty",
        has_spool=not no_spool,
        settings=runner_settings(),
    )
    return run_deployment(cli, options)


def masked_values(cli: Cli, given: list[str]) -> tuple[str, ...]:
    """Return the values of the variables that `--mask` names.

    Raises BadParameter for one that is not set: a misspelt name would show the secret. Warns of a value
    too short to be masked.
    """
    from backend.app.runner.masking import is_maskable

    values = []
    for name in (part.strip() for names in given for part in names.split(",")):
        if not name:
            continue
        value = os.environ.get(name)
        if value is None:
            raise typer.BadParameter(f"the variable {name} is not set", param_hint="--mask")
        if not is_maskable(value):
            cli.output.warn(f"the value of {name} is too short to be masked")
        values.append(value)
    return tuple(values)
