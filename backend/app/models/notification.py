"""Notifications for a user or a whole organization; read state is per user."""

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from backend.app.database import Base
from backend.app.models.columns import CreatedAt, Id, Moment, PrimaryId


class Notification(Base):
    """One notification. Without `user_id` it is for everyone of the organization."""

    __tablename__ = "notifications"
    __table_args__ = (Index("ix_notifications_organization_created", "organization_id", "created_at", "id"),)

    id: Mapped[PrimaryId]
    organization_id: Mapped[Id] = mapped_column(ForeignKey("organizations.id", ondelete="CASCADE"))
    user_id: Mapped[Id | None] = mapped_column(index=True)
    title: Mapped[str] = mapped_column(String(256))
    message: Mapped[str] = mapped_column(Text)
    level: Mapped[str] = mapped_column(String(16))
    link: Mapped[str | None] = mapped_column(String(2048))
    deployment_id: Mapped[Id | None]
    created_by: Mapped[Id | None]
    created_at: Mapped[CreatedAt]


class NotificationRead(Base):
    """That a user read a notification; absent means unread."""

    __tablename__ = "notification_reads"

    notification_id: Mapped[Id] = mapped_column(ForeignKey("notifications.id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[Id] = mapped_column(primary_key=True)
    read_at: Mapped[Moment]
