"""docs/reference/figures.md: what was measured, one section for each program that measures."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.figures import PAGE, SECTIONS, machine, read_section, write_section
from tests.docs.markdown_files import ROOT
from tests.proving import Row, table
from tests.proving_report import merged, rows_of

ROWS = [Row("a line on its way", "0.2 s", "1 s"), Row("lines | kept", "5,000", "all")]


def test_each_program_writes_its_section_and_leaves_the_others(tmp_path: Path) -> None:
    """`make bench` writes the section `bench`, `make prove` the section `prove`; each leaves the other's as it is."""
    page = tmp_path / "figures.md"
    write_section("prove", "one", page)
    assert "Not measured yet." in page.read_text("utf-8")
    write_section("bench", "two\n\nthree", page)
    assert read_section("prove", page) == "one"
    write_section("prove", "four", page)
    assert (read_section("bench", page), read_section("prove", page)) == ("two\n\nthree", "four")
    write_section("dispatch", "five", page)
    write_section("compare", "six", page)
    assert "Not measured yet." not in page.read_text("utf-8")
    before = page.read_text("utf-8")
    write_section("prove", "four", page)
    assert page.read_text("utf-8") == before


def test_only_known_sections_are_written(tmp_path: Path) -> None:
    """A section that nobody announced is a mistake; the page stays as it is."""
    page = tmp_path / "figures.md"
    with pytest.raises(KeyError):
        write_section("guess", "one", page)
    assert not page.exists()
    assert read_section("prove", page) == ""


def test_the_page_in_the_repository_is_as_it_would_be_written(tmp_path: Path) -> None:
    """Nothing stands in the page that no program measured, and every section says on what machine."""
    page = tmp_path / "figures.md"
    for section in SECTIONS:
        if body := read_section(section):
            write_section(section, body, page)
    assert page.read_text("utf-8") == PAGE.read_text("utf-8")


def test_a_row_survives_the_table() -> None:
    """What is read back from the page is what was measured."""
    assert rows_of(table(ROWS)) == ROWS


def test_rows_stay_until_they_are_measured_again() -> None:
    """A run of some tests replaces their rows; those of other tests stay with the machine they were measured on."""
    first = merged("", ROWS, "on Monday, 2 cores")
    assert first == f"Measured on Monday, 2 cores:\n\n{table(ROWS)}\n"
    again = Row("a line on its way", "0.1 s", "1 s")
    second = merged(first, [again], "on Tuesday, 4 cores")
    assert second == (
        f"Measured on Tuesday, 4 cores:\n\n{table([again])}\n\nMeasured on Monday, 2 cores:\n\n{table(ROWS[1:])}\n"
    )
    assert merged(second, ROWS, "on Friday, 8 cores") == f"Measured on Friday, 8 cores:\n\n{table(ROWS)}\n"


def test_of_one_run_the_last_row_about_a_thing_counts() -> None:
    """A row is known by what it is about."""
    twice = [Row("x", "1", "y"), Row("x", "2", "y")]
    assert rows_of(merged("", twice, "here").partition(":\n\n")[2]) == twice[1:]


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["one process", "two workers"])
@pytest.mark.parametrize("is_proving", [True, False], ids=["prove", "test"])
def test_the_rows_of_a_run_reach_the_page(tmp_path: Path, workers: list[str], is_proving: bool) -> None:
    """`make prove` runs the same cases with the numbers that were asked for, and writes what it measured."""
    page = tmp_path / "figures.md"
    (tmp_path / "conftest.py").write_text(
        "import pathlib\nfrom tests.proving_report import Report\n"
        f"def pytest_configure(config):\n    config.pluginmanager.register(Report(pathlib.Path({str(page)!r})))\n"
    )
    (tmp_path / "test_it.py").write_text(
        "import pytest\nfrom tests.proving import amount, measured\n"
        "@pytest.mark.parametrize('n', range(4))\n"
        "def test_it(n):\n    measured(f'count {n}', f'{amount(1, 1000) + n}', 'asked')\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "WINDFLOW_"))}
    environment |= {"PYTHONPATH": str(ROOT), "WINDFLOW_TEST_PROVE": "1" if is_proving else "0"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        f"--rootdir={tmp_path}",
    ]
    done = subprocess.run(
        [*command, *workers, str(tmp_path)], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if is_proving:
        where, _, rows = read_section("prove", page).partition(":\n\n")
        assert where.removeprefix("Measured ").partition(" UTC, ")[2] == machine().partition(" UTC, ")[2]
        assert sorted(row.value for row in rows_of(rows)) == ["1000", "1001", "1002", "1003"]
    else:
        assert not page.exists()
