"""What the environment says about running commands: where spools are, how large, how often a runner gives a sign.

Read by `deploy` and `spool`. Invariant: a value that makes no sense is a usage error that names the variable.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import typer

T = TypeVar("T", int, float)

SPOOL_BYTES = 1_073_741_824
HEARTBEAT_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """The settings of a runner."""

    spool_bytes: int = SPOOL_BYTES
    """Most bytes on disk for one deployment."""
    heartbeat_seconds: float = HEARTBEAT_SECONDS
    """Longest time without a report while a command runs."""


def runner_settings(environment: Mapping[str, str] = os.environ) -> RunnerSettings:
    """Read the settings; raise BadParameter for one that is out of range."""
    from backend.app.runner.spool_store import LEAST_SPOOL_BYTES

    return RunnerSettings(
        spool_bytes=_number(environment, "WINDFLOW_SPOOL_BYTES", int, SPOOL_BYTES, LEAST_SPOOL_BYTES),
        heartbeat_seconds=_number(environment, "WINDFLOW_RUNNER_HEARTBEAT_SECONDS", float, HEARTBEAT_SECONDS, 0.1),
    )


def _number(environment: Mapping[str, str], name: str, read: Callable[[str], T], otherwise: T, least: T) -> T:
    given = environment.get(name)
    if not given:
        return otherwise
    try:
        value = read(given)
    except ValueError:
        value = None
    if value is None or not least <= value < float("inf"):
        kind = "a whole number" if read is int else "a number"
        raise typer.BadParameter(f"{given!r} is not {kind} of at least {least}", param_hint=name)
    return value
