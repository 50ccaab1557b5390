from __future__ import annotations

import contextlib
import sqlite3

import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from tests.storage import case
from zaqar_notify.model import OutcomeKind, State
from zaqar_notify.storage import tables
from zaqar_notify.storage.migrations import configuration


class MigrationTest(case.SqlCase):
    def test_the_code_needs_the_newest_revision(self) -> None:
        script = ScriptDirectory.from_config(configuration())
        self.assertEqual([tables.REVISION], script.get_heads())
        revisions = [one.revision for one in script.walk_revisions()]
        self.assertEqual(sorted(revisions, reverse=True), revisions)

    def test_migrating_makes_the_schema_of_the_tables(self) -> None:
        engine = sqlalchemy.create_engine("sqlite://")
        self.addCleanup(engine.dispose)
        tables.metadata.create_all(engine)
        with engine.connect() as connection:
            expected = {name: _plain(sql) for name, sql in connection.exec_driver_sql(_SCHEMA)}
        with contextlib.closing(sqlite3.connect(self.path)) as migrated:
            found = {name: _plain(sql) for name, sql in migrated.execute(_SCHEMA)}
        del found["alembic_version"]
        self.assertEqual(expected, found)

    def test_alembic_sees_no_difference(self) -> None:
        engine = sqlalchemy.create_engine(f"sqlite:///{self.path}", poolclass=sqlalchemy.NullPool)
        self.addCleanup(engine.dispose)
        with engine.connect() as connection:
            self.assertEqual([], compare_metadata(MigrationContext.configure(connection), tables.metadata))

    def test_every_state_and_outcome_has_a_code_of_its_own(self) -> None:
        self.assertEqual((set(State), len(State)), (set(tables.STATE_CODES), len(tables.STATES)))
        self.assertEqual((set(OutcomeKind), len(OutcomeKind)), (set(tables.OUTCOME_CODES), len(tables.OUTCOMES)))


_SCHEMA = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'"


def _plain(sql: str) -> str:
    return " ".join(sql.split())
