"""Event streams for tests of resuming, and what they yielded in short."""

import asyncio
from typing import Any

from backend.app.client.items import Event, Item, Subscription
from backend.app.client.stream import EventStream
from tests.unit.client.peers import QUICK, Tokens

AT = {"org:1": {"epoch": "e", "offset": 10}}
LOG = Subscription(("DEPLOYMENT_LOGS_UPDATE",), "d1", 1)


def at(offset: int, epoch: str = "e") -> dict[str, Any]:
    return {"org:1": {"epoch": epoch, "offset": offset}}


def make(url: str, *subscriptions: Subscription, **options: Any) -> EventStream:
    return EventStream(url, Tokens(), subscriptions or (Subscription(("A",)),), backoff=QUICK, **options)


def told(items: list[Item]) -> list[Any]:
    """Events as their number, lines as number and text, notices as they are."""
    found: list[Any] = []
    for item in items:
        if isinstance(item, Event) and item.type == "DEPLOYMENT_LOGS_UPDATE":
            found += list(enumerate(item.data["logs"], item.data["firstLine"]))
        else:
            found.append(item.data.get("n") if isinstance(item, Event) else item)
    return found


async def take(events: EventStream, count: int) -> list[Item]:
    async with asyncio.timeout(10):
        return [await anext(events) for _ in range(count)]
