"""The check of a types.ts: every kind of difference is named, nothing unreadable is accepted."""

import re
from collections.abc import Callable, Iterator

import pytest

from backend.app.contract.check import differences
from backend.app.contract.typescript import generate
from backend.app.schemas.event_spec import Audience, Delivery, EventCatalogue, EventSpec, Payload
from backend.app.schemas.websocket_events import CORE_EVENTS, core_catalogue

GENERATED = generate(core_catalogue())
FIELD = re.compile(r"^  (\w+)(\??): (.*);$")


def sentences(text: str, catalogue: EventCatalogue | None = None) -> list[str]:
    return [str(each) for each in differences(text, catalogue or core_catalogue())]


def differs(where: str, wanted: str, given: str) -> str:
    return f"{where}: {wanted} in the catalogue, {given} in the file"


def unread(where: str, text: str) -> str:
    return f"{where}: its type cannot be read, so it was not compared: {text}"


def replaced(old: str, new: str, count: int = 1) -> str:
    """The generated text with something else in it; the test fails if there is nothing to replace."""
    assert old in GENERATED, old
    return GENERATED.replace(old, new, count)


def payload_fields() -> Iterator[tuple[str, re.Match[str]]]:
    """Each field line of each payload interface, once."""
    for name in dict.fromkeys(spec.payload.__name__ for spec in CORE_EVENTS):
        body = GENERATED.split(f"export interface {name} {{\n")[1].split("\n}\n")[0]
        for line in body.split("\n"):
            if match := FIELD.match(line):
                yield name, match


def in_every_field(change: Callable[[re.Match[str]], str]) -> str:
    """The generated text with each field line of each payload changed."""
    text = GENERATED
    for name in dict.fromkeys(spec.payload.__name__ for spec in CORE_EVENTS):
        head, rest = text.split(f"export interface {name} {{\n")
        body, tail = rest.split("\n}\n", 1)
        lines = [change(match) if (match := FIELD.match(line)) else line for line in body.split("\n")]
        text = f"{head}export interface {name} {{\n" + "\n".join(lines) + "\n}\n" + tail
    return text


def test_the_generated_text_has_no_difference() -> None:
    """`contract check` of a file that was just built says nothing."""
    assert sentences(GENERATED) == []


# ---- event names -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [spec.name for spec in CORE_EVENTS])
def test_a_missing_event_is_named(name: str) -> None:
    """Each event of the catalogue has to be in the file."""
    assert sentences(replaced(f"  {name} = '{name}',\n", "")) == [f"{name} is missing"]


def test_an_extra_event_is_named_with_its_line() -> None:
    """An event that the catalogue does not have."""
    text = replaced("export enum WebSocketEventType {\n", "export enum WebSocketEventType {\n  EXTRA = 'EXTRA',\n")
    found = differences(text, core_catalogue())
    assert [str(each) for each in found] == ["EXTRA is in the file, not in the catalogue"]
    assert found[0].line is not None
    assert text.split("\n")[found[0].line - 1] == "  EXTRA = 'EXTRA',"


@pytest.mark.parametrize(
    ("member", "sentence"),
    [
        ("AUTH_LOGOUT = 'AUTH_LOGOFF'", "AUTH_LOGOUT: its value is 'AUTH_LOGOFF' in the file"),
        ("AUTH_LOGOUT = 'auth_logout'", "AUTH_LOGOUT: its value is 'auth_logout' in the file"),
        ("AuthLogout = 'AUTH_LOGOUT'", "AUTH_LOGOUT is named AuthLogout in the file"),
        ("AUTH_LOGOUT = 7", "AUTH_LOGOUT: its value in the file is not a string, so it was not compared"),
        ("AUTH_LOGOUT", "AUTH_LOGOUT: its value in the file is not a string, so it was not compared"),
        (
            "AUTH_LOGOUT = 'AUTH_' + 'LOGOUT'",
            "AUTH_LOGOUT: its value in the file is not a string, so it was not compared",
        ),
        ("AUTH_LOGOUT = `AUTH_${X}`", "AUTH_LOGOUT: its value in the file is not a string, so it was not compared"),
    ],
)
def test_a_renamed_event_or_value_is_named(member: str, sentence: str) -> None:
    """Name and value of an event are the same, on both sides."""
    text = replaced("  AUTH_LOGOUT = 'AUTH_LOGOUT',", f"  {member},")
    text = text.replace("[WebSocketEventType.AUTH_LOGOUT]", f"[WebSocketEventType.{member.split(' ')[0]}]")
    assert sentences(text)[0] == sentence


