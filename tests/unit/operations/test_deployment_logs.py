"""Numbered lines: each stored once, in order, cut and refused by rule, and read back in pages."""

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from backend.app.config import Settings
from backend.app.database import Database
from backend.app.models.columns import now
from backend.app.operations.deployment_logs import LINE_BYTES, LogLine
from backend.app.operations.deployment_reads import LogQuery
from backend.app.realtime.event import Event
from backend.app.schemas.errors import ErrorCode, WindFlowError
from backend.app.schemas.log_line import cut_line
from tests.deployment_world import OTHER_RUNNER, World, as_plugin, caller, lines


@pytest.fixture
async def world(database: Database, settings: Settings, committed: list[Event]) -> World:
    small = settings.model_copy(
        update={"log_append_lines": 10, "log_append_bytes": 4000, "log_line_bytes": 500, "late_lines_seconds": 600}
    )
    return await World.make(database, small, committed)


async def refusal(act: Any) -> WindFlowError:
    with pytest.raises(WindFlowError) as refused:
        await act
    return refused.value


async def test_lines_are_numbered_stored_and_published(world: World) -> None:
    """DEPLOYMENT_LOGS_UPDATE: firstLine, logs; the first line of a log is 1."""
    runner = await world.running("d1")
    world.committed.clear()
    answer = await world.deployments.append_logs(runner, "d1", 1, lines("one", "two"))
    assert answer["nextLine"] == 3
    assert world.last("DEPLOYMENT_LOGS_UPDATE") == {"deploymentId": "d1", "logs": ["one", "two"], "firstLine": 1}
    assert world.committed[-1].subject == "d1"
    await world.deployments.append_logs(runner, "d1", 3, lines("three"))
    assert world.last("DEPLOYMENT_LOGS_UPDATE")["firstLine"] == 3
    assert await world.texts() == ["one", "two", "three"]
    seen = await world.deployments.get(caller(), "d1")
    assert (seen["lastLine"], seen["logBytes"]) == (3, 11 + 3 * LINE_BYTES)


async def test_lines_below_the_next_number_are_ignored(world: World) -> None:
    """Lines below nextLine are ignored; an overlap without anything new makes no event."""
    runner = await world.running("d1")
    do = world.deployments
    await do.append_logs(runner, "d1", 1, lines("a", "b", "c"))
    world.committed.clear()
    assert (await do.append_logs(runner, "d1", 1, lines("a", "b")))["nextLine"] == 4
    assert (await do.append_logs(runner, "d1", 4, []))["nextLine"] == 4
    assert world.types() == []
    assert (await do.append_logs(runner, "d1", 2, lines("X", "Y", "d")))["nextLine"] == 5
    assert world.last("DEPLOYMENT_LOGS_UPDATE") == {"deploymentId": "d1", "logs": ["d"], "firstLine": 4}
    assert await world.texts() == ["a", "b", "c", "d"]


async def test_a_gap_is_refused_with_the_next_number(world: World) -> None:
    """`firstLine` > nextLine → 409 log_gap {nextLine}."""
    runner = await world.running("d1")
    await world.deployments.append_logs(runner, "d1", 1, lines("a"))
    error = await refusal(world.deployments.append_logs(runner, "d1", 3, lines("c")))
    assert (error.code, error.body_details()) == (ErrorCode.LOG_GAP, {"nextLine": 2})
    assert await world.texts() == ["a"]


async def test_writers_of_the_same_lines_store_them_once(world: World) -> None:
    """Log lines are idempotent by number, with many writers at once."""
    runner = await world.running("d1")
    parts = [(1, ("a", "b", "c")), (2, ("b", "c", "d")), (1, ("a", "b", "c", "d", "e"))]
    results = await asyncio.gather(
        *(world.deployments.append_logs(runner, "d1", first, lines(*texts)) for first, texts in parts * 4),
        return_exceptions=True,
    )
    refused = [result.code for result in results if isinstance(result, WindFlowError)]
    assert set(refused) <= {ErrorCode.LOG_GAP}
    assert len(refused) + sum(isinstance(result, dict) for result in results) == 12
    assert await world.texts() == ["a", "b", "c", "d", "e"]
    published = [event.payload for event in world.committed if event.spec.name == "DEPLOYMENT_LOGS_UPDATE"]
    told = {update["firstLine"] + index: text for update in published for index, text in enumerate(update["logs"])}
    assert told == dict(enumerate("abcde", start=1))
    assert sum(len(update["logs"]) for update in published) == 5


