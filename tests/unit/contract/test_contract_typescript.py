"""The generated TypeScript: complete, deterministic, and what is checked in."""

import re
import shutil
import subprocess
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

import backend
from backend.app.contract.check import differences
from backend.app.contract.typescript import generate
from backend.app.schemas.errors import STATUS
from backend.app.schemas.event_spec import Audience, Delivery, EventCatalogue, EventSpec, Payload, Sender
from backend.app.schemas.messages import CloseCode
from backend.app.schemas.websocket_events import CORE_EVENTS, WebSocketEventType, core_catalogue
from tests.services import require_or_skip

ROOT = Path(backend.__file__).parent.parent
FOLDER = ROOT / "frontend" / "src" / "services" / "websocket"

SPECIFIED = [
    "AUTH_LOGIN_SUCCESS",
    "AUTH_LOGOUT",
    "AUTH_TOKEN_REFRESH",
    "SESSION_EXPIRED",
    "SESSION_AUTH_REQUIRED",
    "SESSION_PERMISSION_CHANGED",
    "SESSION_ORGANIZATION_CHANGED",
    "DEPLOYMENT_STATUS_CHANGED",
    "DEPLOYMENT_LOGS_UPDATE",
    "DEPLOYMENT_PROGRESS",
    "DEPLOYMENT_CREATED",
    "DEPLOYMENT_DELETED",
    "NOTIFICATION_SENT",
    "NOTIFICATION_READ",
    "WEBSOCKET_ERROR",
    "WEBSOCKET_PING",
    "WEBSOCKET_PONG",
    "CUSTOM_EVENT",
    "DEPLOYMENT_CANCEL_REQUESTED",
]


class Severity(StrEnum):
    LOW = "low"
    HIGH = "high"


class Step(BaseModel):
    """A step of a build."""

    model_config = ConfigDict(extra="forbid")

    name: str
    steps: list["Step"] = Field(default_factory=list)


class BuildDone(Payload):
    """A build ended.

    It has */ in its text.
    """

    build_id: str = Field(description="Which build.")
    severity: Severity
    root: Step
    place: tuple[int, str]
    counts: dict[str, int]
    answer: Literal["it's", 3, True]
    owner: str | None
    odd_name: int | None = Field(default=None, alias="odd-name")
    at: datetime | list[datetime] | None = None


class BuildDoneStep(Payload):
    """Takes the name that a nested model of BuildDone would have."""

    other: int | str


class DeploymentProgress(Payload):
    """Has the name of a payload of the core."""

    percent: int


def spec(name: str, payload: type[Payload], owner: str, description: str = "One of a plugin.") -> EventSpec:
    return EventSpec(
        name, payload, Delivery.STREAM, Audience.ORGANIZATION, frozenset({Sender.PLUGIN}), description, owner=owner
    )


BUILD_EVENTS = [spec("BUILD_DONE", BuildDone, "build-watch"), spec("BUILD_STEP", BuildDoneStep, "build-watch")]
OTHER_EVENTS = [spec("OTHER_PROGRESS", DeploymentProgress, "another")]


def enum_members(text: str) -> list[tuple[str, str]]:
    body = re.search(r"export enum WebSocketEventType\s*{(.*?)}", text, re.S)
    assert body is not None
    return re.findall(r"(\w+)\s*=\s*['\"](\w+)['\"]", body.group(1))


def test_the_file_in_the_repository_is_what_the_catalogue_generates() -> None:
    """`types.ts` is generated from the catalogue; nobody edits it."""
    assert (FOLDER / "types.ts").read_bytes() == generate(core_catalogue()).encode()


def test_every_specified_event_is_in_the_enum_under_its_own_name() -> None:
    """The names of the events are identical in front end and back end, in UPPER_CASE."""
    members = enum_members(generate(core_catalogue()))
    assert sorted(members) == sorted((name, name) for name in SPECIFIED)
    assert members == [(member.name, member.value) for member in WebSocketEventType]


def test_every_event_has_a_payload_and_metadata() -> None:
    """One interface per payload, one entry per event in each table."""
    text = generate(core_catalogue())
    for each in CORE_EVENTS:
        name = each.payload.__name__
        assert text.count(f"export interface {name} {{") == 1
        assert f"  [WebSocketEventType.{each.name}]: {name};\n" in text
        assert (
            f"  [WebSocketEventType.{each.name}]: {{ delivery: '{each.delivery}', audience: '{each.audience}'" in text
        )


def test_every_error_and_close_code_is_there() -> None:
    """The tables of codes are the same for every client."""
    text = generate(core_catalogue())
    assert all(f"  {code}: {status},\n" in text for code, status in STATUS.items())
    assert all(f"  {code.name}: {code.value},\n" in text for code in CloseCode)