def test_two_events_that_swapped_their_values_are_both_named() -> None:
    """A value that is another event's name is still wrong."""
    text = replaced("AUTH_LOGOUT = 'AUTH_LOGOUT'", "AUTH_LOGOUT = 'X'")
    text = text.replace("SESSION_EXPIRED = 'SESSION_EXPIRED'", "SESSION_EXPIRED = 'AUTH_LOGOUT'").replace(
        "'X'", "'SESSION_EXPIRED'"
    )
    assert sentences(text)[:2] == [
        "AUTH_LOGOUT: its value is 'SESSION_EXPIRED' in the file",
        "SESSION_EXPIRED: its value is 'AUTH_LOGOUT' in the file",
    ]


def test_a_second_name_for_an_event_is_named() -> None:
    """Two members with one value."""
    text = replaced("  AUTH_LOGOUT = 'AUTH_LOGOUT',", "  AUTH_LOGOUT = 'AUTH_LOGOUT',\n  Bye = 'AUTH_LOGOUT',")
    assert sentences(text) == ["Bye is in the file, not in the catalogue"]


def test_a_member_that_stands_twice_is_named() -> None:
    """TypeScript refuses it; so does the check."""
    text = replaced("  AUTH_LOGOUT = 'AUTH_LOGOUT',", "  AUTH_LOGOUT = 'AUTH_LOGOUT',\n  AUTH_LOGOUT = 'AUTH_LOGOUT',")
    assert sentences(text) == ["AUTH_LOGOUT stands twice in WebSocketEventType"]


def test_a_file_without_the_enum_says_so_once() -> None:
    """Importing it from elsewhere is not enough: the check reads one file."""
    text = re.sub(
        r"export enum WebSocketEventType {.*?\n}\n",
        "import { WebSocketEventType } from './e';\n",
        GENERATED,
        flags=re.S,
    )
    assert sentences(text) == [
        "WebSocketEventType: the file declares no enum, const object or union of strings of this name"
    ]


# ---- payload fields ----------------------------------------------------------------------------


def test_every_missing_field_is_named() -> None:
    """Each field of each payload has to be in the file."""
    expected = [f"{name}.{field[1]} is missing" for name, field in payload_fields()]
    assert len(expected) > 50
    assert sentences(in_every_field(lambda _: "")) == expected


def test_every_renamed_field_is_named_under_both_names() -> None:
    """A field that the catalogue does not have."""
    text = in_every_field(lambda field: f"  {field[1]}X{field[2]}: {field[3]};")
    found = sentences(text)
    for name, field in payload_fields():
        assert f"{name}.{field[1]} is missing" in found
        assert f"{name}.{field[1]}X is in the file, not in the catalogue" in found
    assert len(found) == 2 * len(list(payload_fields()))


def test_every_field_that_is_optional_on_one_side_only_is_named() -> None:
    """Optional or required has to be the same on both sides."""
    text = in_every_field(lambda field: f"  {field[1]}{'' if field[2] else '?'}: {field[3]};")
    expected = [
        f"{name}.{field[1]}: "
        + (
            "optional in the catalogue, required in the file"
            if field[2]
            else "required in the catalogue, optional in the file"
        )
        for name, field in payload_fields()
    ]
    assert sentences(text) == expected


