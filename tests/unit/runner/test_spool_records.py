"""The records of a spool: cut at any byte, any byte flipped, in pieces of any size."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.app.runner.spool import End, Head, Line, Record, RecordReader, State, encode

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r"), max_size=40)
HEADS = st.builds(
    Head, st.just("http://server"), st.just("r1"), st.fixed_dictionaries({"deploymentId": TEXTS, "name": TEXTS}), TEXTS
)
ENDS = st.builds(End, st.just("failed"), st.none() | TEXTS, st.none() | st.integers(0, 255), TEXTS)
STATES = st.builds(
    State,
    st.booleans(),
    st.integers(1, 2**40),
    st.integers(1, 2**40),
    st.integers(0, 99),
    st.integers(0, 2**40),
    st.none() | ENDS,
    st.none() | TEXTS,
)
LINES = st.builds(
    Line, st.integers(1, 2**40), st.fixed_dictionaries({"text": TEXTS}, optional={"t": TEXTS, "level": TEXTS})
)
RECORDS = st.lists(HEADS | STATES | LINES, max_size=8)


def read(data: bytes, size: int = 1 << 20) -> tuple[list[Record], int]:
    """The records of a file that comes in pieces of a size, and how many places were damaged."""
    reader = RecordReader()
    records: list[Record] = []
    for start in range(0, len(data), size):
        records += reader.feed(data[start : start + size])
    records += reader.finish()
    return records, reader.damaged


def written(records: Iterable[Record]) -> bytes:
    return b"".join(map(encode, records))


@given(records=RECORDS, size=st.integers(1, 64))
def test_what_was_written_is_read(records: list[Record], size: int) -> None:
    """Append-only records with length and checksum; the pieces in which they are read do not matter."""
    assert read(written(records), size) == (records, 0)


@given(records=RECORDS, data=st.data(), size=st.integers(1, 64))
def test_a_file_cut_anywhere_loses_its_last_incomplete_record_only(
    records: list[Record], data: st.DataObject, size: int
) -> None:
    """A file cut in the middle loses at most its last incomplete record."""
    whole = written(records)
    cut = data.draw(st.integers(0, len(whole)))
    kept, damaged = read(whole[:cut], size)
    ends = [len(written(records[: count + 1])) for count in range(len(records))]
    # A record that lacks nothing but its line end is whole.
    assert kept == [record for record, end in zip(records, ends, strict=True) if end - 1 <= cut]
    assert damaged <= 1


@given(records=RECORDS.filter(bool), data=st.data(), size=st.integers(1, 64), byte=st.integers(1, 255))
def test_a_flipped_byte_costs_at_most_one_record(
    records: list[Record], data: st.DataObject, size: int, byte: int
) -> None:
    """The whole records survive, before and after the damaged one, and nothing is read that was not written."""
    whole = bytearray(written(records))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= byte
    kept, _ = read(bytes(whole), size)
    if kept != records:
        ends = [len(written(records[: count + 1])) for count in range(len(records))]
        hit = next(index for index, end in enumerate(ends) if place < end)
        assert kept == records[:hit] + records[hit + 1 :]


@given(before=RECORDS, after=RECORDS, garbage=st.binary(max_size=60), size=st.integers(1, 64))
def test_garbage_between_records_costs_none_of_them(
    before: list[Record], after: list[Record], garbage: bytes, size: int
) -> None:
    """Whatever stands on lines of its own between whole records is passed over."""
    kept, _ = read(written(before) + garbage + b"\n" + written(after), size)
    if garbage.strip(b"\n"):
        # Garbage that claims to be long may swallow what follows only until its checksum is found wrong.
        assert kept == before + after


def test_an_unfinished_record_is_all_that_is_held() -> None:
    """Memory is bounded: what is damaged is not kept, however long it is."""
    reader = RecordReader()
    for _ in range(100):
        assert reader.feed(b"x" * 100_000) == []
    assert len(reader._data) < 200_000
    assert reader.feed(b"\n" + encode(Line(1, {"text": "a"}))) == [Line(1, {"text": "a"})]
    assert reader.damaged == 1


@pytest.mark.parametrize("payload", [b'{"head":{"v":2}}', b"[1]", b'{"other":1}', b"nonsense"])
def test_a_record_of_another_version_is_passed_over(payload: bytes) -> None:
    """What this version does not know is not read as something else."""
    import zlib

    strange = b"%08x %d %s\n" % (zlib.crc32(payload), len(payload), payload)
    assert read(strange + encode(Line(1, {"text": "a"}))) == ([Line(1, {"text": "a"})], 1)
