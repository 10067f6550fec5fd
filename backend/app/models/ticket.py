"""One-time tickets: what a client shows in the address where it can send neither a header nor a first message."""

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from backend.app.database import Base
from backend.app.models.columns import CreatedAt, Id, Moment


class Ticket(Base):
    """A ticket that was not redeemed: the row goes when it is. Stands for what asked for it, a session or API token."""

    __tablename__ = "tickets"

    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[Id] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    session_id: Mapped[Id | None] = mapped_column(ForeignKey("sessions.id", ondelete="CASCADE"), index=True)
    token_id: Mapped[Id | None] = mapped_column(ForeignKey("api_tokens.id", ondelete="CASCADE"), index=True)
    origin: Mapped[str | None] = mapped_column(String(256))
    """The browser origin that it was asked from; None: by a program."""
    created_at: Mapped[CreatedAt]
    expires_at: Mapped[Moment] = mapped_column(index=True)
    access_until: Mapped[Moment | None]
    """When the credentials run out that it was asked with: what it opens ends then, too."""
