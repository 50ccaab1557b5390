"""The schema's revisions, run by Alembic."""

from __future__ import annotations

import os

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from zaqar_notify.errors import CannotStart
from zaqar_notify.storage.sql.tables import REVISION


def configuration() -> Config:
    config = Config()
    config.set_main_option("script_location", os.path.dirname(os.path.abspath(__file__)).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def upgrade(connection: Connection) -> bool:
    """Bring the schema to this version, in the connection's transaction; False when there is nothing to do.

    Raises `CannotStart` for a schema that a newer version has made.
    """
    found = MigrationContext.configure(connection).get_current_revision()
    if found == REVISION:
        return False
    if found is not None and found > REVISION:
        raise CannotStart(f"The database has schema {found}, which is newer than {REVISION}: use the version that made it")
    config = configuration()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    return True
