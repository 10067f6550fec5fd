"""Nodes, and how far their plugins are: what a process that dies leaves for another one to take over."""

from sqlalchemy import BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from backend.app.database import Base
from backend.app.models.columns import CreatedAt, Id, Moment


class Node(Base):
    """One run of a server process, from its start until nothing is left of it to do."""

    __tablename__ = "nodes"

    id: Mapped[Id] = mapped_column(primary_key=True)
    owner: Mapped[Id] = mapped_column(index=True)
    """The node that looks after its events: itself, then whoever took it over."""
    generation: Mapped[int] = mapped_column(BigInteger, default=0)
    """Raised by each take-over; whoever writes in a node's name names the one it knows."""
    lease_until: Mapped[Moment]
    """Its owner renews it; after that moment it may be taken over."""
    started_at: Mapped[CreatedAt]
    taken_at: Mapped[Moment | None]
    """When it was taken over first."""


class PluginCursor(Base):
    """How far a plugin is in the events of a stream that were born on a node: all up to `offset` are done."""

    __tablename__ = "plugin_cursors"

    node: Mapped[Id] = mapped_column(primary_key=True)
    stream: Mapped[str] = mapped_column(String(80), primary_key=True)
    plugin: Mapped[str] = mapped_column(String(64), primary_key=True)
    offset: Mapped[int] = mapped_column(BigInteger)
