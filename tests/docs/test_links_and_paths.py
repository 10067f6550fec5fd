"""What the documentation points to exists, and the French README says as much as the English one."""

import re

import pytest

from tests.docs.markdown_files import (
    ROOT,
    all_files,
    anchors,
    documents,
    headings,
    inline_code,
    links,
    read,
    table_rows,
)

PATH = re.compile(r"^(?:\.ci|backend|benchmarks|docs|frontend|requirements|scripts|tests|examples|deploy)/[\w./*-]*$")
WHERE = {"README.md": "## Where is …?", "README.fr.md": "## Où se trouve … ?"}


@pytest.mark.parametrize("name", all_files())
def test_relative_links_lead_somewhere(name: str) -> None:
    """Relative links in all .md files exist, with their anchors."""
    broken = []
    for line, target in links(name):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        if not file.exists():
            broken.append(f"{name}:{line}: {target}")
        elif anchor and anchor not in anchors(file.resolve().relative_to(ROOT).as_posix()):
            broken.append(f"{name}:{line}: {target}: no such heading")
    assert broken == []


@pytest.mark.parametrize("name", documents())
def test_paths_in_backticks_exist(name: str) -> None:
    """Each path in backticks exists."""
    missing = [f"{name}:{line}: {text}" for line, text in inline_code(name) if PATH.match(text) and not _exists(text)]
    assert missing == []


def _exists(path: str) -> bool:
    return (ROOT / path).exists() or ("*" in path and any(ROOT.glob(path)))


@pytest.mark.parametrize("name", WHERE)
def test_where_is_leads_to_files(name: str) -> None:
    """README's "Where is …?" paths exist."""
    text = read(name)
    start = text.index(WHERE[name])
    section = text[start : text.index("\n## ", start + 1)]
    paths = re.findall(r"`([^`]+)`", section)
    assert len(paths) >= 20
    assert [path for path in paths if not _exists(path)] == []


def test_the_french_readme_has_the_same_shape() -> None:
    """README.fr has the same headings and table rows as README.md."""
    english, french = "README.md", "README.fr.md"
    assert [level for level, _ in headings(french)] == [level for level, _ in headings(english)]
    assert len(table_rows(french)) == len(table_rows(english))

    def paths(name: str) -> list[str]:
        return [cell for row in table_rows(name) for cell in row if cell.startswith("`") and "/" in cell]

    assert paths(french) == paths(english)


def test_the_french_readme_has_the_same_blocks() -> None:
    """The commands of README.fr are those of README.md; its Python differs in texts for people alone."""
    fence = re.compile(r"```(\w+)\n(.*?)```", re.S)
    english, french = fence.findall(read("README.md")), fence.findall(read("README.fr.md"))
    assert [language for language, _ in french] == [language for language, _ in english]
    for (language, ours), (_, theirs) in zip(english, french, strict=True):
        if language == "sh":
            assert theirs == ours
        else:
            assert re.sub(r'"[^"]*"', '""', theirs) == re.sub(r'"[^"]*"', '""', ours)
