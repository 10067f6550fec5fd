"""The check of files that people wrote: other names, other spelling, other order."""

from typing import Literal

import pytest
from pydantic import BaseModel

from backend.app.contract.check import differences
from backend.app.contract.typescript import generate
from backend.app.schemas.event_spec import Audience, Delivery, EventCatalogue, EventSpec, Payload
from backend.app.schemas.websocket_events import core_catalogue

BY_HAND = """\
/* WebSocket events - keep in sync with the back end! */
import type { Ref } from 'vue'

export enum WebSocketEventType {
    // Deployments
    DEPLOYMENT_PROGRESS = "DEPLOYMENT_PROGRESS", DEPLOYMENT_STATUS_CHANGED = "DEPLOYMENT_STATUS_CHANGED",
    DEPLOYMENT_LOGS_UPDATE = "DEPLOYMENT_LOGS",
    // Heartbeat
    WEBSOCKET_PING = "WEBSOCKET_PING",
    PLUGIN_HELLO = "PLUGIN_HELLO"
}

export enum DeploymentStatus { Pending = 'pending', Running = 'running', Success = 'success', Failed = 'failed' }

interface Base {
    deploymentId: string
}

export interface DeploymentProgressPayload extends Base {
    progress: number,
    etaSeconds: number
    currentStep?: number | null
    totalSteps?: number
    message?: string
}

export type DeploymentStatusChangedData = Base & {
    newStatus: DeploymentStatus
    oldStatus?: 'pending' | 'running' | 'success' | 'failed' | 'cancelled'
    deploymentName?: string
    reason?: string
    exitCode?: string
}

export interface DeploymentLogsUpdateEvent {
    type: WebSocketEventType.DEPLOYMENT_LOGS_UPDATE
    data: { deploymentId: string; logs: string[]; firstLine?: number; times?: (Date | null)[];
            streams?: ("err" | "out")[]; levels?: Array<string | null> }
}

export function isEvent(x: unknown): x is WebSocketEventType { return typeof x === 'string' && x in WebSocketEventType }
"""

EXPECTED = """\
AUTH_LOGIN_SUCCESS is missing
DEPLOYMENT_LOGS_UPDATE: its value is 'DEPLOYMENT_LOGS' in the file
PLUGIN_HELLO is in the file, not in the catalogue
AuthLoginSuccess: the file declares no payload type for AUTH_LOGIN_SUCCESS
DeploymentProgressPayload.step is missing
DeploymentProgressPayload.etaSeconds: optional in the catalogue, required in the file
DeploymentProgressPayload.message is in the file, not in the catalogue
DeploymentStatusChangedData.newStatus: 'pending' | 'running' | 'success' | 'failed' | 'cancelled' in the catalogue, \
'pending' | 'running' | 'success' | 'failed' in the file
DeploymentStatusChangedData.exitCode: number in the catalogue, string in the file
DeploymentLogsUpdateEvent.data.times[]: its type cannot be read, so it was not compared: \
Date, which the file does not declare
WebSocketHeartbeat: the file declares no payload type for WEBSOCKET_PING
"""


class Step(BaseModel):
    name: str
    steps: list["Step"] = []


class Built(Payload):
    root: Step
    last: Step | None = None
    either: Step | int
    counts: dict[str, int]
    place: tuple[int, str]
    kind: Literal["a", "b"] | None


BUILT = EventCatalogue([EventSpec("BUILT", Built, Delivery.STREAM, Audience.USER, frozenset(), "", owner="p")])

BUILT_BY_HAND = """\
export const WebSocketEventType = { BUILT: 'BUILT' } as const
export type WebSocketEventType = (typeof WebSocketEventType)[keyof typeof WebSocketEventType]
const Kind = Object.freeze({ A: 'a', B: 'b' } as const)
type Kind = typeof Kind[keyof typeof Kind]
type Node = { name: string, steps?: Node[] }
export type BuiltPayload = {
  root: Node
  last?: Node | null
  either: number | Node
  counts: { [name: string]: number }
  place: [number, string]
  kind: Kind | null
}
"""


