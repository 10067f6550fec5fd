"""The lines that wait for the server: numbers, batches, and what is dropped when there is no room."""

from hypothesis import given
from hypothesis import strategies as st

from backend.app.client.line_buffer import BufferLimits, LineBuffer
from backend.app.client.runner_api import LogLine


def filled(count: int, limits: BufferLimits | None = None) -> LineBuffer:
    buffer = LineBuffer(limits)
    for number in range(1, count + 1):
        buffer.add([LogLine(f"line {number}")])
    return buffer


def texts(lines: list[LogLine]) -> list[str]:
    return [line.text for line in lines]


def test_a_batch_stays_the_same_until_it_is_confirmed() -> None:
    """Retries are idempotent by number: the same lines with the same numbers, whatever came in between."""
    buffer = filled(2)
    assert texts(buffer.batch()) == ["line 1", "line 2"]
    buffer.add([LogLine("line 3")])
    assert texts(buffer.batch()) == ["line 1", "line 2"]
    assert buffer.first_line == 1
    buffer.confirm(3)
    assert (texts(buffer.batch()), buffer.first_line) == (["line 3"], 3)


def test_a_partly_known_batch_goes_on_at_the_servers_number() -> None:
    """Lines below nextLine are at the server already."""
    buffer = filled(5)
    buffer.batch()
    buffer.confirm(4)
    assert (texts(buffer.batch()), buffer.first_line) == (["line 4", "line 5"], 4)


def test_batches_are_bounded_by_lines_and_by_text() -> None:
    """At most 1,000 lines and 4 MiB in one report; a single longer line goes alone."""
    buffer = filled(2500, BufferLimits(batch_lines=1000))
    assert len(buffer.batch()) == 1000
    buffer = LineBuffer(BufferLimits(batch_bytes=1000))
    for text in ("a" * 600, "b" * 600, "c" * 5000, "d"):
        buffer.add([LogLine(text)])
    sizes = []
    while batch := buffer.batch():
        sizes.append([line.text[0] for line in batch])
        buffer.confirm(buffer.first_line + len(batch))
    assert sizes == [["a"], ["b"], ["c"], ["d"]]


def test_dropped_lines_become_one_counted_marker() -> None:
    """The oldest unsent lines become one counted marker; what was handed out keeps its numbers."""
    buffer = filled(20, BufferLimits(batch_lines=5, lines=15))
    assert texts(buffer.batch())[0] == "line 1"
    for number in range(21, 31):
        while buffer.is_full:
            buffer.make_room(1)
        buffer.add([LogLine(f"line {number}")])
    assert texts(buffer.batch()) == [f"line {n}" for n in range(1, 6)]
    buffer.confirm(6)
    rest = texts(buffer.batch())
    assert rest[0] == f"… {buffer.dropped} lines are missing: the server was away"
    assert rest[1] == f"line {6 + buffer.dropped}"
    assert buffer.first_line == 6


def test_a_report_that_is_too_large_is_halved_and_a_bad_line_is_marked() -> None:
    """413 and 422: smaller reports, and at last a marker in place of the one line that is not taken."""
    buffer = filled(4)
    buffer.batch()
    buffer.refuse()
    assert texts(buffer.batch()) == ["line 1", "line 2"]
    buffer.refuse()
    buffer.refuse()
    assert "the server did not take it" in texts(buffer.batch())[0]
    buffer.confirm(2)
    assert texts(buffer.batch()) == ["line 2"]
    assert buffer.dropped == 1


@given(
    steps=st.lists(st.sampled_from(["add", "send", "lose answer", "part", "drop"]), max_size=80),
    batch_lines=st.integers(1, 5),
)
def test_what_is_confirmed_is_in_order_and_once(steps: list[str], batch_lines: int) -> None:
    """Lines arrive in order, once; what does not arrive is counted."""
    buffer = LineBuffer(BufferLimits(batch_lines=batch_lines))
    server: list[str] = []
    added = 0

    def store(most: int | None = None) -> int:
        batch = buffer.batch()
        for number, line in enumerate(batch[:most], buffer.first_line):
            if number == len(server) + 1:
                server.append(line.text)
        return len(server) + 1

    for step in [*steps, *["send"] * (len(steps) + 2)]:
        if step == "add":
            added += 1
            buffer.add([LogLine(f"{added}")])
        elif step == "send":
            buffer.confirm(store())
        elif step == "part":
            buffer.confirm(store(1))
        elif step == "lose answer":
            store()
        else:
            buffer.make_room(1)
    numbers = [int(text) for text in server if not text.startswith("…")]
    assert numbers == sorted(set(numbers))
    assert len(numbers) + buffer.dropped == added
    assert sum(int(text.split()[1]) for text in server if text.startswith("…")) == buffer.dropped
