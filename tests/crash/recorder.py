"""The plugin of the crash suite: it records every stream event it handles, and publishes for sockets.

`install` writes it into a plugins folder. It appends to a file without fsync: the process is killed, not the machine.
"""

from collections.abc import Mapping
from pathlib import Path

PUBLISH = "ledger_publish"
PUBLISHED = "ledger_published"

SOURCE = f'''"""Written by tests/crash/recorder.py."""

from pathlib import Path

from backend.app.websocket.plugin import WebSocketPlugin


class RecorderPlugin(WebSocketPlugin):
    """Appends id and entry of each event."""

    event_types = ["NOTIFICATION_SENT"]
    message_types = ("{PUBLISH}",)

    def handle_event(self, event_type, event_data, context):
        with Path(__file__).with_name("seen.txt").open("a", encoding="utf-8") as seen:
            seen.write(f"{{context.event.id}} {{event_data['title']}}\\n")

    async def handle_message(self, message, context):
        entry = message["data"]["entry"]
        await context.broadcast_to_event_subscribers("NOTIFICATION_SENT", {{"title": entry, "message": "by socket"}})
        return {{"type": "{PUBLISHED}", "data": {{"entry": entry}}}}
'''


def install(folder: Path) -> None:
    """Write the plugin into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recorder.py").write_text(SOURCE, encoding="utf-8")


def recorded(folder: Path) -> Mapping[str, set[str]]:
    """Return the ids under which the plugin saw each entry."""
    seen: dict[str, set[str]] = {}
    path = folder / "seen.txt"
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        event_id, _, entry = line.partition(" ")
        seen.setdefault(entry, set()).add(event_id)
    return seen
