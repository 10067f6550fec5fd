"""Runs one plugin in the process of the test: the real manager and the real supervisor, no server.

Invariant: unlike on a server, what a plugin does wrong is never silent. Each failed call raises
`PluginFailed`, and so does the end for whatever failed unseen (a task, `cleanup`, `shutdown`).
"""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

from backend.app.config import Settings
from backend.app.plugin_testing.recording import RecordingContext, sender
from backend.app.websocket.containment import TaskScope
from backend.app.websocket.discovery import Outcome, discover_file
from backend.app.websocket.plugin import (
    CallResult,
    EventEnvelope,
    WebSocketPlugin,
    WebSocketPluginManager,
)
from backend.app.websocket.plugin_context import ConnectionPlugins


class PluginFailed(AssertionError):
    """A plugin could not be loaded or started, or a call of it failed; its own error is the cause."""


class RunningPlugin:
    """A started plugin. `plugin` is the registered instance; `context` records what it does."""

    def __init__(self, manager: WebSocketPluginManager, plugin: WebSocketPlugin, context: RecordingContext) -> None:
        self.manager = manager
        self.plugin = plugin
        self.context = context
        self._shown = 0
        self._count = 0

    async def event(
        self, event_type: str, data: Mapping[str, Any], context: RecordingContext | None = None
    ) -> CallResult:
        """Give the plugin an event, as if it had come by REST, or born on the connection of `context`.

        Raises PluginFailed for an event that it does not listen to and for a handler that fails, ValidationError
        for data that no event of this type has.
        """
        name = str(event_type)
        if self.plugin not in self.manager.listening(name):
            raise PluginFailed(f"plugin {self.plugin.name} does not listen to {name}")
        payload = self.manager.catalogue[name].payload.model_validate(dict(data)).wire()
        self._count += 1
        given = context or self.context
        envelope = EventEnvelope(f"event-{self._count}", name, given.organization_id)
        return self._checked(
            await self.manager.call_event(self.plugin, name, payload, replace(given, event=envelope)),
            f"handle_event({name})",
        )

    async def message(self, message: Mapping[str, Any], context: RecordingContext | None = None) -> Any:
        """Give the plugin a client's message and return its reply; PluginFailed if it fails or claims no such type."""
        kind = str(message.get("type"))
        if kind not in self.manager.message_types:
            raise PluginFailed(f"plugin {self.plugin.name} does not claim messages of type {kind}")
        result = await self.manager.handle_message(kind, dict(message), context or self.context)
        return self._checked(result, f"handle_message({kind})").value

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[RecordingContext]:
        """Open a connection: `initialize` has run at the beginning, `cleanup` at the end.

        What is sent to it is in `sent` of its context; broadcasts are with those of the other contexts.
        """
        sent: list[dict[str, Any]] = []
        context = replace(
            self.context,
            websocket=AsyncMock(),
            sent=sent,
            send=sender(sent),
            _connection_plugins=ConnectionPlugins(),
        )
        await self.manager.initialize_all(context)
        try:
            self.check()
            yield context
        finally:
            await self.manager.cleanup_all(context)
        self.check()

    def check(self) -> None:
        """Raise PluginFailed if anything failed since the last look."""
        stats = self.manager.supervisor.stats_of(self.plugin.name)
        failed, self._shown = stats.failures - self._shown, stats.failures
        if failed > 0:
            raise PluginFailed(f"plugin {self.plugin.name} failed: {stats.last_error}")

    def _checked(self, result: CallResult, call: str) -> CallResult:
        if result.is_ok:
            return result
        self._shown = self.manager.supervisor.stats_of(self.plugin.name).failures
        cause = result.reason or (repr(result.exception) if result.exception is not None else "")
        text = f"plugin {self.plugin.name}: {call} {result.state}{f': {cause}' if cause else ''}"
        raise PluginFailed(text) from result.exception


class RunPlugin:
    """Starts plugins with one recording context."""

    def __init__(self, context: RecordingContext) -> None:
        self._context = context

    @asynccontextmanager
    async def __call__(
        self, plugin: WebSocketPlugin | str | os.PathLike[str], settings: Mapping[str, Any] | None = None
    ) -> AsyncIterator[RunningPlugin]:
        """Register and start a plugin, and shut it down at the end. `settings` are the values an operator would set.

        Raises PluginError or PluginFailed if it cannot be loaded, registered or started.
        """
        manager = WebSocketPluginManager()
        if not isinstance(plugin, WebSocketPlugin):
            plugin = _load(Path(plugin))
        # The limits of a server nobody configured, whatever the environment of the test says.
        manager.configure(Settings.model_construct(plugin={plugin.name: dict(settings or {})}))
        manager.register(plugin)
        running = RunningPlugin(manager, plugin, self._context)
        await manager.startup_all(self._context)
        try:
            if (reason := manager.failures.get(plugin.name)) is not None:
                details = manager.supervisor.stats_of(plugin.name).last_error or ""
                raise PluginFailed(f"plugin {plugin.name}: {reason}\n{details}")
            yield running
        finally:
            await manager.shutdown_all()
        # A failed task is reported when nobody has asked for its exception for a moment.
        await asyncio.sleep(1.5 * TaskScope().report_after_seconds)
        running.check()


def _load(file: Path) -> WebSocketPlugin:
    """Return the one plugin of a file, imported as a server would."""
    # What the operator sets comes later: a plugin that requires a setting can be loaded without it.
    loader = WebSocketPluginManager()
    for found in discover_file(loader, file):
        if found.outcome is Outcome.FAILED:
            place = f", line {found.line}" if found.line else ""
            raise PluginFailed(f"{file}: {found.name}: {found.reason}{place}")
    if len(loader.plugins) != 1:
        names = ", ".join(plugin.name for plugin in loader.plugins)
        raise PluginFailed(f"{file}: has {len(loader.plugins)} plugins ({names}); give run_plugin an instance")
    return loader.plugins[0]
