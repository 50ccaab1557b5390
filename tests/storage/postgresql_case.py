"""A PostgreSQL storage on a database of its own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from sqlalchemy.util import LRUCache

from tests.servers import postgresql
from tests.storage import conformance, processes
from zaqar_notify.storage.sql import tables
from zaqar_notify.storage.sql.driver import SqlStorage

COMPILED = LRUCache(500)
"""Each storage would compile the same queries anew."""


PATIENCE = 60.0
"""Seconds, unless a test says so: PostgreSQL ends a transaction that does nothing for half of it, and a machine may be busy."""


def storage_at(url: str, **options: Any) -> SqlStorage:
    values: dict[str, Any] = {
        "retention": conformance.RETENTION,
        "keyring": conformance.make_keyring(),
        "busy_timeout": PATIENCE,
        **options,
    }
    storage = SqlStorage(url, **values)
    for engine in (storage._database._reading, storage._database._writing, storage._database._leasing):
        engine._compiled_cache = COMPILED
    return storage


@functools.cache
def migrated() -> str:
    """A database that is a template for others: migrating takes longer than most tests."""
    url: str = postgresql.shared().new_database()
    storage = storage_at(url)
    storage.upgrade()
    storage.close()
    return url


# What a test leaves is little, and quicker deleted than truncated.
EMPTY = "\n".join(f"DELETE FROM {name};" for name in tables.metadata.tables if name != "schema_info")
EMPTY += "SELECT setval('given_ids', 1, false)"


class PostgresCase(processes.ProcessCase):
    """A storage on a database of the test class, which is empty before each test."""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        server = postgresql.shared()
        cls.url = server.new_database(migrated())
        cls.addClassCleanup(server.drop, cls.url)

    def setUp(self) -> None:
        self.inside(EMPTY)
        super().setUp()

    def inside(self, statement: str) -> list[tuple[Any, ...]]:
        return postgresql.shared().execute(statement, self.url)

    def make_storage(self, clock: Callable[[], float] | None, **options: Any) -> SqlStorage:
        return storage_at(self.url, clock=clock, **options)

    def another(self, **options: Any) -> SqlStorage:
        storage = storage_at(self.url, **{"clock": self.clock, **options})
        self.addCleanup(storage.close)
        return storage

    def opening(self) -> str:
        return f"from tests.storage.postgresql_case import storage_at\nstorage = storage_at({self.url!r})"


class RealTimeCase(PostgresCase):
    """By the clock of the server, as other processes see it."""

    def setUp(self) -> None:
        super().setUp()
        self.storage = self.another(clock=None)