async def test_times_streams_and_levels_are_told_where_present(world: World) -> None:
    """times/streams/levels only if any is present, as long as logs."""
    runner = await world.running("d1")
    at = datetime(2024, 1, 15, 12, 30, 0, 123456, timezone(timedelta(hours=2)))
    given = [LogLine("a", at, "err", "error"), LogLine("b")]
    await world.deployments.append_logs(runner, "d1", 1, given)
    told = world.last("DEPLOYMENT_LOGS_UPDATE")
    assert datetime.fromisoformat(told["times"][0]) == datetime(2024, 1, 15, 10, 30, 0, 123000, UTC)
    assert told["times"][1] is None
    assert (told["streams"], told["levels"]) == (["err", "out"], ["error", None])
    page = await world.deployments.read_logs(caller(), "d1", LogQuery())
    assert page["items"] == [
        {"line": 1, "text": "a", "t": "2024-01-15T10:30:00.123Z", "stream": "err", "level": "error"},
        {"line": 2, "text": "b", "t": None, "stream": None, "level": None},
    ]


@pytest.mark.parametrize(
    "text",
    ["", " ", "\t\x1b[31mred\x1b[0m\x07", "é…🙂\u2028\u0085\ufeff", "'; DROP TABLE deployments; --", "%_\\", '{"a":1}'],
)
async def test_the_text_of_a_line_is_data(world: World, text: str) -> None:
    """Any characters except NUL and line ends are kept as they are."""
    runner = await world.running("d1")
    await world.deployments.append_logs(runner, "d1", 1, lines(text))
    assert await world.texts() == [text]
    assert world.last("DEPLOYMENT_LOGS_UPDATE")["logs"] == [text]


async def test_nul_becomes_the_replacement_character(world: World) -> None:
    """NUL → U+FFFD."""
    runner = await world.running("d1")
    await world.deployments.append_logs(runner, "d1", 1, lines("a\x00b"))
    assert await world.texts() == ["a\ufffdb"]


@pytest.mark.parametrize(
    ("line", "field"),
    [
        (LogLine("a\nb"), "lines.1.text"),
        (LogLine("a\r"), "lines.1.text"),
        (LogLine("a", level="x" * 17), "lines.1.level"),
        (LogLine("a", level="\x00"), "lines.1.level"),
        (LogLine("a", level=""), "lines.1.level"),
        (LogLine("a", datetime(2024, 1, 1)), "lines.1.t"),  # noqa: DTZ001 - without a zone on purpose
        (LogLine("a", datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))), "lines.1.t"),
    ],
)
async def test_a_line_that_breaks_a_rule_is_named(world: World, line: LogLine, field: str) -> None:
    """422 naming the line's index; nothing of the report is stored."""
    runner = await world.running("d1")
    error = await refusal(world.deployments.append_logs(runner, "d1", 1, [LogLine("fine"), line]))
    assert error.code is ErrorCode.INVALID_PAYLOAD
    assert error.fields[0].field == field
    assert await world.texts() == []


async def test_a_long_line_is_cut_with_its_mark(world: World) -> None:
    """A line above `log_line_bytes` is cut and ends with its mark; both fit the limit."""
    runner = await world.running("d1")
    await world.deployments.append_logs(runner, "d1", 1, lines("é" * 300, "x" * 500))
    cut, whole = await world.texts()
    assert whole == "x" * 500
    assert cut == "é" * 233 + " … [cut: 466 of 600 bytes kept]"
    assert len(cut.encode()) <= 500


