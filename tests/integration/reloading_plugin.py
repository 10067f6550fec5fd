"""A plugin file that is written anew again and again, for tests of reloading; each version notes what it handled."""

import json
from pathlib import Path
from typing import Any

_TEXT = """
import json, os
from backend.app.websocket.plugin import WebSocketPlugin
GENERATION = {generation}
class TurningPlugin(WebSocketPlugin):
    event_types = ["NOTIFICATION_SENT"]
    def __init__(self):
        self.total = 0
    def note(self, **entry):
        with open({file!r}, "a") as file:
            file.write(json.dumps({{"generation": GENERATION, **entry}}) + "\\n")
    async def startup(self, context):
        {startup}
        self.note(hook="startup")
    async def shutdown(self, context):
        self.note(hook="shutdown")
    async def initialize(self, context):
        {initialize}
        self.note(hook="initialize")
    async def cleanup(self, context):
        self.note(hook="cleanup")
    async def carry_over(self, old):
        self.total = old.total
    async def handle_event(self, event_type, event_data, context):
        self.total += 1
        self.note(hook="handle_event", event=context.event.id, title=event_data["title"], total=self.total)
"""
BREAKS = {
    "syntax error": ({}, "invalid syntax"),
    "failing startup": ({"startup": "raise RuntimeError('no startup')"}, "startup raised: RuntimeError: no startup"),
    "failing initialize": ({"initialize": "raise ValueError('not me')"}, "initialize raised: ValueError: not me"),
}
"""Ways of breaking a version: the hook's first line, and what the reason must hold."""


class Turning:
    """The plugin's file and what its versions noted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "plugins"
        self.folder.mkdir()
        self.file = self.folder / "turning.py"
        self._noted = folder / "noted.jsonl"
        self.write(1)

    def write(self, generation: int, broken: str | None = None) -> str:
        """Write a version of the plugin; return what the reason must hold if it is broken."""
        lines, reason = BREAKS[broken] if broken else ({}, "")
        hooks = {"startup": "pass", "initialize": "pass", **lines}
        text = _TEXT.format(file=str(self._noted), generation=generation, **hooks)
        if broken == "syntax error":
            text += "def def\n"
        self.file.write_text(text, encoding="utf-8")
        return reason

    def noted(self, hook: str) -> list[dict[str, Any]]:
        """Return what the hooks of one name noted, in order."""
        if not self._noted.exists():
            return []
        lines = self._noted.read_text(encoding="utf-8").splitlines()
        return [entry for line in lines if line.endswith("}") and (entry := json.loads(line))["hook"] == hook]
