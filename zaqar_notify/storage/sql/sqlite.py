"""What is SQLite's own: opening the file, commits that are grouped over threads, locks between processes.

SQLite lets one connection write at a time, and lets the others wait with a back-off that takes up to a second under load. Here
the threads of a process queue up for one writing connection, whose transaction does the work of all that wait (one fsync for
all), and the processes take turns by a lock file.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import sqlalchemy
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DataError, IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import QueuePool, StaticPool

from zaqar_notify.errors import CannotStart, StorageUnavailable
from zaqar_notify.storage.file_lock import FileLock
from zaqar_notify.storage.grouping import Grouping, Work, units

T = TypeVar("T")
Item = TypeVar("Item")

_MOST_READERS = 64
_URLS = "sqlite:////path/to/the/file, postgresql://user:password@host:5432/database or mongodb://a,b,c/database?replicaSet=name"
_OUR_FAULTS = (DataError, IntegrityError, ProgrammingError)
"""Errors of a statement, not of the database: they go to their caller as they are."""


def path_of(url: str) -> str:
    """The file that a database URL names. Raises `CannotStart`."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise CannotStart(f"[storage] connection is no database URL; use {_URLS}") from None
    if parsed.get_backend_name() != "sqlite":
        raise CannotStart(f"[storage] connection: {parsed.get_backend_name()} is not supported; use {_URLS}")
    if not parsed.database or parsed.database == ":memory:":
        raise CannotStart("[storage] connection: processes share a file; use sqlite:////path/to/the/file")
    return os.path.abspath(parsed.database)


class Database:
    """One process's access to a database file. Nothing is opened before it is used: every process makes its own."""

    def __init__(self, path: str, busy_timeout: float, group_commit: int) -> None:
        self.path = path
        self._reading = _engine(path, busy_timeout, writes=False)
        self._writer = Writer(_engine(path, busy_timeout, writes=True), FileLock(f"{path}.lock"), busy_timeout, group_commit)
        self.workers = WorkerLocks(f"{path}.workers")
        self.clock = time.time

    def rise_above(self, connection: Connection, table: str) -> None:
        """Ids that are given out later are above all those of the table: whoever gives them out looks."""

    def is_dead(self, worker_id: int, _seen_at: float, _now: float) -> bool:
        """Of a registered worker."""
        return self.workers.dead(worker_id)

    def announce(self) -> None:
        """There is nobody on other machines."""

    def watch(self, _wake: Callable[[], None]) -> Callable[[], None]:
        return lambda: None

    def exists(self) -> bool:
        return os.path.exists(self.path)

    def create(self) -> None:
        """Make an empty file unless there is one."""
        if self.exists():
            # Closing a file of one's own would end the locks that SQLite has on it in this process.
            return
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            return
        except OSError as error:
            raise StorageUnavailable(f"Cannot open the database {self.path}: {error.strerror}") from error

    @contextlib.contextmanager
    def read(self, *, snapshot: bool = True) -> Iterator[Connection]:
        """A snapshot: everything read in it is of one moment; also where that is not asked for."""
        try:
            with self._reading.connect() as connection:
                yield connection
        except (DatabaseError, PoolTimeout) as error:
            raise translated(error) from error

    def write(self, work: Callable[[Connection], T], *, durable: bool = True) -> T:
        """Run ``work`` in a transaction of its own (which may share its commit); returns when it is durable.

        With ``durable`` false it returns earlier: a machine that stops may have forgotten it, a process that is killed not.
        """
        result: T = self._writer.run(lambda connection, _: [work(connection)], None, together=False, durable=durable)
        return result

    def migrate(self, work: Callable[[Connection], T]) -> T:
        """`write`, for as long as it takes."""
        return self.write(work)

    def write_together(self, work: Callable[[Connection, list[Item]], Sequence[T]], item: Item) -> T:
        """Like `write`, for work that is cheaper for many at once: gets the items of all threads that wait with the same
        ``work``, and returns a result for each, in order."""
        result: T = self._writer.run(work, item, together=True)
        return result

    def close(self) -> None:
        self.workers.close()
        self._writer.close()
        self._reading.dispose()


def translated(error: Exception) -> Exception:
    """What to raise for an error of the database. The text of the driver's errors never has values in it."""
    if isinstance(error, _OUR_FAULTS):
        return error
    if isinstance(error, DatabaseError):
        return StorageUnavailable(f"The database cannot be used now: {error.orig}")
    if isinstance(error, PoolTimeout):
        return StorageUnavailable("The database cannot be used now: too many readers")
    if isinstance(error, OSError):
        return StorageUnavailable(f"The database cannot be used now: {error.strerror}")
    return error


