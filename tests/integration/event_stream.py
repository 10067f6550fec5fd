"""A client of the event stream: `curl -N` as people use it, or httpx where there is no curl."""

import asyncio
import base64
import json
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

PATIENCE_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Item:
    """One event as it came."""

    id: str
    event: str
    data: dict[str, Any]
    retry: int | None = None

    @property
    def place(self) -> dict[str, Any]:
        """What the id says."""
        place: dict[str, Any] = json.loads(base64.urlsafe_b64decode(self.id + "=" * (-len(self.id) % 4)))
        return place

    @property
    def payload(self) -> dict[str, Any]:
        """The data of the message."""
        payload: dict[str, Any] = self.data["data"]
        return payload


class EventClient:
    """One stream: reads its events one by one, and remembers them."""

    def __init__(self, lines: AsyncIterator[str]) -> None:
        self._lines = lines
        self.seen: list[Item] = []
        self.comments = 0
        self.retry: int | None = None
        """What the head of the stream asked for."""

    @property
    def last_id(self) -> str:
        """The id to come back with."""
        return self.seen[-1].id

    async def next(self) -> Item | None:
        """Return the next event; None at the end of the stream."""
        fields: dict[str, str] = {}
        async for line in self._lines:
            if line.startswith(":"):
                self.comments += 1
            elif line:
                name, _, value = line.partition(": ")
                assert name not in fields, fields
                fields[name] = value
            elif set(fields) == {"retry"}:
                self.retry = int(fields.pop("retry"))
            elif fields:
                retry = int(fields["retry"]) if "retry" in fields else None
                item = Item(fields["id"], fields["event"], json.loads(fields["data"]), retry)
                assert item.event == item.data["type"]
                self.seen.append(item)
                return item
        return None

    async def until(self, found: str | Callable[[Item], bool]) -> Item:
        """Read until an event of a type, or one that a function finds."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (item := await self.next()) is not None:
                if item.event == found if isinstance(found, str) else found(item):
                    return item
        raise AssertionError(f"the stream ended: {self.seen[-3:]}")

    async def end(self) -> list[Item]:
        """Read to the end of the stream; return all events."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await self.next() is not None:
                pass
        return self.seen


@asynccontextmanager
async def follow(
    url: str, token: str | None = None, *, last_id: str | None = None, **query: Any
) -> AsyncIterator[EventClient]:
    """Follow with `curl -N`, or with httpx where there is no curl; the connection is cut at the end."""
    address = str(httpx.URL(f"{url}/api/v1/events", params=query))
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if last_id is not None:
        headers["Last-Event-ID"] = last_id
    client = _by_curl(address, headers) if shutil.which("curl") else _by_httpx(address, headers)
    async with client as lines:
        yield EventClient(lines)


@asynccontextmanager
async def _by_curl(address: str, headers: Mapping[str, str]) -> AsyncIterator[AsyncIterator[str]]:
    given = [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]
    process = await asyncio.create_subprocess_exec(
        "curl", "-sN", "--fail-with-body", *given, address, stdout=asyncio.subprocess.PIPE, limit=2**24
    )
    assert process.stdout is not None
    try:
        yield _decoded(process.stdout)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]


async def _decoded(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    while line := await stream.readline():
        if not line.endswith(b"\n"):
            return  # cut in the middle
        yield line.decode().rstrip("\n")


@asynccontextmanager
async def _by_httpx(address: str, headers: Mapping[str, str]) -> AsyncIterator[AsyncIterator[str]]:
    async with httpx.AsyncClient(timeout=None) as client, client.stream("GET", address, headers=headers) as answer:
        assert answer.status_code == 200
        yield answer.aiter_lines()
