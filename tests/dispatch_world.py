"""What the tests of dispatch share: a dispatcher with a node of its own."""

from typing import Any

from backend.app.config import Settings
from backend.app.database import Database, WriteHooks
from backend.app.realtime.node import Node
from backend.app.realtime.node_hooks import NodeHooks
from backend.app.schemas.websocket_events import core_catalogue
from backend.app.websocket.contexts import Contexts
from backend.app.websocket.cursor_log import CursorLog
from backend.app.websocket.dispatch_limits import DispatchLimits
from backend.app.websocket.dispatcher import Dispatcher
from backend.app.websocket.plugin import WebSocketPluginManager


def make_dispatcher(
    manager: WebSocketPluginManager,
    contexts: Contexts | None = None,
    *,
    database: Database | None = None,
    hooks: NodeHooks | None = None,
    **settings: Any,
) -> Dispatcher:
    """A dispatcher; without a database it takes only events that no log keeps, and plugins broadcast nothing."""
    database = database or Database()
    limits = Settings(**settings)
    contexts = contexts or Contexts(limits, database, None)  # type: ignore[arg-type]
    hooks = hooks or NodeHooks(Node(), lambda _: WriteHooks())
    return Dispatcher(manager, contexts, CursorLog(database, core_catalogue()), hooks, DispatchLimits.of(limits))