def test_a_cut_never_splits_a_character_and_never_exceeds_the_limit() -> None:
    """The mark says how much is left, and the whole fits."""
    for limit in range(40, 80):
        text = "🙂" * 40
        cut = cut_line(text, limit)
        assert len(cut.encode()) <= limit
        kept = cut.split(" … ")[0]
        assert text.startswith(kept)
        assert f"[cut: {len(kept.encode())} of 160 bytes kept]" in cut
    assert cut_line("short", 5) == "short"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lines(*"abcdefghijk"), "at most 10 lines"),
        (lines(*["x" * 450] * 9), "at most 4000 bytes"),
        (lines("y" * 4001), "at most 4000 bytes"),
    ],
)
async def test_a_report_above_a_limit_is_refused(world: World, given: list[LogLine], words: str) -> None:
    """413 message_too_large naming the limit."""
    runner = await world.running("d1")
    error = await refusal(world.deployments.append_logs(runner, "d1", 1, given))
    assert error.code is ErrorCode.MESSAGE_TOO_LARGE
    assert words in error.message
    assert "WINDFLOW_LOG_APPEND_" in error.message


async def test_late_lines_are_taken_for_a_while(world: World) -> None:
    """Lines are accepted until 10 min after the end, from the runner; then 409 deployment_closed."""
    runner = await world.running("d1")
    do = world.deployments
    await do.change_status(runner, "d1", "success")
    await do.append_logs(runner, "d1", 1, lines("late"))
    error = await refusal(do.append_logs(caller(runner=OTHER_RUNNER), "d1", 2, lines("x")))
    assert error.code is ErrorCode.LEASE_HELD
    await world.set("d1", finished_at=now() - timedelta(seconds=601))
    error = await refusal(do.append_logs(runner, "d1", 2, lines("too late")))
    assert error.code is ErrorCode.DEPLOYMENT_CLOSED
    assert await world.texts() == ["late"]
    assert (await do.get(caller(), "d1"))["leaseUntil"] is None


async def test_late_lines_of_a_deployment_without_runner(world: World) -> None:
    """Where nobody ever held the lease, anybody may deliver late lines."""
    by = await world.running("d1", runner=None)
    await world.deployments.change_status(by, "d1", "success")
    await world.deployments.append_logs(by, "d1", 1, lines("late"))
    assert await world.texts() == ["late"]


async def test_a_plugin_cannot_take_the_numbers_of_a_runners_lines(world: World) -> None:
    """While a runner holds the deployment, only it adds lines."""
    await world.running("d1")
    error = await refusal(world.deployments.append_logs(as_plugin(caller()), "d1", 1, lines("x")))
    assert error.code is ErrorCode.LEASE_HELD


async def filled(world: World, count: int = 25) -> None:
    runner = await world.running("d1")
    levels = {0: "error", 1: "WARN"}
    for start in range(1, count + 1, 10):
        part = [
            LogLine(f"line {number} of É_{number % 3}%", level=levels.get(number % 5))
            for number in range(start, min(start + 10, count + 1))
        ]
        await world.deployments.append_logs(runner, "d1", start, part)


async def numbers(world: World, query: LogQuery) -> tuple[list[int], int]:
    page = await world.deployments.read_logs(caller("vic"), "d1", query)
    return [item["line"] for item in page["items"]], page["nextLine"]


@pytest.mark.parametrize(
    ("query", "expected", "next_line"),
    [
        (LogQuery(), range(1, 11), 11),
        (LogQuery(0, 3), range(1, 4), 4),
        (LogQuery(24), range(24, 26), 26),
        (LogQuery(26), [], 26),
        (LogQuery(99), [], 26),
        (LogQuery(-3), range(23, 26), 26),
        (LogQuery(-99, 2), range(1, 3), 3),
        (LogQuery(-5, 2), range(21, 23), 23),
        (LogQuery(1, 10, level="error"), [5, 10, 15, 20, 25], 26),
        (LogQuery(1, 10, level="Warn"), [1, 6, 11, 16, 21], 26),
        (LogQuery(7, 2, level="error"), [10, 15], 16),
        (LogQuery(q="LINE 2 OF"), [2], 26),
        (LogQuery(q="é_1%"), [1, 4, 7, 10, 13, 16, 19, 22, 25], 26),
        (LogQuery(q="É_1", limit=2), [1, 4], 5),
        (LogQuery(q="%1%"), [], 26),
        (LogQuery(q="e_2"), [], 26),
        (LogQuery(q="[l]ine"), [], 26),
        (LogQuery(q="*"), [], 26),
        (LogQuery(level="\x00"), [], 26),
    ],
)
async def test_pages_of_a_log(world: World, query: LogQuery, expected: Any, next_line: int) -> None:
    """fromLine 1-based (0 or 1 = all, negative = tail n); level; q is a case-insensitive substring."""
    await filled(world)
    assert await numbers(world, query) == (list(expected), next_line)


