"""Alembic's entry: runs the scripts on the connection that `upgrade` gives."""

from alembic import context

import backend.app.models  # noqa: F401 - registers every table
from backend.app.database import Base

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    render_as_batch=connection.dialect.name == "sqlite",
    compare_type=True,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
