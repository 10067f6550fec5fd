"""Organizations: the tenants. Nothing of one is ever visible in another."""

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from backend.app.database import Base
from backend.app.models.columns import CreatedAt, PrimaryId


class Organization(Base):
    """A tenant."""

    __tablename__ = "organizations"

    id: Mapped[PrimaryId]
    name: Mapped[str] = mapped_column(String(128), unique=True)
    created_at: Mapped[CreatedAt]
