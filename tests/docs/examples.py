"""What the tests give to the documentation's examples: one payload for each event, plugins out of blocks."""

from pathlib import Path
from typing import Any

from backend.app.websocket.discovery import Discovered, discover_file
from backend.app.websocket.plugin import WebSocketPlugin, WebSocketPluginManager
from backend.app.websocket.plugins import default_plugins
from backend.app.websocket.supervisor import Supervisor
from tests.docs.markdown_files import Block, all_blocks

GUIDE = "backend/app/websocket/README.md"

PAYLOADS: dict[str, dict[str, Any]] = {
    "AUTH_LOGIN_SUCCESS": {"userId": "user-1", "username": "olga"},
    "AUTH_LOGOUT": {"userId": "user-1", "sessionId": "session-1"},
    "AUTH_TOKEN_REFRESH": {"userId": "user-1"},
    "SESSION_EXPIRED": {"sessionId": "session-1"},
    "SESSION_AUTH_REQUIRED": {"reason": "the token runs out"},
    "SESSION_PERMISSION_CHANGED": {"userId": "user-1", "role": "viewer"},
    "SESSION_ORGANIZATION_CHANGED": {"userId": "user-1"},
    "DEPLOYMENT_CREATED": {"deploymentId": "dep-1", "deploymentName": "web"},
    "DEPLOYMENT_STATUS_CHANGED": {"deploymentId": "dep-1", "newStatus": "failed", "oldStatus": "running"},
    "DEPLOYMENT_LOGS_UPDATE": {"deploymentId": "dep-1", "logs": ["one", "an error"], "firstLine": 1},
    "DEPLOYMENT_PROGRESS": {"deploymentId": "dep-1", "progress": 40},
    "DEPLOYMENT_CANCEL_REQUESTED": {"deploymentId": "dep-1"},
    "DEPLOYMENT_DELETED": {"deploymentId": "dep-1"},
    "NOTIFICATION_SENT": {"title": "Hello", "message": "there"},
    "NOTIFICATION_READ": {"notificationIds": ["notification-1"]},
    "WEBSOCKET_ERROR": {"code": "internal", "message": "it failed"},
    "WEBSOCKET_PING": {},
    "WEBSOCKET_PONG": {},
    "CUSTOM_EVENT": {"hello": "world"},
}
"""Complete: a test compares it with the catalogue."""


def plugin_blocks() -> list[Block]:
    """Every block that is a plugin file: it defines a plugin, and neither a test nor a refusal."""
    return [
        block
        for block in all_blocks("python")
        if "(WebSocketPlugin):" in block.text and "def test_" not in block.text and "except" not in block.text
    ]


def guide_block(class_name: str) -> Block:
    """The one block of the guide that defines a class."""
    (found,) = [block for block in plugin_blocks() if block.file == GUIDE and f"class {class_name}(" in block.text]
    return found


def load(block: Block, folder: Path) -> tuple[WebSocketPluginManager, list[Discovered]]:
    """Write a block to a file and load it as a server would, into a manager of its own."""
    file = folder / f"example_{block.line}.py"
    file.write_text(block.text, encoding="utf-8")
    manager = WebSocketPluginManager(Supervisor(2.0, cancel_grace_seconds=0.2))
    before = list(default_plugins)
    try:
        return manager, discover_file(manager, file)
    finally:
        default_plugins[:] = before


def only_plugin(manager: WebSocketPluginManager) -> WebSocketPlugin:
    """The one plugin of a manager."""
    (plugin,) = manager.plugins
    return plugin