def sentences(text: str, catalogue: EventCatalogue) -> list[str]:
    return [str(each) for each in differences(text, catalogue)]


def differs(where: str, wanted: str, given: str) -> str:
    return f"{where}: {wanted} in the catalogue, {given} in the file"


def unread(where: str, text: str) -> str:
    return f"{where}: its type cannot be read, so it was not compared: {text}"


def test_every_difference_of_a_file_written_by_hand_is_named() -> None:
    """`contract check FILE` names every difference of any types.ts."""
    found = sentences(BY_HAND, core_catalogue())
    for line in EXPECTED.splitlines():
        assert line in found
    declared = ("DeploymentProgressPayload", "DeploymentStatusChangedData", "DeploymentLogsUpdateEvent")
    named = {line for line in EXPECTED.splitlines() if line.startswith(declared)}
    assert len([line for line in found if line.startswith(declared)]) == len(named)
    assert len([line for line in found if line.endswith(" is missing") and "." not in line]) == 15
    assert len([line for line in found if "no payload type" in line]) == 16


def test_const_objects_aliases_and_recursive_types_are_followed() -> None:
    """What means the same is no difference."""
    assert sentences(BUILT_BY_HAND, BUILT) == []


def test_a_union_of_strings_will_do_for_the_enum() -> None:
    """A third way to list the events."""
    text = BUILT_BY_HAND.split("const Kind")[1]
    assert sentences(f"type WebSocketEventType = 'BUILT'\nconst Kind{text}", BUILT) == []
    assert sentences(f"type WebSocketEventType = 'BUILD' | 'BUILT'\nconst Kind{text}", BUILT) == [
        "BUILD is in the file, not in the catalogue"
    ]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "steps?: Node[]",
            "steps?: string[]",
            differs("BuiltPayload.root.steps[]", "{ name: string; steps?: Step[] }", "string"),
        ),
        ("name: string, steps", "name: number, steps", differs("BuiltPayload.root.name", "string", "number")),
        (
            "either: number | Node",
            "either: Node",
            differs("BuiltPayload.either", "Step | number", "{ name: string; steps?: Node[] }"),
        ),
        ("[name: string]: number", "[name: string]: string", differs("BuiltPayload.counts[key]", "number", "string")),
        ("[name: string]: number", "", differs("BuiltPayload.counts", "any field is allowed", "none")),
        (
            "place: [number, string]",
            "place: [string, number]",
            differs("BuiltPayload.place", "[number, string]", "[string, number]"),
        ),
        ("kind: Kind | null", "kind: Kind", differs("BuiltPayload.kind", "'a' | 'b' | null", "'a' | 'b'")),
        ("B: 'b'", "C: 'c'", differs("BuiltPayload.kind", "'a' | 'b' | null", "'a' | 'c' | null")),
        (
            "steps?: Node[] }",
            "steps?: Node[], [key: string]: unknown }",
            "BuiltPayload.root: the file allows further fields, the catalogue does not",
        ),
        (
            "type Node =",
            "type Node = Node2\ntype Node2 = Node\ntype Unused =",
            unread("BuiltPayload.root", "Node, which is declared as itself"),
        ),
    ],
)
def test_a_difference_inside_of_a_nested_type_is_named_by_its_path(old: str, new: str, sentence: str) -> None:
    """Fields of fields, items of arrays, recursive models."""
    assert old in BUILT_BY_HAND
    assert sentence in sentences(BUILT_BY_HAND.replace(old, new), BUILT)


def test_a_field_after_a_type_without_semicolon_is_its_own() -> None:
    """Words that are also operators are ordinary names of fields."""

    class Words(Payload):
        first: str
        is_: str
        type: int
        keyof: bool | None = None

    catalogue = EventCatalogue([EventSpec("W", Words, Delivery.STREAM, Audience.USER, frozenset(), "")])
    text = generate(catalogue).replace(";\n", "\n")
    assert "  is_: string\n" in text
    assert sentences(text, catalogue) == []
    assert sentences(text.replace("type: number", "type: string"), catalogue) == [
        differs("Words.type", "number", "string")
    ]