async def test_following_next_line_reads_everything_once(world: World) -> None:
    """`nextLine` goes on where the page ended, whatever ended it: lines, bytes or the filter."""
    runner = await world.running("d1")
    do = world.deployments
    for number in range(1, 31):
        await do.append_logs(runner, "d1", number, lines(f"{number:03d}" + "x" * 450))
    seen: list[int] = []
    query = LogQuery()
    while True:
        page = await do.read_logs(caller(), "d1", query)
        seen += [item["line"] for item in page["items"]]
        assert len(page["items"]) <= 8  # of 453 bytes each, below 4000
        if page["nextLine"] > page["lastLine"]:
            break
        query = LogQuery(page["nextLine"])
    assert seen == list(range(1, 31))


async def test_a_line_larger_than_a_page_is_still_read(world: World) -> None:
    """A page holds one line at least."""
    runner = await world.running("d1")
    await world.deployments.append_logs(runner, "d1", 1, lines("x" * 400, "y"))
    world.settings.log_append_bytes = 100
    assert await numbers(world, LogQuery()) == ([1], 2)


async def test_a_log_answer_carries_positions(world: World) -> None:
    """Every list and detail answer carries `positions`."""
    await filled(world, 2)
    page = await world.deployments.read_logs(caller(), "d1", LogQuery())
    assert page["positions"]["org:o1"]["offset"] == 2
    assert page["lastLine"] == 2


async def test_a_search_for_nul_is_refused(world: World) -> None:
    """Bad input names field and rule."""
    await filled(world, 2)
    error = await refusal(world.deployments.read_logs(caller(), "d1", LogQuery(q="a\x00")))
    assert error.fields[0].field == "q"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (LogQuery(), range(1, 26)),
        (LogQuery(limit=12), range(1, 13)),
        (LogQuery(-12), range(14, 26)),
        (LogQuery(level="error", limit=3), [5, 10, 15]),
        (LogQuery(26), []),
    ],
)
async def test_the_log_as_text(world: World, query: LogQuery, expected: Any) -> None:
    """format=text streams all lines, page by page, each with its line end."""
    await filled(world)
    chunks = [chunk async for chunk in await world.deployments.log_text(caller(), "d1", query)]
    assert "".join(chunks) == "".join(f"line {n} of É_{n % 3}%\n" for n in expected)
    assert all(chunk.count("\n") <= 10 for chunk in chunks)


async def test_the_text_holds_no_database_session_between_pages(world: World) -> None:
    """A slow download holds no connection: reading stays possible with all of them in use by downloads."""
    await filled(world)
    downloads = [await world.deployments.log_text(caller(), "d1", LogQuery()) for _ in range(30)]
    iterators = [aiter(download) for download in downloads]
    async with asyncio.timeout(10):
        for iterator in iterators:
            assert (await anext(iterator)).startswith("line 1 ")
        assert await world.status() == "running"
    for iterator in iterators:
        await iterator.aclose()  # type: ignore[attr-defined]


async def test_the_text_ends_at_what_was_the_last_line(world: World) -> None:
    """A running deployment's text ends: lines that come meanwhile are not followed."""
    await filled(world, 12)
    text = await world.deployments.log_text(caller(), "d1", LogQuery())
    runner = caller(runner="0190a000-0000-7000-8000-000000000001")
    await world.deployments.append_logs(runner, "d1", 13, lines("later"))
    assert "later" not in "".join([chunk async for chunk in text])


@pytest.mark.parametrize("part", ["a^b", "^", "c-d", "]", "[x]", "\\", "%", "_", "*?", "ẞß", "🙂", "'", '"', "--"])
async def test_no_character_of_a_search_is_special(world: World, part: str) -> None:
    """q is a substring: wildcards of either database are plain characters."""
    runner = await world.running("d1")
    await world.deployments.append_logs(runner, "d1", 1, lines(f"<{part}>", "nothing of it"))
    assert await numbers(world, LogQuery(q=f"<{part}>")) == ([1], 3)
    assert await numbers(world, LogQuery(q=f"!{part}")) == ([], 3)
