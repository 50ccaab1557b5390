"""The storages that can be measured: the embedded one, and servers that are started for it, on this machine.

A server's files go into the directory for temporary files (TMPDIR), and its commits to disk.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from tests.servers import mongodb, postgresql

Make = Callable[[], str | None]


class Databases:
    """Makes empty databases of one kind."""

    def __init__(self, name: str, about: str, make: Make) -> None:
        self.name = name
        self.about = about
        """The name with the version."""
        self.make = make
        """Returns ``[storage] connection``; None: what the service takes by default."""


class Embedded(Databases):
    def __init__(self) -> None:
        super().__init__("sqlite", f"SQLite {sqlite3.sqlite_version}", lambda: None)


@contextlib.contextmanager
def start(name: str) -> Iterator[Databases]:
    """Raises `unittest.SkipTest` where its server is not installed."""
    with KINDS[name]() as databases:
        yield databases


@contextlib.contextmanager
def _embedded() -> Iterator[Databases]:
    yield Embedded()


@contextlib.contextmanager
def _postgresql() -> Iterator[Databases]:
    server = postgresql.PostgreSQL(fsync=True)
    try:
        version = server.execute("SHOW server_version")[0][0].split()[0]
        yield Databases("postgresql", f"PostgreSQL {version}", server.new_database)
    finally:
        server.close()


@contextlib.contextmanager
def _mongodb() -> Iterator[Databases]:
    server = mongodb.ReplicaSet()
    try:
        build: dict[str, Any] = server.primary().ask({"buildInfo": 1})
        yield Databases("mongodb", f"MongoDB {build['version']}", server.new_database)
    finally:
        server.close()


KINDS: dict[str, Callable[[], AbstractContextManager[Databases]]] = {
    "sqlite": _embedded,
    "postgresql": _postgresql,
    "mongodb": _mongodb,
}
