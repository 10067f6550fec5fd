"""The records of a spool: what a runner keeps on disk of one deployment while a server may be away. Pure.

A record is one line, `CRC32 LENGTH JSON`: eight hexadecimal digits over the JSON, its bytes, the JSON. Written and
read by `spool_store.py`. Invariant: what is damaged or cut costs the records it touches, never a whole one beside them.
"""

import re
import zlib
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import orjson

FORMAT = 1
MOST_RECORD_BYTES = 8_388_608
"""Longest JSON of a record: a line of 1 MiB in which every character is escaped, and more."""
_START = re.compile(rb"([0-9a-f]{8}) ([0-9]{1,7}) ")
_START_BYTES = 17


@dataclass(frozen=True, slots=True)
class Head:
    """What the deployment is; first in each file. `create` is the body that makes it known to the server."""

    server_url: str
    runner_id: str
    create: dict[str, Any]
    made_at: str

    @property
    def deployment_id(self) -> str:
        """The deployment's id, made by the runner."""
        return str(self.create["deploymentId"])


@dataclass(frozen=True, slots=True)
class End:
    """How the command ended, and when."""

    status: str
    reason: str | None
    exit_code: int | None
    at: str


@dataclass(frozen=True, slots=True)
class State:
    """How far delivery is; of several, the last one counts."""

    is_created: bool = False
    """Whether the server has made the deployment: then it is not made again, even if somebody deleted it."""
    next_line: int = 1
    """The first kept line that the server has not confirmed, …"""
    next_number: int = 1
    """… and its number there: the two differ once a marker took the place of several lines."""
    missing: int = 0
    """Lines at or above `next_line` that had no room and were never written."""
    last_line: int = 0
    """The last line that was printed by then, written or missing."""
    end: End | None = None
    refusal: str | None = None
    """Why the server took no more, for good."""

    def changed(self, **fields: Any) -> "State":
        """Return the state with other values."""
        return replace(self, **fields)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of output, in the form the API takes (`{text, t?, stream?, level?}`); `number` counts what was kept."""

    number: int
    body: dict[str, str] = field(hash=False)


Record = Head | State | Line


def encode(record: Record) -> bytes:
    """Return a record as it stands in the file."""
    if isinstance(record, Line):
        content: dict[str, Any] = {"n": record.number, **record.body}
    else:
        content = {type(record).__name__.lower(): {"v": FORMAT, **asdict(record)}}
    payload = orjson.dumps(content)
    return b"%08x %d %s\n" % (zlib.crc32(payload), len(payload), payload)


def decode(payload: bytes) -> Record | None:
    """Return the record of a JSON whose checksum was right; None for one that this version does not know."""
    try:
        content = orjson.loads(payload)
        if "n" in content:
            return Line(content.pop("n"), content)
        if "head" in content:
            return Head(**_fields(content["head"]))
        if "state" in content:
            fields = _fields(content["state"])
            end = fields.pop("end")
            return State(**fields, end=None if end is None else End(**end))
    except (ValueError, TypeError, KeyError):
        return None
    return None


def _fields(content: dict[str, Any]) -> dict[str, Any]:
    if content.pop("v") != FORMAT:
        raise ValueError("another format")
    return content


class RecordReader:
    """Turns the bytes of one file, in pieces of any size, into its whole records. Holds at most one unfinished one."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._is_lost = False  # in the middle of something damaged, until its line ends
        self.damaged = 0
        """Places at which something was damaged, cut or not known."""

    def feed(self, data: bytes) -> list[Record]:
        """Take the next bytes and return the records that are whole now, in order."""
        self._data += data
        return self._read(is_last=False)

    def finish(self) -> list[Record]:
        """End the file: return what needed no more bytes. What is left over was cut off, and counts as damaged."""
        records = self._read(is_last=True)
        if self._data:
            self.damaged += 1
            self._data.clear()
        return records

    def _read(self, *, is_last: bool) -> list[Record]:
        records: list[Record] = []
        data, position = self._data, 0
        while position < len(data):
            if self._is_lost:
                position = self._find_line_end(position)
                continue
            start = _START.match(data, position)
            if start is None:
                if len(data) - position < _START_BYTES and not is_last and data.find(b"\n", position) < 0:
                    break
                self._lose()
                continue
            end = start.end() + int(start[2])
            if int(start[2]) <= MOST_RECORD_BYTES and end + (not is_last) > len(data):
                if not is_last:
                    break
                self._lose()
                continue
            payload = bytes(data[start.end() : end])
            record = decode(payload) if zlib.crc32(payload) == int(start[1], 16) else None
            if record is None:
                self._lose()
                continue
            records.append(record)
            position = end + 1  # also if the line end itself is what was damaged
        del data[:position]
        return records

    def _lose(self) -> None:
        self._is_lost = True
        self.damaged += 1

    def _find_line_end(self, position: int) -> int:
        """Return where to go on: the next line if its start is known, else the end of what there is."""
        found = self._data.find(b"\n", position)
        if found < 0:
            return len(self._data)
        self._is_lost = False
        return found + 1
