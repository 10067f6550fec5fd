"""The plugin of the server under measurement: publishes as many events as a client's message says, in one go.

The harness copies nothing: `WINDFLOW_PLUGINS_DIR` names this folder. The event on the wire has 306 bytes.
"""

import time
from typing import Any

from backend.app.schemas.websocket_events import WebSocketEventType
from backend.app.websocket.plugin import PluginContext, WebSocketPlugin

PADDING = "x" * 148


class BenchPublishPlugin(WebSocketPlugin):
    """Answers `bench_publish` with `n` events to whoever subscribed, each stamped when it is made."""

    event_types: list[str] = []  # noqa: RUF012 - as the guide writes it
    message_types = ["bench_publish"]  # noqa: RUF012

    async def handle_message(self, message: dict[str, Any], context: PluginContext) -> None:
        """Publish, and answer nothing."""
        publish = context.broadcast_to_event_subscribers
        assert publish is not None
        for _ in range(message["data"]["n"]):
            data = {"sent": f"{time.monotonic_ns():020}", "padding": PADDING}
            await publish(WebSocketEventType.CUSTOM_EVENT, data)
