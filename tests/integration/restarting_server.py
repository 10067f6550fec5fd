"""A server that is killed, drained and started again on the same port and data, for tests of what comes back."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

from tests.integration.server_process import ServerProcess, server_process


class Restarting:
    """A server that can be killed and started again on the same port and data."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        self._folder = folder
        self._settings = {"ACCESS_TOKEN_SECONDS": "3600", **settings}
        self._running = contextlib.AsyncExitStack()
        self._port = 0
        self.server: ServerProcess

    async def start(self) -> None:
        self.server = await self._running.enter_async_context(
            server_process(self._folder, self._settings, port=self._port)
        )
        self._port = int(self.server.url.rpartition(":")[2])

    async def drain(self) -> None:
        """End it as SIGTERM does."""
        await self._running.aclose()

    async def kill(self) -> None:
        """End it as `kill -9` does."""
        self.server.process.kill()
        await self.server.process.wait()
        await self._running.aclose()

    async def stop(self) -> None:
        await self._running.aclose()
