"""PostgreSQL of the distribution; ``ZAQAR_NOTIFY_TEST_POSTGRESQL`` names a server to use instead, as a role that may make
databases: ``postgresql://user:password@host:port/postgres``."""

from __future__ import annotations

import functools
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import unittest
import urllib.parse
from collections.abc import Sequence
from typing import Any

from tests.servers import base

ENVIRONMENT = "ZAQAR_NOTIFY_TEST_POSTGRESQL"
USER = "postgres"


class Databases:
    """Makes and drops databases on the server at ``url``."""

    url: str

    def new_database(self, template: str | None = None) -> str:
        """The URL of an empty database, or of a copy of the one whose URL is given; nobody may be connected to that."""
        name = f"notify_{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {_name(template) if template else 'template0'}")
        return urllib.parse.urlsplit(self.url)._replace(path=f"/{name}").geturl()

    def drop(self, url: str) -> None:
        """Also when somebody is connected to it."""
        self.execute(f"DROP DATABASE IF EXISTS {_name(url)} WITH (FORCE)")

    def execute(self, statement: str, url: str | None = None) -> list[tuple[Any, ...]]:
        """Run one statement by itself, on the server or on one of its databases, and return its rows."""
        with _psycopg().connect(url or self.url, autocommit=True, connect_timeout=10) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


class PostgreSQL(Databases, base.Server):
    """``fsync=False`` for tests that do not look at what a crash leaves behind."""

    name = "postgresql"
    environment = ENVIRONMENT
    stop_signal = signal.SIGINT
    """Fast: connections are ended, then a checkpoint."""
    quit_signal = signal.SIGQUIT
    """Immediate: no checkpoint, but shared memory is given back."""

    def __init__(
        self, test: unittest.TestCase | None = None, host: str = "127.0.0.1", *, fsync: bool = True, options: Sequence[str] = ()
    ) -> None:
        _psycopg()
        self._options = [f"fsync={'on' if fsync else 'off'}", *options]
        super().__init__(test, host)

    @property
    def url(self) -> str:
        return f"postgresql://{USER}@{self.host}:{self.port}/postgres"

    def prepare(self) -> None:
        initdb = [
            _program("initdb"),
            "--no-sync",
            "--auth=trust",
            f"--username={USER}",
            "--encoding=UTF8",
            "--locale=C",
            "-D",
            "data",
        ]
        if account := _account():
            shutil.chown(self.folder, *account)
            self.account = ("--reuid", str(account[0]), "--regid", str(account[1]), "--clear-groups")
        subprocess.run(
            [base.find_program("setpriv", "setpriv"), *self.account, *initdb],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=base.WAIT,
            check=True,
        )
        if self.host != "127.0.0.1":
            with (self.folder / "data" / "pg_hba.conf").open("a") as rules:
                rules.write(f"host all all {self.host}/24 trust\n")

    def command(self) -> Sequence[str]:
        options = (
            f"listen_addresses={self.host}",
            f"port={self.port}",
            "unix_socket_directories=",
            "max_connections=200",
            "shared_buffers=64MB",
            "max_wal_size=256MB",
            "log_checkpoints=off",
            *self._options,
        )
        return [_program("postgres"), "-D", "data", *(word for option in options for word in ("-c", option))]

    def answers(self) -> bool:
        try:
            self.execute("SELECT 1")
        except _psycopg().OperationalError:
            return False
        return True


class Named(Databases):
    """The server that the environment names; it is left running."""

    def __init__(self, url: str) -> None:
        _psycopg()
        self.url = url


def _make() -> Databases:
    url = os.environ.get(ENVIRONMENT)
    return Named(url) if url else PostgreSQL(fsync=False)


shared = base.Shared(_make)
"""The server of this test process; it loses data when it is killed."""


def _name(url: str) -> str:
    return urllib.parse.urlsplit(url).path.strip("/")


def _psycopg() -> Any:
    try:
        import psycopg
    except ImportError:
        raise base.missing("psycopg") from None
    return psycopg


@functools.cache
def _program(name: str) -> str:
    return base.find_program(name, "postgresql", "/usr/lib/postgresql/*/bin")


def _account() -> tuple[int, int] | None:
    """User and group to run as, None for the present ones: PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return None
    try:
        account = pwd.getpwnam(USER)
    except KeyError:
        raise base.missing("postgresql") from None
    return account.pw_uid, account.pw_gid