def test_every_field_of_another_type_is_named_with_both_types() -> None:
    """The type of a field has to be the same on both sides."""
    text = in_every_field(lambda field: f"  {field[1]}{field[2]}: bigint;")
    found = sentences(text)
    for (name, field), sentence in zip(payload_fields(), found, strict=True):
        assert sentence.startswith(f"{name}.{field[1]}: ")
        assert sentence.endswith(" in the catalogue, bigint in the file")


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "newStatus: 'pending' | 'running'",
            "newStatus: 'pending'",
            differs(
                "DeploymentStatusChanged.newStatus",
                "'pending' | 'running' | 'success' | 'failed' | 'cancelled'",
                "'pending' | 'success' | 'failed' | 'cancelled'",
            ),
        ),
        ("logs: string[]", "logs: string", differs("DeploymentLogsUpdate.logs", "string[]", "string")),
        ("logs: string[]", "logs: number[]", differs("DeploymentLogsUpdate.logs[]", "string", "number")),
        ("progress: number", "progress: any", differs("DeploymentProgress.progress", "number", "unknown")),
        (
            "progress: number",
            "progress: number | null",
            differs("DeploymentProgress.progress", "number", "number | null"),
        ),
        (
            "progress: number",
            "progress: Percent",
            unread("DeploymentProgress.progress", "Percent, which the file does not declare"),
        ),
        (
            "progress: number",
            "progress: EventPayloads['x'] extends string ? number : never",
            unread("DeploymentProgress.progress", "EventPayloads [ 'x' ] extends string ? number : never"),
        ),
        (
            "progress: number",
            "progress: Map<string, number>",
            unread("DeploymentProgress.progress", "Map < string , number >"),
        ),
        (
            "progress: number;",
            "progress(): number;",
            unread("DeploymentProgress.progress", "( ) : number"),
        ),
        (
            "progress: number;",
            "progress: number; progress: number;",
            "DeploymentProgress: a field stands twice in the file",
        ),
        (
            "  etaSeconds?: number;\n  [key: string]: unknown;",
            "  etaSeconds?: number;\n  [key: string]: string | number;",
            differs("DeploymentProgress[key]", "unknown", "string | number"),
        ),
        (
            "[WebSocketEventType.AUTH_LOGOUT]: AuthLogout;",
            "",
            "EventPayloads: AUTH_LOGOUT is missing",
        ),
        (
            "[WebSocketEventType.AUTH_LOGOUT]: AuthLogout;",
            "[WebSocketEventType.AUTH_LOGOUT]?: AuthLogout;",
            "EventPayloads: AUTH_LOGOUT is optional",
        ),
        (
            "[WebSocketEventType.AUTH_LOGOUT]: AuthLogout;",
            "[WebSocketEventType.AUTH_LOGOUT]: AuthLogout; OTHER: AuthLogout",
            "EventPayloads: OTHER is not in the catalogue",
        ),
        (
            "[WebSocketEventType.CUSTOM_EVENT]: CustomEvent;",
            "[WebSocketEventType.CUSTOM_EVENT]: {};",
            differs("EventPayloads.CUSTOM_EVENT", "any field is allowed", "none"),
        ),
        (
            "export interface AuthLogout {",
            "class AuthLogout {",
            unread("AuthLogout", "AuthLogout, which the file does not declare"),
        ),
        (
            "export interface AuthLogout {",
            "interface AuthLogout<T> {",
            unread("AuthLogout", "generic interface AuthLogout"),
        ),
    ],
)
def test_a_changed_payload_is_named(old: str, new: str, sentence: str) -> None:
    """One sentence, that says where and what; what cannot be read is never taken for equal."""
    assert sentences(replaced(old, new)) == [sentence]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("logs: string[]", "logs: Array<string>"),
        ("logs: string[]", "readonly logs: ReadonlyArray<string>"),
        ("logs: string[]", "logs: readonly (string)[]"),
        ("etaSeconds?: number", "etaSeconds?: number | null"),
        ("etaSeconds?: number", "'etaSeconds'?: | number\n    | undefined // seconds"),
        ("details?: unknown", "details?: any"),
        ("  etaSeconds?: number;\n  [key: string]: unknown;", "  etaSeconds?: number,"),
        ("'info' | 'success' | 'warning' | 'error'", '"error" | `warning` | ("success" | "info")'),
        ("export interface CustomEvent {\n  [key: string]: unknown;\n}", "type CustomEvent = Record<string, any>"),
        ("export const CONTRACT_HASH = ", "export const CONTRACT_HASH: string = "),
        ("delivery: 'log', audience: 'organization'", "'audience': 'organization', delivery: \"log\""),
        ("senders: ['api', 'plugin']", "senders: ['plugin', 'api',] as const"),
        ("export enum", "export const enum"),
        ("/** The payload of each event. */", "/* it's { not [ read */ // nor ` this"),
        ("/** The payload of each event. */", "export const size = (x: string): number => { return x.length; };"),
        ("/** The payload of each event. */", "export default function f<T>(x: T): { a: T } {\n  return { a: x }\n}"),
        ("/** The payload of each event. */", "import type { A } from './a'\nexport * from './b'\nexport { A }"),
        ("/** The payload of each event. */", "class A<T> extends B { private x = 'y'; f(): void {} }"),
    ],
)
def test_another_way_to_write_the_same_is_no_difference(old: str, new: str) -> None:
    """Quotes, order, comments, line ends and spelling of types do not matter."""
    assert sentences(replaced(old, new)) == []


