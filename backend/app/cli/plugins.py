"""`windflow plugin …`: what plugins a server runs, and whether a plugin file would load."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from backend.app.cli.context import Cli, command
from backend.app.cli.failures import FAILED
from backend.app.cli.plugin_new import new
from backend.app.cli.plugin_warnings import warnings

if TYPE_CHECKING:
    from backend.app.websocket.discovery import Discovered

app = typer.Typer(no_args_is_help=True)
command(app, "new")(new)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The plugin's name, as `plugin list` shows it.")]

_SHOWN = (
    ("Name", "name"), ("State", "state"), ("Reason", "reason"), ("Breaker", "breaker"),
    ("Open because", "breakerReason"), ("Called again in seconds", "retryAfterSeconds"), ("Version", "version"),
    ("Generation", "generation"), ("Loaded at", "loadedAt"), ("Last reload failed", "reloadError"),
    ("Event types", "eventTypes"), ("Calls", "calls"), ("Failures", "failures"), ("Over time", "timeouts"),
    ("Abandoned", "abandoned"), ("Refused", "refused"), ("Waiting", "waiting"), ("Skipped", "skipped"),
)  # fmt: skip


@command(app, "list")
async def list_plugins(cli: Cli) -> None:
    """List the server's plugins, with the reason where one failed (superusers)."""
    async with cli.client() as client:
        items = [item async for item in client.items("plugins")]
    if cli.output.is_json:
        cli.output.json({"items": items})
        return
    cli.output.table(
        ("Name", "State", "Breaker", "Version", "Waiting", "Skipped", "Event types", "Reason"),
        (
            (
                item.get("name"),
                item.get("state"),
                item.get("breaker"),
                item.get("version"),
                item.get("waiting"),
                item.get("skipped"),
                "" if item.get("state") == "failed" else ", ".join(item.get("eventTypes") or ("all",)),
                item.get("reason"),
            )
            for item in items
        ),
        empty="No plugins.",
    )


@command(app, "info")
async def info(cli: Cli, name: NameArgument) -> None:
    """Show one plugin: how its calls went, its breaker, its last error (superusers)."""
    async with cli.client() as client:
        found = await client.get(f"plugins/{quote(name, safe='')}")
    if cli.output.is_json:
        cli.output.json(found)
        return
    shown = {**found, "eventTypes": ", ".join(found.get("eventTypes") or ("all",)), "lastError": None}
    cli.output.table(("Field", "Value"), ((field, shown.get(key)) for field, key in _SHOWN if shown.get(key)), empty="")
    if found.get("lastError"):
        cli.output.say(str(found["lastError"]))


@command(app, "disable")
async def disable(cli: Cli, name: NameArgument) -> None:
    """Take a plugin out of service, also after a restart (superusers)."""
    await act_on(cli, name, "disable", "out of service")


@command(app, "enable")
async def enable(cli: Cli, name: NameArgument) -> None:
    """Put a plugin back into service; it gets the events from now on (superusers)."""
    await act_on(cli, name, "enable", "in service")


@command(app, "reset")
async def reset(cli: Cli, name: NameArgument) -> None:
    """Close a plugin's breaker, or start it again if its start failed (superusers)."""
    await act_on(cli, name, "reset", "called again")


async def act_on(cli: Cli, name: str, act: str, done: str) -> None:
    """Ask the server to do something with a plugin; `done` says what it is then, with fields of the answer."""
    async with cli.client() as client:
        found = await client.post(f"plugins/{quote(name, safe='')}/{act}")
    if cli.output.is_json:
        cli.output.json(found)
    elif found.get("state") == "failed":
        cli.output.warn(f"{name}: {found.get('reason')}")
    else:
        cli.output.say(f"Plugin {name} is {done.format_map(found)}.")


@command(app, "check")
def check(
    cli: Cli,
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", exists=True, dir_okay=False, help="Plugin files.")],
) -> int:
    """Load plugin files as the server would, on this machine, and say what is wrong or what they handle."""
    import logging

    from backend.app.websocket.discovery import Outcome, discover_file
    from backend.app.websocket.plugin import WebSocketPluginManager

    # What is wrong is the answer here; the server would log it, too.
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    manager = WebSocketPluginManager()
    try:
        found = [each for file in files for each in discover_file(manager, file)]
    finally:
        logging.disable(before)
    if cli.output.is_json:
        cli.output.json({"items": [_as_json(each, _warnings_of(manager.get(each.name))) for each in found]})
    for each in found:
        plugin = manager.get(each.name)
        if each.outcome is Outcome.REGISTERED and plugin is not None and not cli.output.is_json:
            declared = getattr(type(plugin), "event_types", None)
            types = "every event" if declared is None else ", ".join(str(name) for name in declared) or "no event"
            cli.output.say(f"{each.name}: handles {types}")
            for warning in _warnings_of(plugin):
                cli.output.warn(f"{each.name}: warning: {warning['text']}, line {warning['line']}")
        elif each.outcome is Outcome.FAILED and not cli.output.is_json:
            place = f", line {each.line}" if each.line else ""
            cli.output.warn(f"{each.name}: {each.reason}{place}")
    return FAILED if any(each.outcome is Outcome.FAILED for each in found) else 0


def _warnings_of(plugin: object) -> list[dict[str, Any]]:
    return [] if plugin is None else [{"line": line, "text": text} for line, text in warnings(type(plugin))]


def _as_json(found: "Discovered", warned: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": found.name,
        "outcome": found.outcome.value,
        "location": found.location,
        "reason": found.reason,
        "line": found.line,
        "warnings": warned,
    }
