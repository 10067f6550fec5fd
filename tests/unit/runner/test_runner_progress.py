"""Progress: the `##progress` lines and the user's own expression."""

import pytest

from backend.app.runner.lines import Line
from backend.app.runner.progress import Progress, ProgressPattern, parse_progress


@pytest.mark.parametrize(
    ("text", "percent", "step"),
    [
        ("##progress 40 Pulling images", 40, "Pulling images"),
        ("##progress 40.5", 40.5, None),
        ("##progress 40% text", 40, "text"),
        ("##progress 40 % text", 40, "text"),
        ("##progress 33,3 tiers", 33.3, "tiers"),
        ("  ##progress\t7   spaced out  ", 7, "spaced out"),
        ("\x1b[32m##progress 12\x1b[0m \x1b[1mbold\x1b[0m", 12, "bold"),
        ("\x1b]0;title\x07##progress 12", 12, None),
        ("##progress 250", 100, None),
        ("##progress -3 back", 0, "back"),
        ("##progress " + "9" * 400, 100, None),
    ],
)
def test_directive(text: str, percent: float, step: str | None) -> None:
    """`##progress 40 Pulling` lines set progress; percent is kept within 0–100; colours do not matter."""
    assert parse_progress(Line(text)) == Progress(percent, step)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "progress 40",
        "echo ##progress 40",
        "##progress",
        "##progress soon",
        "##progress 40Pulling",
        "##progressive 4",
    ],
)
def test_ordinary_line(text: str) -> None:
    """Any other line is output, and is stored."""
    assert parse_progress(Line(text)) is None


def test_huge_directive_is_bounded() -> None:
    """Only the start of a line is looked at."""
    progress = parse_progress(Line("##progress 5 " + "s" * 1_000_000))
    assert progress is not None
    assert progress.step is not None
    assert len(progress.step) < 5000


@pytest.mark.parametrize(
    ("regex", "text", "progress"),
    [
        (r"(?P<percent>[\d.]+)%", "Downloaded 12.5% of it", Progress(12.5, None)),
        (r"(?P<percent>\S+)%", "\x1b[31m12\x1b[0m%", Progress(12, None)),
        (r"(?P<percent>\S+)", "99,5%", Progress(99.5, None)),
        (r"(?P<percent>\d+)%", "900%", Progress(100, None)),
        (r"^Step (?P<step>\S+)", "Step build now", Progress(None, "build")),
        (r"(?P<step>\w+): (?P<percent>\d+)?", "pull: 5", Progress(5, "pull")),
        (r"(?P<step>\w+): (?P<percent>\d+)?", "pull: ", Progress(None, "pull")),
        (r"(?P<percent>\w+)", "soon", None),
        (r"(?P<percent>\w+)", "nan", None),
        (r"(?P<step> *)$", "text  ", None),
        (r"(?P<percent>\d+)%", "no number", None),
    ],
)
def test_pattern(regex: str, text: str, progress: Progress | None) -> None:
    """`--progress-regex` reads percent and step, each optional, from ordinary lines."""
    assert ProgressPattern(regex).match(Line(text)) == progress


@pytest.mark.parametrize(
    ("regex", "reason"),
    [
        ("(?P<percent>", "progress regex .* is not a regular expression: "),
        ("*", "progress regex .* is not a regular expression: "),
        (r"(\d+)%", "progress regex .* needs a group named percent or step"),
        (r"(?P<other>\d+)%", "progress regex .* needs a group named percent or step"),
    ],
)
def test_bad_pattern(regex: str, reason: str) -> None:
    """A bad regex or missing groups give an error that says so."""
    with pytest.raises(ValueError, match=reason):
        ProgressPattern(regex)