def test_windows_line_ends_and_a_byte_order_mark_do_not_matter() -> None:
    """A checkout on another platform."""
    assert sentences("\ufeff" + GENERATED.replace("\n", "\r\n")) == []


def test_semicolons_are_not_needed() -> None:
    """Many projects of the front end write none."""
    assert sentences(GENERATED.replace(";\n", "\n")) == []


# ---- tables ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "delivery: 'log'",
            "delivery: 'stream'",
            differs("EventMeta.DEPLOYMENT_LOGS_UPDATE.delivery", "'log'", "'stream'"),
        ),
        ("delivery: 'log', ", "", "EventMeta.DEPLOYMENT_LOGS_UPDATE.delivery is missing"),
        ("delivery: 'log'", "delivery: LOG", differs("EventMeta.DEPLOYMENT_LOGS_UPDATE.delivery", "'log'", "LOG")),
        (
            "senders: ['client']",
            "senders: ['client', 'api']",
            differs("EventMeta.NOTIFICATION_READ.senders", "['client']", "['api', 'client']"),
        ),
        (
            "export const EventMeta:",
            "export const EventMeta = make();\nconst Other:",
            "EventMeta: cannot be read, so it was not compared",
        ),
        ("  [WebSocketEventType.AUTH_LOGOUT]: { d", "  OTHER: { d", "EventMeta.AUTH_LOGOUT is missing"),
        ("  not_found: 404,", "  not_found: 410,", differs("ERROR_CODES.not_found", "404", "410")),
        ("  not_found: 404,", "", "ERROR_CODES.not_found is missing"),
        ("  NO_PONG: 4012,", "  NO_PONG: 4012, MORE: 4999,", "CLOSE_CODES.MORE is in the file, not in the catalogue"),
    ],
)
def test_a_changed_table_is_named(old: str, new: str, sentence: str) -> None:
    """Delivery, audience, senders and codes are compared where the file has them."""
    assert sentence in sentences(replaced(old, new))


def test_another_fingerprint_is_named() -> None:
    """Rules that TypeScript cannot say are in the fingerprint only."""

    class Narrow(Payload):
        deployment_id: str

    one = EventSpec("A", Narrow, Delivery.STREAM, Audience.USER, frozenset(), "")
    text = generate(EventCatalogue([one])).replace("CONTRACT_HASH = '", "CONTRACT_HASH = 'f")
    found = sentences(text, EventCatalogue([one]))
    assert len(found) == 1
    assert re.fullmatch(r"CONTRACT_HASH: 'f[0-9a-f]{16}' in the file, '[0-9a-f]{16}' is the catalogue's", found[0])
