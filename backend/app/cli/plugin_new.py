"""`windflow plugin new NAME`: a plugin file and its test, to begin with. Both work as they are."""

import contextlib
import keyword
import re
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from backend.app.cli.context import Cli

_PLUGIN = Template('''"""$name, a plugin for WindFlow."""

from backend.app.schemas.websocket_events import WebSocketEventType
from backend.app.websocket.plugin import PluginContext, WebSocketPlugin


class ${cls}(WebSocketPlugin):
    """Counts the deployments that end, by how they ended, and tells the subscribers of CUSTOM_EVENT."""
$attribute
    event_types = [WebSocketEventType.DEPLOYMENT_STATUS_CHANGED]

    def __init__(self) -> None:
        self.ended: dict[str, int] = {}  # made here, it is shared by all connections

    async def handle_event(self, event_type: str, event_data: dict, context: PluginContext) -> None:
        status = event_data["newStatus"]
        if status not in ("success", "failed", "cancelled"):
            return
        self.ended[status] = self.ended.get(status, 0) + 1
        context.logger.info("deployment ended", extra={"deployment_id": event_data["deploymentId"], "status": status})
        await context.broadcast_to_event_subscribers(WebSocketEventType.CUSTOM_EVENT, {"ended": dict(self.ended)})
''')

_TEST = Template('''"""What the plugin $name does. The fixtures come with WindFlow."""

import asyncio
from pathlib import Path

FILE = Path(__file__).parents[1] / "$name.py"


def test_it_counts_the_deployments_that_end(run_plugin, plugin_context):
    async def scenario():
        async with run_plugin(FILE) as running:
            for status in ("running", "failed"):
                await running.event("DEPLOYMENT_STATUS_CHANGED", {"deploymentId": "d1", "newStatus": status})

    asyncio.run(scenario())
    assert [each.data for each in plugin_context.broadcasts] == [{"ended": {"failed": 1}}]


def test_it_runs_on_a_server(live_server):
    server = live_server(plugins=FILE.parent, plugins_allow="$name")
    assert server.plugin("$name")["state"] == "enabled"
''')


def new(
    cli: Cli,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The plugin's name, for instance failure_bell.")],
    directory: Annotated[Path, typer.Option("--directory", "--dir", metavar="DIR", help="Where to write it.")] = Path(
        "plugins"
    ),
) -> None:
    """Write a plugin, NAME.py, and its test, tests/test_NAME.py; both work as they are."""
    _check_name(name)
    plugin, test = directory / f"{name}.py", directory / "tests" / f"test_{name}.py"
    for file in (plugin, test):
        if file.exists():
            raise typer.BadParameter(f"{file} exists; nothing was written", param_hint="NAME")
    values = {"name": name, **_class(name)}
    test.parent.mkdir(parents=True, exist_ok=True)
    _write(plugin, _PLUGIN.substitute(values))
    try:
        _write(test, _TEST.substitute(values))
    except OSError:
        with contextlib.suppress(OSError):
            plugin.unlink()
        raise
    if cli.output.is_json:
        cli.output.json({"name": name, "plugin": str(plugin), "test": str(test)})
        return
    cli.output.say(f"Wrote {plugin} and {test}.")
    cli.output.say(f"Test it:  python -m pytest {directory}")
    cli.output.say(f"Run it:   WINDFLOW_PLUGINS_DIR={directory} windflow serve")


def _check_name(name: str) -> None:
    """Raise BadParameter with the rule that a name breaks."""
    from backend.app.websocket.plugin_checks import NAME_LENGTH
    from backend.app.websocket.plugins import CORE_MODULES

    rule = None
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        rule = "must be lower-case letters, digits and underscores, and begin with a letter"
    elif len(name) > NAME_LENGTH:
        rule = f"must have at most {NAME_LENGTH} characters, has {len(name)}"
    elif keyword.iskeyword(name):
        rule = "must not be a word of Python's own"
    elif name.endswith("_plugin"):
        rule = f"must not end with _plugin: the class gets that; say {name.removesuffix('_plugin')}"
    elif name in CORE_MODULES:
        rule = "is the name of a plugin that comes with WindFlow"
    if rule is not None:
        raise typer.BadParameter(f"{name!r} {rule}", param_hint="NAME")


def _class(name: str) -> dict[str, str]:
    """Return the class's name, and the line that names the plugin where the class's name does not do that."""
    from backend.app.websocket.plugin_base import name_of

    cls = f"{''.join(part.capitalize() for part in name.split('_'))}Plugin"
    return {"cls": cls, "attribute": "" if name_of(cls) == name else f'\n    name = "{name}"'}


def _write(file: Path, text: str) -> None:
    """Write a new file; one that appeared meanwhile raises FileExistsError and stays as it is."""
    with file.open("x", encoding="utf-8") as sink:
        sink.write(text)
