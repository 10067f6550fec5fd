"""Which plugins an operator has taken out of service: kept in the database, so that it holds after a restart.

Used by the switchboard, which acts on it. An act that changes something is audited in its transaction.
"""

from sqlalchemy import delete, select

from backend.app.auth.permissions import Caller
from backend.app.database import Database, Transaction
from backend.app.models import DisabledPlugin
from backend.app.models.columns import now
from backend.app.operations.insert_absent import insert_absent
from backend.app.realtime.unit_of_work import audit


class DisabledPlugins:
    """The operations on the list."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def names(self) -> frozenset[str]:
        """Return the names of all plugins that are out of service."""
        async with self._db.session() as session:
            return frozenset(await session.scalars(select(DisabledPlugin.name)))

    async def add(self, caller: Caller, name: str) -> None:
        """Take a plugin out of service; nothing if it is."""

        def unit(tx: Transaction) -> None:
            row = {"name": name, "disabled_at": now()}
            if insert_absent(tx.conn, DisabledPlugin, [row], DisabledPlugin.name):
                audit(tx, "plugin.disable", caller, target=f"plugin/{name}")

        await self._db.write(unit)

    async def remove(self, caller: Caller, name: str) -> None:
        """Put a plugin back into service; nothing if it is."""

        def unit(tx: Transaction) -> None:
            if tx.conn.execute(delete(DisabledPlugin).where(DisabledPlugin.name == name)).rowcount:
                audit(tx, "plugin.enable", caller, target=f"plugin/{name}")

        await self._db.write(unit)

    async def note_reset(self, caller: Caller, name: str) -> None:
        """Audit that somebody had a plugin begin anew."""
        await self._db.write(lambda tx: audit(tx, "plugin.reset", caller, target=f"plugin/{name}"))

    async def note_reload(self, caller: Caller, name: str) -> None:
        """Audit that somebody had a plugin reloaded, whatever came of it."""
        await self._db.write(lambda tx: audit(tx, "plugin.reload", caller, target=f"plugin/{name}"))
