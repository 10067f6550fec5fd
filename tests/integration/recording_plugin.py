"""A plugin in a file that keeps which events it handled, for tests that kill its server."""

import json
from pathlib import Path
from typing import Any

_TEXT = """
import asyncio, json, os
from backend.app.websocket.plugin import WebSocketPlugin
class RecordingPlugin(WebSocketPlugin):
    event_types = ["DEPLOYMENT_CREATED", "DEPLOYMENT_STATUS_CHANGED", "DEPLOYMENT_DELETED"]
    async def handle_event(self, event_type, event_data, context):
        while os.path.exists({gate!r}):
            await asyncio.sleep(0.02)
        entry = {{"id": context.event.id, "type": context.event.type, "subject": context.event.subject,
                 "offset": context.event.offset, "user": context.user.username, "pid": os.getpid()}}
        with open({file!r}, "a") as file:
            file.write(json.dumps(entry) + "\\n")
"""


class Recording:
    """The plugin's file, what it wrote, and a gate at which its handlers wait."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "plugins"
        self.folder.mkdir()
        self._file = folder / "handled.jsonl"
        self._gate = folder / "gate"
        text = _TEXT.format(file=str(self._file), gate=str(self._gate))
        (self.folder / "recording.py").write_text(text, encoding="utf-8")

    def close_gate(self) -> None:
        """Have handlers wait."""
        self._gate.touch()

    def open_gate(self) -> None:
        """Have them go on."""
        self._gate.unlink()

    def handled(self) -> list[dict[str, Any]]:
        """Return one entry for each call that came to its end, in order."""
        if not self._file.exists():
            return []
        return [json.loads(line) for line in self._file.read_text(encoding="utf-8").splitlines() if line.endswith("}")]

    def ids(self) -> list[str]:
        """Return the ids of the events that were handled."""
        return [entry["id"] for entry in self.handled()]
