"""Users. Each belongs to exactly one organization and has one role in it."""

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from backend.app.database import Base
from backend.app.models.columns import CreatedAt, Id, Moment, PrimaryId
from backend.app.schemas.roles import Role


class User(Base):
    """A person or a machine that can log in. A deleted user's row goes; an inactive one stays."""

    __tablename__ = "users"

    id: Mapped[PrimaryId]
    organization_id: Mapped[Id] = mapped_column(ForeignKey("organizations.id"), index=True)
    username: Mapped[str] = mapped_column(String(128), unique=True)
    """Stored in lower case: `Ada` and `ada` are the same person."""
    password_hash: Mapped[str] = mapped_column(String(512))
    role: Mapped[str] = mapped_column(String(16), default=Role.VIEWER.value)
    is_superuser: Mapped[bool] = mapped_column(default=False)
    is_active: Mapped[bool] = mapped_column(default=True)
    created_at: Mapped[CreatedAt]
    password_changed_at: Mapped[Moment | None]
