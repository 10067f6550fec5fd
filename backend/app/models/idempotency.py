"""Answers of POST requests by Idempotency-Key, written in the transaction of what they made."""

from sqlalchemy import String, Text
from sqlalchemy.orm import Mapped, mapped_column

from backend.app.database import Base
from backend.app.models.columns import Id, Moment


class IdempotencyKey(Base):
    """What a user's request with this key was answered; a retry gets the same and makes nothing."""

    __tablename__ = "idempotency_keys"

    user_id: Mapped[Id] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    request_hash: Mapped[str] = mapped_column(String(64))
    """Of method, path and body: the same key with another request is refused."""
    answer: Mapped[str | None] = mapped_column(Text)
    """JSON."""
    created_at: Mapped[Moment] = mapped_column(index=True)
