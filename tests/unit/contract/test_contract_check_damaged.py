"""The check of a damaged types.ts: never fails, accepts nothing that it did not understand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.app.contract.check import differences
from backend.app.contract.typescript import generate
from backend.app.schemas.websocket_events import CORE_EVENTS, core_catalogue
from tests.proving import amount

GENERATED = generate(core_catalogue())


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("namespace X { export type A = 1 }", "not understood: `namespace`"),
        ("declare global { interface Window { a: 1 } }", "not understood: `global`"),
        ("if (x) { y() }", "not understood: `if`"),
        ("export enum Broken { A: 'A' }", "not understood: `:`"),
        ("type A = 1\ntype A = 1", "A is declared a second time"),
        ("interface Open { a: string; get x(): string }", "not understood: `x`"),
        ("type Deep = " + "(" * 5000, "nested too deep"),
        ("const deep = " + "[" * 5000, "nested too deep"),
    ],
)
def test_a_statement_that_is_not_understood_is_reported_with_its_line(statement: str, sentence: str) -> None:
    """Never silently accepted; the statements after it are still read."""
    line = GENERATED.count("\n") + statement.count("\n") + 1
    found = differences(f"{GENERATED}{statement}\ntype After = 1\n", core_catalogue())
    assert [(str(each), each.line) for each in found] == [(f"line {line}: {sentence}", line)]


def test_a_payload_after_a_broken_statement_is_still_compared() -> None:
    """One bad place does not hide the rest."""
    text = GENERATED.replace("export enum WebSocketEventType", "export enum X { A: 1 }\nexport enum WebSocketEventType")
    found = differences(text.replace("  progress: number;", "  progress: string;"), core_catalogue())
    assert len(found) == 2
    assert str(found[1]) == "DeploymentProgress.progress: number in the catalogue, string in the file"


@settings(max_examples=amount(60, 600))
@given(st.data())
def test_no_text_makes_the_check_fail(data: st.DataObject) -> None:
    """The check answers for any text, also for a damaged types.ts."""
    start = data.draw(st.integers(0, len(GENERATED)))
    length = data.draw(st.integers(0, 400))
    inserted = data.draw(st.text("{}[]()<>'\"`/*|&=:;,?.\\ \nabé1", max_size=12))
    text = GENERATED[:start] + inserted + GENERATED[start + length :]
    assert all(str(each) for each in differences(text, core_catalogue()))


@given(st.text(max_size=60))
@settings(max_examples=amount(40, 400))
def test_a_text_without_events_is_never_accepted(text: str) -> None:
    """Every payload is missing from it, at least."""
    assert len(differences(text, core_catalogue())) > len(CORE_EVENTS) - 1
