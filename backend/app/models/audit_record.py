"""The audit trail's rows: who did what to what, written in the transaction of the act itself.

`seq` counts per organization without a gap, under the row lock of `audit_heads`.
"""

from sqlalchemy import BigInteger, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from backend.app.database import Base
from backend.app.models.columns import Id, Moment


class AuditHead(Base):
    """The last number of each chain; the chain of acts outside any organization is `system`."""

    __tablename__ = "audit_heads"

    chain: Mapped[str] = mapped_column(String(80), primary_key=True)
    head: Mapped[int] = mapped_column(BigInteger)


class AuditRecord(Base):
    """One audited act."""

    __tablename__ = "audit_records"

    chain: Mapped[str] = mapped_column(String(80), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    time: Mapped[Moment]
    event: Mapped[str] = mapped_column(String(128))
    actor_id: Mapped[Id | None]
    actor_name: Mapped[str | None] = mapped_column(String(128))
    target: Mapped[str | None] = mapped_column(String(256))
    outcome: Mapped[str] = mapped_column(String(64))
    """`success`, or the error code of what was refused."""
    address: Mapped[str | None] = mapped_column(String(64))
    request_id: Mapped[str | None] = mapped_column(String(64))
    data: Mapped[str] = mapped_column(Text)
    """JSON with the act's own facts; never a secret."""
