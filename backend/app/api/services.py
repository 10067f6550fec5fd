"""What routes and socket commands may use: one object, made by the composition root.

It hangs on `app.state.services`. Everything in it is given its collaborators when it is made.
"""

from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI

from backend.app.config import Settings
from backend.app.database import Database
from backend.app.operations.deployments import Deployments
from backend.app.operations.events import Events
from backend.app.operations.notifications import Notifications
from backend.app.operations.organizations import Organizations
from backend.app.operations.sessions import Sessions
from backend.app.operations.tickets import Tickets
from backend.app.operations.tokens import ApiTokens
from backend.app.operations.users import Users
from backend.app.realtime import event_log
from backend.app.realtime.event import stream_of
from backend.app.realtime.hub import Hub
from backend.app.realtime.node import Node
from backend.app.websocket.drain import Drain
from backend.app.websocket.plugin import WebSocketPluginManager
from backend.app.websocket.plugin_reloads import Reloads
from backend.app.websocket.plugin_switchboard import Switchboard


@dataclass(frozen=True, slots=True)
class Services:
    """The operations and the few things beside them that a route needs."""

    settings: Settings
    db: Database
    node: Node
    sessions: Sessions
    users: Users
    organizations: Organizations
    tokens: ApiTokens
    tickets: Tickets
    deployments: Deployments
    notifications: Notifications
    events: Events
    plugins: WebSocketPluginManager
    switchboard: Switchboard
    reloads: Reloads
    hub: Hub
    drain: Drain
    request_secret: bytes
    """Key of the hashes of requests that come with an Idempotency-Key; the same after a restart."""

    async def positions(self, organization_id: str) -> dict[str, Any]:
        """Return where an organization's stream stands, for answers that read no rows beside it."""
        async with self.db.session() as session:
            return await event_log.positions(session, [stream_of(organization_id)])


def services_of(app: FastAPI) -> Services:
    """Return the services of an application that has started."""
    services: Services = app.state.services
    return services
