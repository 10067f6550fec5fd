"""Takes plugins out of service and puts them back, as the database says, and lets one begin anew.

Asked by the routes, at the start, and at an interval for what another server's operator did. A plugin that is out of
service is unregistered: it is cleaned up on every connection and shut down, and later starts with the next event.
"""

import asyncio
import logging

from backend.app.auth.permissions import Caller
from backend.app.operations.disabled_plugins import DisabledPlugins
from backend.app.schemas.errors import ErrorCode, WindFlowError, not_found
from backend.app.websocket.plugin import PluginError, WebSocketPluginManager

logger = logging.getLogger("windflow.plugins")


class Switchboard:
    """What operators do with the plugins of this server. One per server."""

    def __init__(self, manager: WebSocketPluginManager, disabled: DisabledPlugins) -> None:
        self._manager = manager
        self._disabled = disabled
        self._turn = asyncio.Lock()

    async def disable(self, caller: Caller, name: str) -> None:
        """Take a plugin out of service and wait until it is cleaned up; raise `not_found`."""
        self._check(name)
        await self._disabled.add(caller, name)
        await self.apply()

    async def enable(self, caller: Caller, name: str) -> None:
        """Put a plugin back into service and wait for its start; raise `not_found`, and `name_taken` if another one
        has its name.
        """
        self._check(name)
        if name in self._manager.aside and self._manager.get(name) is not None:
            raise WindFlowError(ErrorCode.NAME_TAKEN, f"name: another plugin is registered as {name}")
        await self._disabled.remove(caller, name)
        await self.apply()

    async def reset(self, caller: Caller, name: str) -> None:
        """Close a plugin's breaker, or start it again if its start failed; raise `not_found`."""
        plugin = self._manager.get(name)
        if plugin is None:
            raise not_found("plugin")
        await self._disabled.note_reset(caller, name)
        if name in self._manager.failures:
            await self._manager.start(plugin)
        self._manager.supervisor.breaker_of(name).reset()

    async def apply(self) -> None:
        """Do what the database says, and wait until it is done."""
        async with self._turn:
            disabled = await self._disabled.names()
            for name in disabled:
                if name not in self._manager.aside and self._manager.get(name) is not None:
                    logger.warning("plugin %s is out of service", name, extra={"plugin": name})
                    self._manager.set_aside(name)
            for name in set(self._manager.aside) - disabled:
                try:
                    self._manager.bring_back(name)
                except PluginError as error:
                    self._manager.list_failure(name, str(error))
                    logger.error("plugin %s cannot be put back into service: %s", name, error, extra={"plugin": name})
                else:
                    logger.warning("plugin %s is back in service", name, extra={"plugin": name})
            await self._manager.settled()

    def _check(self, name: str) -> None:
        if self._manager.get(name) is None and name not in self._manager.aside:
            raise not_found("plugin")
