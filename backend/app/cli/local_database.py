"""The database of this machine's server, opened by a command instead of the server.

For acts that are refused over the network. Invariant: a database that is not there is not made.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy import make_url

from backend.app.client.errors import ClientError
from backend.app.config import Settings
from backend.app.database import Database
from backend.app.models.columns import new_id
from backend.app.realtime.event import Event
from backend.app.realtime.unit_of_work import write_hooks


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[Database]:
    """Connect to the database of the settings; events of what is done go to its log, where servers find them.

    Raises ClientError when there is no database yet.
    """
    _require_database(settings)
    database = Database()
    await database.connect(settings, write_hooks(new_id(), _leave_to_the_log))
    try:
        yield database
    finally:
        await database.disconnect()


def _require_database(settings: Settings) -> None:
    url = make_url(settings.effective_database_url())
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        raise ClientError(f"there is no database {url.database}: is this the server's data folder? (--data-dir)")


def _leave_to_the_log(event: Event) -> None:
    """Nobody listens in this process."""