def test_fields_are_camel_case_optional_where_they_may_be_left_out_and_literal_where_they_are() -> None:
    """Payload fields as they cross the wire."""
    text = generate(core_catalogue())
    assert "  deploymentId: string;\n" in text
    assert "  newStatus: 'pending' | 'running' | 'success' | 'failed' | 'cancelled';\n" in text
    assert "  streams?: ('out' | 'err')[];\n" in text
    assert "  times?: (string | null)[];\n" in text
    assert "  details?: unknown;\n" in text
    assert "deployment_id" not in text


def test_the_order_of_registration_of_plugins_does_not_matter() -> None:
    """The same catalogue gives the same text."""
    one = EventCatalogue([*CORE_EVENTS, *BUILD_EVENTS, *OTHER_EVENTS])
    two = EventCatalogue([*OTHER_EVENTS, *CORE_EVENTS, *BUILD_EVENTS])
    assert generate(one) == generate(two) == generate(one)


def test_types_of_plugins_follow_the_core_grouped_by_plugin() -> None:
    """Registering a plugin adds its types to everything generated."""
    text = generate(EventCatalogue([*CORE_EVENTS, *BUILD_EVENTS, *OTHER_EVENTS]))
    names = [name for name, _ in enum_members(text)]
    assert names[len(WebSocketEventType) :] == ["OTHER_PROGRESS", "BUILD_DONE", "BUILD_STEP"]
    assert text.index("// Plugin another") < text.index("OTHER_PROGRESS =") < text.index("// Plugin build-watch")
    assert re.search(r"^  another: '[0-9a-f]{16}',$", text, re.M)
    assert re.search(r'^  "build-watch": \'[0-9a-f]{16}\',$', text, re.M)


def test_every_kind_of_field_is_written_as_typescript() -> None:
    """Nested models, enums, tuples, mappings, literals and odd names of a plugin's payload."""
    text = generate(EventCatalogue(BUILD_EVENTS))
    for line in (
        "  /** Which build. */\n  buildId: string;",
        "  severity: BuildDoneSeverity;",
        "  root: BuildDoneStep2;",
        "  place: [number, string];",
        "  counts: { [key: string]: number };",
        '  answer: "it\'s" | 3 | true;',
        "  owner: string | null;",
        '  "odd-name"?: number;',
        "  at?: string | string[];",
        "export type BuildDoneSeverity = 'low' | 'high';",
        "export interface BuildDoneStep2 {\n  name: string;\n  steps?: BuildDoneStep2[];\n}",
        "/**\n * A build ended.\n *\n * It has *\\/ in its text.\n */",
    ):
        assert line in text, line


def test_two_payloads_of_one_name_get_two_interfaces() -> None:
    """A plugin may name its payload as the core does: the core keeps the name."""
    text = generate(EventCatalogue([*CORE_EVENTS, *OTHER_EVENTS]))
    assert "  [WebSocketEventType.DEPLOYMENT_PROGRESS]: DeploymentProgress;\n" in text
    assert "  [WebSocketEventType.OTHER_PROGRESS]: AnotherDeploymentProgress;\n" in text
    assert "export interface AnotherDeploymentProgress {\n  percent: number;" in text


def test_a_catalogue_with_plugins_has_no_difference_from_its_own_text() -> None:
    """What the generator writes, the check reads."""
    catalogue = EventCatalogue([*CORE_EVENTS, *BUILD_EVENTS, *OTHER_EVENTS])
    assert differences(generate(catalogue), catalogue) == []


@pytest.mark.parametrize("name", ["build.done", "1_DONE", "Done", "É"])
def test_an_event_name_that_cannot_be_an_enum_member_is_refused_by_name(name: str) -> None:
    """Event names are UPPER_CASE."""
    with pytest.raises(ValueError, match=f"{re.escape(name)}.*UPPER_CASE"):
        generate(EventCatalogue([spec(name, BuildDone, "build-watch")]))


def _compiler() -> str:
    found = shutil.which("tsc") or shutil.which("tsc", path=str(ROOT / "frontend" / "node_modules" / ".bin"))
    if found is None or shutil.which("node") is None:
        require_or_skip("node", "no TypeScript compiler: install Node.js and run `npm install` in frontend/")
    return str(found)


@pytest.mark.node
def test_the_typescript_compiles_in_strict_mode(tmp_path: Path) -> None:
    """types.ts with and without plugins, the client and the example of its README compile under `tsc --strict`."""
    example = re.search(r"```ts\n(.*?)```", (FOLDER / "README.md").read_text(encoding="utf-8"), re.S)
    assert example is not None
    files: dict[str, str] = {
        **{path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.ts")},
        "types.ts": generate(core_catalogue()),
        "example.ts": example.group(1),
        "plugins.ts": generate(EventCatalogue([*CORE_EVENTS, *BUILD_EVENTS, *OTHER_EVENTS])),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    options: list[Any] = ["--strict", "--noEmit", "--target", "es2022", "--module", "esnext"]
    command = [_compiler(), *options, "--moduleResolution", "bundler", "--lib", "es2022,dom", *files]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert result.returncode == 0, result.stdout
