"""The plugins that an operator has taken out of service, until one puts them back."""

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from backend.app.database import Base
from backend.app.models.columns import CreatedAt


class DisabledPlugin(Base):
    """A plugin that no server calls. The row may outlive the plugin: it holds for whatever has that name."""

    __tablename__ = "disabled_plugins"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    disabled_at: Mapped[CreatedAt]
