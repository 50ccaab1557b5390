"""What is PostgreSQL's own: connections, transactions side by side, and what is lost with a connection.

Every transaction runs at READ COMMITTED and holds the rows that it changes; one that was chosen to end a deadlock, or that has
begun to make what another one made, runs again. Those that only read see one moment. Statistics are too old wherever rows come
and go, and so is a plan that was made before: each statement is written for one way of running it, by indexes, and planned for
the tables as large as they are when it runs.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import psycopg
import sqlalchemy
from psycopg import errors
from psycopg.pq import ExecStatus
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import QueuePool

from zaqar_notify.errors import CannotStart, StorageUnavailable
from zaqar_notify.storage.clock import ServerClock
from zaqar_notify.storage.grouping import Grouping, Work, units
from zaqar_notify.storage.sql import postgresql_rows, postgresql_statements
from zaqar_notify.storage.sql.listening import Announcer, Listener
from zaqar_notify.storage.sql.postgresql_connection import Connector, is_lost

T = TypeVar("T")
Item = TypeVar("Item")

_MOST_TRIES = 20
_MOST_TRIES_TO_MAKE = 5
"""What another one is making is there the next time, or something is wrong."""
_PAUSE = 0.01
"""Seconds, at most, before the second try; it grows with each."""
_IN_THE_WAY = (errors.DeadlockDetected, errors.SerializationFailure)
"""Another transaction was, and has ended."""
_OUR_FAULTS = (psycopg.DataError, psycopg.IntegrityError, psycopg.ProgrammingError)
"""Errors of a statement, not of the database: they go to their caller as they are."""
_NO_SCHEMA = (errors.UndefinedTable, errors.UndefinedColumn, errors.UndefinedFunction)
_NOT_OURS = (*_NO_SCHEMA, errors.InsufficientPrivilege)
_MOST_LANES = 1000
"""Of so many at once parked rows are taken."""
_MIGRATING = 0x7A61716172
"""The number of an advisory lock."""
_READ = b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_LOOK = b""
_WRITE = b"BEGIN"
_LEASE = b"BEGIN; SET LOCAL synchronous_commit = off"


class Database:
    """One process's access to a database. Nothing is opened before it is used: every process makes its own."""

    def __init__(self, url: str, busy_timeout: float, group_commit: int, *, pool_size: int, member_timeout: float) -> None:
        """``pool_size``: most connections; ``member_timeout``: seconds after which a worker that says nothing is dead.
        Raises `CannotStart` for a bad URL."""
        connector = Connector(url, busy_timeout)
        self.path = connector.database
        self.connect = connector.connect
        engine = self._engine = _engine(self.connect, busy_timeout, pool_size)
        self._reading, self._looking, self._writing, self._leasing = (
            engine.execution_options(begin=begin, writes=begin in (_WRITE, _LEASE)) for begin in (_READ, _LOOK, _WRITE, _LEASE)
        )
        self._groups = Groups(functools.partial(self._run, self._writing), group_commit)
        self.workers = Workers()
        self._member_timeout = member_timeout
        self.clock = ServerClock(self._ask_time)
        self._announcer = Announcer(self.connect)
        self._listeners: list[Listener] = []

    def exists(self) -> bool:
        """Raises `StorageUnavailable` also for one that only reads."""
        try:
            with self.read() as connection:
                only_reads = connection.exec_driver_sql(
                    "SELECT pg_is_in_recovery() OR current_setting('default_transaction_read_only') = 'on'"
                ).scalar_one()
        except StorageUnavailable as error:
            if f'database "{self.path}" does not exist' in str(error):
                return False
            raise
        if only_reads:
            raise StorageUnavailable("The database cannot be used now: it is read-only")
        return True

    def create(self) -> None:
        """That is for whoever administrates the server."""
        if not self.exists():
            raise CannotStart(f"There is no database {self.path} on the server: make one with createdb")

    @contextlib.contextmanager
    def read(self, *, snapshot: bool = True) -> Iterator[Connection]:
        """A snapshot: everything read in it is of one moment. Without, each statement is, which is quicker for a single one."""
        try:
            with _begun(self._reading if snapshot else self._looking) as connection:
                yield connection
                # Rolling back would make the connection forget what it has prepared.
                connection.commit()
        except (DBAPIError, PoolTimeout) as error:
            raise translated(error) from error

    def write(self, work: Callable[[Connection], T], *, durable: bool = True) -> T:
        """Run ``work`` in a transaction of its own, perhaps several times; returns when it is durable.

        With ``durable`` false it returns earlier: a server that stops may have forgotten it.
        """
        return self._run(self._writing if durable else self._leasing, work)

    def migrate(self, work: Callable[[Connection], T]) -> T:
        """`write`, for as long as it takes, and for one at a time."""

        def alone(connection: Connection) -> T:
            run = connection.exec_driver_sql
            run("SET LOCAL lock_timeout = 0")
            run("SET LOCAL idle_in_transaction_session_timeout = 0")
            run("SELECT pg_advisory_xact_lock(?)", (_MIGRATING,))
            return work(connection)

        return self.write(alone)

    def write_together(self, work: Callable[[Connection, list[Item]], Sequence[T]], item: Item) -> T:
        """Like `write`, for work that is cheaper for many at once: gets the items of all threads that wait with the same
        ``work``, and returns a result for each, in order."""
        result: T = self._groups.run(work, item)
        return result

    def rise_above(self, connection: Connection, table: str) -> None:
        """Ids that are given out later are above all those of the table."""
        if table in postgresql_statements.RISE_ABOVE:
            connection.exec_driver_sql(postgresql_statements.RISE_ABOVE[table])

    def is_dead(self, _worker_id: int, seen_at: float, now: float) -> bool:
        return seen_at + self._member_timeout <= now

    def announce(self) -> None:
        self._announcer.announce()

    def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
        listener = Listener(self.connect, wake)
        self._listeners.append(listener)
        return listener.close

    def close(self) -> None:
        self._announcer.close()
        for listener in self._listeners:
            listener.close()
        self._engine.dispose()

    def _run(self, engine: Engine, work: Callable[[Connection], T]) -> T:
        tries = itertools.count(1)
        while True:
            try:
                with _begun(engine) as connection:
                    result = work(connection)
                    _commit(connection)
                    return result
            except (DBAPIError, PoolTimeout) as error:
                done = next(tries)
                if done >= _most_tries(error):
                    raise translated(error) from error
            time.sleep(random.uniform(0, _PAUSE * done))  # noqa: S311 - so that two do not meet again

    def _ask_time(self) -> float:
        begun_at = time.monotonic()
        with self.read(snapshot=False) as connection:
            asked_at = time.monotonic()
            told = float(connection.exec_driver_sql("SELECT extract(epoch FROM clock_timestamp())::float8").scalar_one())
            answered_at = time.monotonic()
        # Said for the middle of the whole, which may have been connecting for the most part.
        return told + (begun_at + time.monotonic()) / 2 - (asked_at + answered_at) / 2


