"""Sessions of users with their rotating refresh tokens, and API tokens.

A session is what a login makes and a logout ends; its refresh tokens form one family.
Secrets are stored as SHA-256 only: they are random, so a slow hash would add nothing.
"""

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from backend.app.database import Base
from backend.app.models.columns import CreatedAt, Id, Moment, PrimaryId


class Session(Base):
    """A login. Lives until its refresh tokens run out or somebody ends it."""

    __tablename__ = "sessions"

    id: Mapped[PrimaryId]
    user_id: Mapped[Id] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[CreatedAt]
    last_used_at: Mapped[Moment]
    expires_at: Mapped[Moment] = mapped_column(index=True)
    ended_at: Mapped[Moment | None]
    end_reason: Mapped[str | None] = mapped_column(String(64))
    address: Mapped[str | None] = mapped_column(String(64))
    client: Mapped[str | None] = mapped_column(String(256))
    """User agent, shown to the user in the list of sessions."""


class RefreshToken(Base):
    """One refresh token of a session's family. A used row stays until its session goes, to notice re-use."""

    __tablename__ = "refresh_tokens"

    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    session_id: Mapped[Id] = mapped_column(ForeignKey("sessions.id", ondelete="CASCADE"), index=True)
    parent_hash: Mapped[str | None] = mapped_column(String(64), index=True)
    created_at: Mapped[CreatedAt]
    used_at: Mapped[Moment | None]


class ApiToken(Base):
    """A long-lived token for programs, with a role of its own that is at most its owner's."""

    __tablename__ = "api_tokens"

    id: Mapped[PrimaryId]
    user_id: Mapped[Id] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(128))
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    role: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[CreatedAt]
    expires_at: Mapped[Moment | None]
    revoked_at: Mapped[Moment | None]
