"""The event log and its streams, and the latest values.

Streams are named `org:<id>` and `system`. A stream's head is raised as the last step of a
transaction, under its row's lock, so commit order equals offset order.
"""

from sqlalchemy import BigInteger, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from backend.app.database import Base
from backend.app.models.columns import Id, Moment


class EventStream(Base):
    """Where a stream stands: its epoch, the highest offset retention removed, the last one given."""

    __tablename__ = "event_streams"

    stream: Mapped[str] = mapped_column(String(80), primary_key=True)
    epoch: Mapped[str] = mapped_column(String(64))
    floor: Mapped[int] = mapped_column(BigInteger, default=0)
    head: Mapped[int] = mapped_column(BigInteger, default=0)


class EventRecord(Base):
    """One event of delivery class *stream*."""

    __tablename__ = "events"

    stream: Mapped[str] = mapped_column(String(80), primary_key=True)
    offset: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    id: Mapped[Id] = mapped_column(unique=True)
    type: Mapped[str] = mapped_column(String(128))
    payload: Mapped[str] = mapped_column(Text)
    """JSON, encoded once at publish."""
    user_id: Mapped[Id | None]
    subject: Mapped[str | None] = mapped_column(String(64))
    actor: Mapped[Id | None]
    node: Mapped[Id]
    hop: Mapped[int] = mapped_column(Integer, default=0)
    traceparent: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[Moment]


class LatestValue(Base):
    """The present value of one subject of an event of class *latest*; `version` only rises."""

    __tablename__ = "latest_values"

    stream: Mapped[str] = mapped_column(String(80), primary_key=True)
    type: Mapped[str] = mapped_column(String(128), primary_key=True)
    subject: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[int] = mapped_column(BigInteger)
    id: Mapped[Id]
    payload: Mapped[str] = mapped_column(Text)
    created_at: Mapped[Moment]
