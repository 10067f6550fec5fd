"""Writes docs/reference/ from the code, so that the reference cannot fall behind it.

`make docs` runs it; `make check` runs it with `--check`, which writes nothing, names every stale
file and exits with 1. Invariant: the pages depend on the code alone, on no setting and no machine.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer.main
from prometheus_client.metrics import MetricWrapperBase

from backend.app import metrics
from backend.app.cli import failures
from backend.app.cli.app import app as command_tree
from backend.app.config import CLIENT_NAMES, PREFIX, Settings
from backend.app.schemas.errors import MEANING, STATUS, ErrorCode
from backend.app.schemas.messages import CLOSE_CODES, AuthFailure
from backend.app.schemas.websocket_events import CORE_EVENTS
from scripts.reference_markdown import code, field_table, literal, table, words
from scripts.reference_rest import rest_page

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference"
MARK = "<!-- Written by scripts/reference.py (make docs). Change the code, not this file. -->\n\n"

CLIENT_VARIABLES: Mapping[str, str] = {
    "SERVER_URL": "Address of the server that commands talk to. Default: the last login, else `http://127.0.0.1:8000`.",
    "TOKEN": "API token that commands use instead of the stored login: for CI jobs.",
    "CONFIG_DIR": "Folder of the stored logins. Default: the platform's place for a user's configuration.",
    "SPOOL_DIR": "Folder of what `deploy` keeps while a server is away. Default: the platform's place for a program's "
    "state (Linux: `~/.local/state/windflow/spool`).",
    "SPOOL_BYTES": "Most bytes that are kept of one deployment, at least 1048576. Default: 1073741824. Beyond it the "
    "oldest unsent lines become one counted marker line.",
    "RUNNER_HEARTBEAT_SECONDS": "Longest time without a report while a command runs; must be well below the server's "
    "`WINDFLOW_DEPLOYMENT_LEASE_SECONDS`. Default: 15.",
}
"""What the command line client reads. A test compares the names with `CLIENT_NAMES`."""


def events_page() -> str:
    """Return the catalogue: every event with its class, audience, senders and payload."""
    parts = [
        "# Events\n\n"
        "The catalogue of `backend/app/schemas/websocket_events.py`. How each class is kept and delivered stands in "
        "[protocol.md](../protocol.md#events). The server itself may send every event; “Senders” are those besides "
        "it. Payloads keep fields that the catalogue does not know.\n\n"
    ]
    rows = []
    for spec in CORE_EVENTS:
        senders = ", ".join(sorted(sender.value for sender in spec.senders)) or "–"
        audience = spec.audience.value if spec.is_pushed else f"{spec.audience.value}; only as a reply, never pushed"
        is_audited = "yes" if spec.audited else ""
        rows.append((f"[{spec.name}](#{spec.name.lower()})", spec.delivery.value, audience, senders, is_audited))
    parts.append(table(("Event", "Class", "Audience", "Senders", "Audited"), rows))
    for spec in CORE_EVENTS:
        schema = spec.payload.model_json_schema(by_alias=True)
        parts.append(f"## {spec.name}\n\n{spec.description}\n\n")
        if spec.subject_field:
            parts.append(f"Its subject, for order and for subscriptions to one, is {code(spec.subject_field)}.\n\n")
        parts.append(field_table(schema, schema.get("$defs", {})))
    return "".join(parts)


def settings_page() -> str:
    """Return every setting with default, values and reason."""
    schema = Settings.model_json_schema()
    rows = []
    for name, field in Settings.model_fields.items():
        # What is computed may depend on the machine, or is an empty list: the description says how.
        default = field.default if field.default_factory is None else None
        shown = "" if default in (None, "", [], {}) else code(literal(default))
        values = words(schema["properties"][name], schema.get("$defs", {})).removesuffix(" or null")
        rows.append((code(f"{PREFIX}{name.upper()}"), shown, values, field.description or ""))
    client = [(code(PREFIX + name), CLIENT_VARIABLES[name]) for name in CLIENT_NAMES]
    return (
        "# Settings\n\n"
        "A server reads them once, when it starts: from `WINDFLOW_…` environment variables, else from `windflow.toml` "
        "in its working folder, where a name has neither the prefix nor capitals (`port = 9000`). Options of `windflow "
        "serve` go first. A name that nobody knows is logged as a warning with the nearest known one. Durations are in "
        "seconds, sizes in bytes; a list is comma-separated in the environment.\n\n"
        + table(("Setting", "Default", "Value", "Meaning"), rows)
        + "## The command line client\n\n"
        + table(("Variable", "Meaning"), client)
    )


def errors_page() -> str:
    """Return the error codes and the close codes."""
    errors = [(code(each.value), STATUS[each], MEANING[each]) for each in ErrorCode]
    closes = [(int(each), rule.meaning, rule.duty) for each, rule in CLOSE_CODES.items()]
    reasons = "".join(f"- {code(each.value)}\n" for each in AuthFailure)
    return (
        "# Error and close codes\n\n## Error codes\n\n"
        "The same codes in REST answers (`{code, message, details, requestId}`, with this status) and in "
        "`WEBSOCKET_ERROR` (`{code, message, details}`, without one). `details` is a list of `{field, rule}` where "
        "fields broke rules, an object with facts of the code's own, or null.\n\n"
        + table(("Code", "Status", "Meaning"), errors)
        + "## Close codes\n\nThe server ends a WebSocket with one of these. The layer below it may end it with 1002 (a "
        "broken frame: do not retry); a connection that is lost without a "
        "close frame is 1006, and like 4012, too.\n\n" + table(("Code", "Meaning", "The client's duty"), closes)
        + f"The reason of a close with 1008 is one of:\n\n{reasons}"
    )  # fmt: skip


def commands() -> Iterator[tuple[str, Any]]:
    """Yield every command of the command line with its full name, in the order of `--help`."""
    waiting: list[tuple[str, Any]] = [("windflow", typer.main.get_command(command_tree))]
    while waiting:
        name, command = waiting.pop(0)
        if hasattr(command, "commands"):
            waiting = [(f"{name} {each}", sub) for each, sub in command.commands.items()] + waiting
        elif not command.hidden:
            yield name, command


def cli_page() -> str:
    """Return every command with its arguments and options."""
    root: Any = typer.main.get_command(command_tree)
    of_all = {param.name for param in root.commands["status"].params}
    shared = [param for param in root.params if param.name in of_all and param.name != "help"]
    left_out = {param.name for param in shared} | {"help"}
    names = [f"- [{name}](#{name.replace(' ', '-')})\n" for name, _ in commands()]
    status = table(
        ("Status", "Meaning"),
        [
            (failures.OK, "done"),
            (failures.FAILED, "failed"),
            (failures.USAGE, "wrong usage"),
            (failures.NO_ACCESS, "not logged in, or not allowed"),
            (failures.UNREACHABLE, "no server there"),
        ],
    )
    parts = [
        "# Command line\n\n`windflow --help` and `windflow COMMAND --help` show the same. `windflow --version` prints "
        "the version.\n\n", "".join(names), "\n## Exit status\n\n", status,
        "`deploy` and `watch ID` exit as the command that was deployed; see there.\n\n## Options of every command\n\n",
        _option_table(shared),
    ]  # fmt: skip
    for name, command in commands():
        own = [param for param in command.params if param.name not in left_out]
        arguments = [param for param in own if param.param_type_name == "argument"]
        usage = " ".join([name, "[OPTIONS]", *(_argument(param) for param in arguments)])
        parts.append(f"## {name}\n\n```text\n{usage}\n```\n\n{_paragraphs(command.help or '')}\n\n")
        if own:
            parts.append(_option_table(own))
    return "".join(parts)


def _argument(param: Any) -> str:
    name = (param.metavar or param.name).upper().strip("[]")
    return f"{name}{'...' if param.nargs == -1 else ''}" if param.required else f"[{name}]"


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip()))


def _option_table(params: Iterable[Any]) -> str:
    rows = []
    for param in params:
        is_argument = param.param_type_name == "argument"
        names = code(_argument(param)) if is_argument else ", ".join(code(name) for name in param.opts)
        choices = ", ".join(code(choice) for choice in _choices(param))
        has_default = param.default is not None and param.default is not False and not is_argument
        default = f"default {code(param.default)}" if has_default else ""
        rows.append((names, param.help or "", "; ".join(part for part in (choices, default) if part)))
    return table(("", "Meaning", "Values"), rows)


def _choices(param: Any) -> tuple[Any, ...]:
    annotation = param.type_descriptor.annotation
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def metrics_page() -> str:
    """Return every metric of `/metrics`."""
    rows = []
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.describe()
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = ", ".join(code(label) for label in getattr(metric, "_labelnames", ()))
            rows.append((code(name), family.type, labels, family.documentation))
    return (
        "# Metrics\n\n`GET /metrics` prints them in the Prometheus text format, with those of the process and of "
        "Python itself (`process_…`, `python_info`). Durations are in seconds, sizes in bytes; no id is a label. A "
        "histogram has the usual `_bucket`, `_sum` and `_count`.\n\n"
        + table(("Metric", "Kind", "Labels", "Meaning"), rows)
    )


def pages() -> dict[str, str]:
    """Return every file of docs/reference that is written from the code, by name."""
    made = {
        "events.md": events_page(),
        "errors-and-close-codes.md": errors_page(),
        "rest.md": rest_page(),
        "cli.md": cli_page(),
        "settings.md": settings_page(),
        "metrics.md": metrics_page(),
    }
    links = "".join(f"- [{text.splitlines()[0].removeprefix('# ')}]({name})\n" for name, text in made.items())
    made["README.md"] = (
        f"# Reference\n\nWritten from the code by `make docs`; `make check` fails when it is stale.\n\n{links}\n"
        "Measured by `make bench` and `make prove`:\n\n- [Figures](figures.md)\n"
    )
    return {name: MARK + text.rstrip() + "\n" for name, text in made.items()}


def stale(folder: Path = FOLDER) -> list[str]:
    """Return the names of files that differ from what the code says, or that it does not write any more."""
    made = pages()
    differing = [name for name, text in made.items() if not _is(folder / name, text)]
    left = [
        path.name for path in sorted(folder.glob("*.md")) if path.name not in made and MARK in path.read_text("utf-8")
    ]
    return differing + left


def _is(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()


def main(arguments: Sequence[str] | None = None, folder: Path = FOLDER) -> int:
    """Write the pages, or with `--check` compare them; return the exit status."""
    parser = argparse.ArgumentParser(description="Write docs/reference from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 and name the stale files")
    is_check = parser.parse_args(arguments).check
    found = stale(folder)
    if is_check:
        for name in found:
            print(f"docs/reference/{name} is stale: run `make docs`")
        return 1 if found else 0
    folder.mkdir(parents=True, exist_ok=True)
    made = pages()
    for name in found:
        if name in made:
            (folder / name).write_bytes(made[name].encode())
        else:
            (folder / name).unlink()
        print(f"docs/reference/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