def _most_tries(error: Exception) -> int:
    """How often a transaction runs that fails with this, and has stored nothing."""
    if not isinstance(error, DBAPIError):
        return 1
    if isinstance(error.orig, _IN_THE_WAY):
        return _MOST_TRIES
    if isinstance(error.orig, errors.UniqueViolation):
        return _MOST_TRIES_TO_MAKE
    return 2 if error.connection_invalidated else 1


def translated(error: Exception) -> Exception:
    """What to raise for an error of the database."""
    if isinstance(error, PoolTimeout):
        return StorageUnavailable("The database cannot be used now: all connections of this process are in use")
    if not isinstance(error, DBAPIError):
        return error
    if isinstance(error.orig, _OUR_FAULTS) and not isinstance(error.orig, _NOT_OURS):
        return error
    hint = "; run: zaqar-notify db upgrade" if isinstance(error.orig, _NO_SCHEMA) else ""
    return StorageUnavailable(f"The database cannot be used now: {_first_line(error.orig)}{hint}")


def _first_line(error: Any) -> str:
    """What was given to the statement is in the lines that follow."""
    return str(error).strip().partition("\n")[0]


# -- connections ---------------------------------------------------------------------------------------------------------------


def _engine(connect: Callable[[], psycopg.Connection[Any]], busy_timeout: float, pool_size: int) -> Engine:
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://",
        creator=connect,
        hide_parameters=True,
        use_native_hstore=False,
        poolclass=QueuePool,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=busy_timeout,
        pool_use_lifo=True,
        execution_options={"insert_rows": postgresql_rows.store, "lanes_at_once": _MOST_LANES},
    )

    @event.listens_for(engine, "before_cursor_execute", retval=True)
    def _translate(  # noqa: PLR0917 - SQLAlchemy's
        connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
    ) -> tuple[str, Any]:
        # What SQLAlchemy has compiled is in PostgreSQL's words.
        if context.compiled is None:
            statement = postgresql_statements.translated(statement, connection.get_execution_options()["writes"])
        return statement, parameters

    @event.listens_for(engine, "do_executemany")
    def _execute_at_once(cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
        at_once = postgresql_rows.of_many(statement)
        if at_once is None:
            return False
        cursor.execute(postgresql_statements.translated(at_once.text, True), at_once.arrays(parameters))
        return True

    return engine


@contextlib.contextmanager
def _begun(engine: Engine) -> Iterator[Connection]:
    """A connection in a transaction, which is rolled back unless it is committed. To begin it shows whether the connection
    still is one: nothing was done yet, so that another one is taken."""
    connection = engine.connect()
    try:
        try:
            _begin(connection)
        except OperationalError as error:
            connection.invalidate(error)
            # Its like are lost too.
            engine.dispose()
            _begin(connection)
        yield connection
    finally:
        connection.close()


def _begin(connection: Connection) -> None:
    begin: bytes = connection.get_execution_options()["begin"]
    driver: Any = connection.connection.driver_connection
    if not begin:
        if is_lost(driver):
            raise OperationalError("", None, psycopg.OperationalError("the connection is closed"))
        return
    try:
        result = driver.pgconn.exec_(begin)
    except psycopg.OperationalError as error:
        raise OperationalError(begin.decode(), None, error) from error
    if result.status != ExecStatus.COMMAND_OK:
        raise OperationalError(begin.decode(), None, psycopg.OperationalError(result.error_message.decode(errors="replace")))


def _commit(connection: Connection) -> None:
    driver: Any = connection.connection.driver_connection
    try:
        connection.commit()
    except DBAPIError as error:
        if not driver.closed:
            raise
        # Not to be tried again: it may be stored.
        raise translated(error) from error


# -- groups and members --------------------------------------------------------------------------------------------------------


class Groups(Grouping):
    """Posts of many threads in one transaction."""

    patience = 0.002

    def __init__(self, transact: Callable[[Callable[[Connection], Any]], Any], most: int) -> None:
        super().__init__(most)
        self._transact = transact

    def _perform(self, batch: list[Work]) -> None:
        for unit in units(batch):
            try:
                results = self._transact(functools.partial(_call, unit))
            except StorageUnavailable:
                raise
            except Exception as error:  # noqa: BLE001 - it is raised by those whose work it is
                for work in unit:
                    work.error, work.done = error, True
            else:
                for work, result in zip(unit, results, strict=True):
                    work.result, work.done = result, True


def _call(unit: list[Work], connection: Connection) -> Sequence[Any]:
    return unit[0].run(connection, [work.item for work in unit])


class Workers:
    """Nothing has to be held, so that a worker is known to live: it says so."""

    def hold(self, worker_id: int) -> None: ...

    def let_go(self, worker_id: int) -> None: ...

    def forget(self, worker_id: int) -> None: ...
