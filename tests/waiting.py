"""Waiting for what another process does: a condition is asked until it holds."""

import asyncio
from collections.abc import Awaitable, Callable


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float = 60.0) -> None:
    """Wait until something is so; fail when it is not in time."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - another process decides
            await asyncio.sleep(0.02)
