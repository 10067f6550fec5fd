"""The Python client of a WindFlow server: REST with retries, events that go on where they were, credentials on disk.

Used by the command line and by programs; knows nothing of the server's code.

    async with WindFlowClient("http://127.0.0.1:8000") as client, client.events(
        Subscription(("DEPLOYMENT_*",))
    ) as events:
        async for event in events: ...
"""

from backend.app.client.api import WindFlowClient
from backend.app.client.backoff import Backoff, RetryPolicy
from backend.app.client.credentials import Credentials, CredentialStore
from backend.app.client.errors import ApiError, ClientError, NotLoggedIn, ServerUnreachable, SocketClosed
from backend.app.client.items import CatchingUp, CaughtUp, Event, Item, PositionLost, Reconnected, Subscription
from backend.app.client.stream import EventStream

__all__ = [
    "ApiError",
    "Backoff",
    "CatchingUp",
    "CaughtUp",
    "ClientError",
    "CredentialStore",
    "Credentials",
    "Event",
    "EventStream",
    "Item",
    "NotLoggedIn",
    "PositionLost",
    "Reconnected",
    "RetryPolicy",
    "ServerUnreachable",
    "SocketClosed",
    "Subscription",
    "WindFlowClient",
]
