"""Deployments and their numbered log lines.

`last_line` is the number of the last stored line; it rises under the row's lock, so line
numbers have no gap and no double. The first line of a log is number 1.
"""

from sqlalchemy import BigInteger, Float, ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from backend.app.database import Base
from backend.app.models.columns import CreatedAt, Id, Moment, PrimaryId


class Deployment(Base):
    """One run of a deployment command."""

    __tablename__ = "deployments"
    __table_args__ = (Index("ix_deployments_organization_created", "organization_id", "created_at", "id"),)

    id: Mapped[PrimaryId]
    organization_id: Mapped[Id] = mapped_column(ForeignKey("organizations.id"))
    name: Mapped[str] = mapped_column(String(256))
    target: Mapped[str | None] = mapped_column(String(256))
    program: Mapped[str | None] = mapped_column(String(4096))
    status: Mapped[str] = mapped_column(String(16), default="pending")
    reason: Mapped[str | None] = mapped_column(String(1024))
    exit_code: Mapped[int | None]
    progress: Mapped[float | None] = mapped_column(Float)
    step: Mapped[str | None] = mapped_column(String(1024))
    last_line: Mapped[int] = mapped_column(BigInteger, default=0)
    log_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    """What its stored lines take: their text, and a fixed amount for each line; 0 only without lines."""
    created_by: Mapped[Id | None]
    """Id of the user who created it; kept when that user is deleted."""
    created_by_name: Mapped[str | None] = mapped_column(String(128))
    created_at: Mapped[CreatedAt]
    started_at: Mapped[Moment | None]
    finished_at: Mapped[Moment | None]
    cancel_requested_at: Mapped[Moment | None]
    runner_id: Mapped[Id | None]
    lease_until: Mapped[Moment | None] = mapped_column(index=True)
    """While this is in the future, only `runner_id` may report."""
    request_hash: Mapped[str] = mapped_column(String(64))
    """Of the creating request: the same id with the same body is the same deployment."""


class DeploymentLog(Base):
    """One line of a deployment's log."""

    __tablename__ = "deployment_logs"

    deployment_id: Mapped[Id] = mapped_column(ForeignKey("deployments.id", ondelete="CASCADE"), primary_key=True)
    line: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    text: Mapped[str] = mapped_column(Text)
    time: Mapped[Moment | None]
    """When it was printed, by the runner's clock."""
    stream: Mapped[str | None] = mapped_column(String(3))
    level: Mapped[str | None] = mapped_column(String(16))
    size: Mapped[int] = mapped_column(Integer)
    """Bytes of UTF-8 of `text`, for retention by size."""
