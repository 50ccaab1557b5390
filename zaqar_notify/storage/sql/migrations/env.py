"""What Alembic runs for every command; the connection comes from `zaqar_notify.storage.sql.migrations.upgrade`."""

from alembic import context

from zaqar_notify.storage.sql.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