def _engine(path: str, busy_timeout: float, *, writes: bool) -> Engine:
    uri = f"file:{urllib.parse.quote(path)}?mode=rw"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(uri, uri=True, timeout=busy_timeout, isolation_level=None, check_same_thread=False)
        try:
            if writes:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA journal_size_limit = 67108864")
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA wal_autocheckpoint = 8000")
                connection.execute("PRAGMA cache_size = -8000")
                connection.execute("PRAGMA temp_store = MEMORY")
            else:
                connection.execute("PRAGMA query_only = ON")
                connection.execute("PRAGMA cache_size = -1000")
        except BaseException:
            connection.close()
            raise
        return connection

    pool: dict[str, Any] = {"poolclass": StaticPool}
    if not writes:
        pool = {
            "poolclass": QueuePool,
            "pool_size": 4,
            "max_overflow": _MOST_READERS,
            "pool_timeout": busy_timeout,
            "pool_use_lifo": True,
        }
    engine = sqlalchemy.create_engine("sqlite://", creator=connect, hide_parameters=True, **pool)
    begin = "BEGIN IMMEDIATE" if writes else "BEGIN"

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # By the driver itself: it is a fifth of the time, and every transaction has one.
        try:
            connection.connection.cursor().execute(begin).close()
        except sqlite3.DatabaseError as error:
            raise OperationalError(begin, None, error) from error

    return engine


# -- locks between processes ---------------------------------------------------------------------------------------------------


class WorkerLocks:
    """A lock file for each worker, held as long as its process lives: whoever can lock it knows that the worker is dead."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._held: dict[int, FileLock] = {}

    def hold(self, worker_id: int) -> None:
        """Raises `StorageUnavailable`."""
        if worker_id in self._held:
            return
        lock = FileLock(self._path(worker_id))
        try:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            locked = lock.acquire(0)
        except OSError as error:
            raise StorageUnavailable(f"Cannot lock {self._path(worker_id)}: {error.strerror}") from error
        if not locked:
            lock.close()
            raise StorageUnavailable(f"The lock of worker {worker_id} is held by another process")
        self._held[worker_id] = lock

    def let_go(self, worker_id: int) -> None:
        """Call it when the worker was not registered after all: its id may be the next that another process gets."""
        lock = self._held.pop(worker_id, None)
        if lock is not None:
            # The file stays: another process may have opened it, and must not hold the lock of one that nobody finds.
            lock.close()

    def dead(self, worker_id: int) -> bool:
        """Whether the process of this registered worker has ended."""
        if worker_id in self._held:
            return False
        if not os.path.exists(self._path(worker_id)):
            # It is held before the worker is registered, and removed after.
            return True
        lock = FileLock(self._path(worker_id))
        try:
            return lock.acquire(0)
        finally:
            lock.close()

    def forget(self, worker_id: int) -> None:
        """Call it when the worker is not registered any more."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(worker_id))
        lock = self._held.pop(worker_id, None)
        if lock is not None:
            lock.close()

    def close(self) -> None:
        for lock in self._held.values():
            lock.close()
        self._held.clear()

    def _path(self, worker_id: int) -> str:
        return os.path.join(self._folder, f"{worker_id}.lock")


# -- group commit --------------------------------------------------------------------------------------------------------------


class Writer(Grouping):
    """The only connection that writes, for all threads of the process."""

    failures = (DatabaseError, OSError, StorageUnavailable)

    def __init__(self, engine: Engine, lock: FileLock, timeout: float, most: int) -> None:
        super().__init__(most)
        self._engine = engine
        self._lock = lock
        self._timeout = timeout
        self._connection: Connection | None = None
        self._durable = True  # what the connection is set to

    def close(self) -> None:
        with self._mutex:
            self._disconnect()
            self._engine.dispose()
            self._lock.close()

    def _translated(self, error: Exception) -> Exception:
        return translated(error)

    def _prepare(self) -> None:
        if not self._lock.acquire(self._timeout):
            raise StorageUnavailable("The database cannot be used now: it is locked by another process")

    def _perform(self, batch: list[Work]) -> None:
        try:
            self._commit(batch)
        finally:
            self._lock.release()

    def _commit(self, batch: list[Work]) -> None:
        """Nothing is stored when this raises."""
        parts = units(batch)
        try:
            connection = self._connect()
            self._set_durability(connection, any(work.durable for work in batch))
            transaction = connection.begin()
            try:
                for unit in parts:
                    _run(connection, unit, nested=len(parts) > 1)
                if all(work.error for work in batch):
                    transaction.rollback()
                else:
                    transaction.commit()
            except BaseException:
                transaction.rollback()
                raise
        except BaseException:
            # Whatever state it is in, the next transaction has a new one.
            self._disconnect()
            raise

    def _connect(self) -> Connection:
        if self._connection is None:
            self._connection = self._engine.connect()
        return self._connection

    def _set_durability(self, connection: Connection, durable: bool) -> None:
        """Whether the commit waits for the disk (an fsync). Has to be set outside of a transaction."""
        if durable is not self._durable:
            driver: Any = connection.connection.driver_connection
            driver.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._durable = durable

    def _disconnect(self) -> None:
        self._durable = True
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(DatabaseError):
                connection.invalidate()
            connection.close()


def _run(connection: Connection, unit: list[Work], *, nested: bool) -> None:
    """An error of the work itself is its own; only an error of the database is raised."""
    if nested:
        connection.exec_driver_sql("SAVEPOINT unit")
    try:
        for work, result in zip(unit, unit[0].run(connection, [work.item for work in unit]), strict=True):
            work.result = result
    except Exception as error:
        if isinstance(error, DatabaseError) and not isinstance(error, _OUR_FAULTS):
            raise
        if nested:
            connection.exec_driver_sql("ROLLBACK TO unit")
        for work in unit:
            work.error = error
    if nested:
        connection.exec_driver_sql("RELEASE unit")
