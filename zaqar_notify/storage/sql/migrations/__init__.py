"""The schema's revisions, run by Alembic."""

from __future__ import annotations

import os

from alembic import command, op
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, delete, insert, inspect, select

from zaqar_notify.errors import CannotStart
from zaqar_notify.storage.sql.tables import REVISION, schema_info


def configuration() -> Config:
    config = Config()
    config.set_main_option("script_location", os.path.dirname(os.path.abspath(__file__)).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def upgrade(connection: Connection) -> bool:
    """Bring the schema to this version, in the connection's transaction; False when there is nothing to do.

    Raises `CannotStart` for a schema that a newer version has made, and that this one may not use.
    """
    found = MigrationContext.configure(connection).get_current_revision()
    if found == REVISION:
        return False
    if found is not None and found > REVISION:
        if is_usable(connection):
            return False
        raise CannotStart(f"The database has schema {found}, which is newer than {REVISION}: use the version that made it")
    config = configuration()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    return True


def usable_since(oldest: str) -> None:
    """To be called by each revision: code that was made for ``oldest`` may use what this revision leaves, which has to be
    added columns (with a default), tables and indexes only, then. So old and new workers run side by side."""
    op.execute(delete(schema_info))
    op.execute(insert(schema_info).values(id=1, oldest=oldest))


def is_usable(connection: Connection) -> bool:
    """Whether this version of the code may use a schema that is newer."""
    if not inspect(connection).has_table(schema_info.name):
        return False
    oldest = connection.execute(select(schema_info.c.oldest)).scalar()
    return oldest is not None and oldest <= REVISION
