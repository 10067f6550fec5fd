"""docs/reference/abuse.md is what the tests and the table of faults say."""

from pathlib import Path

import pytest

from scripts import abuse


def test_the_page_is_what_the_generator_writes() -> None:
    """The page is generated from the tests; a test fails when it falls behind."""
    assert abuse.main(["--check"]) == 0, "run `make docs`"


def test_check_names_a_stale_page_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--check` exits with 1 and names the page; without it the page is written."""
    target = tmp_path / "abuse.md"
    assert abuse.main(["--check"], target) == 1
    assert "abuse.md is stale" in capsys.readouterr().out
    assert not target.exists()
    assert abuse.main([], target) == 0
    assert abuse.main(["--check"], target) == 0


def test_tests_and_figures_are_found_by_their_numbers(tmp_path: Path) -> None:
    """A row shows its tests and what was measured of it; one without a test is "not yet"."""
    folder = tmp_path / "tests" / "faults"
    folder.mkdir(parents=True)
    (folder / "test_rows.py").write_text(
        'async def test_f05_wrong() -> None:\n    """Wrong\n    is refused."""\n', "utf-8"
    )
    figures = tmp_path / "figures.md"
    figures.write_text(
        "| What | Measured | Beside |\n| --- | --- | --- |\n| F05: closed after | 2 s | 5 s |\n", "utf-8"
    )
    page = abuse.page(tmp_path, figures)
    assert "| [`test_f05_wrong`](../../tests/faults/test_rows.py) | Wrong is refused. |" in page
    assert "| F05 | closed after | 2 s | 5 s |" in page
    assert [line.rpartition(" | ")[2] for line in page.splitlines() if line.startswith("| F05 | invalid")] == ["1 |"]
    assert [line.rpartition(" | ")[2] for line in page.splitlines() if line.startswith("| F06 | ")] == ["not yet |"]


def test_a_test_of_a_row_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    """A test is named after a row of the table."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_rows.py").write_text("def test_f99_nothing() -> None: ...\n", "utf-8")
    with pytest.raises(abuse.UnknownRow, match="F99"):
        abuse.tests_of(tmp_path)
