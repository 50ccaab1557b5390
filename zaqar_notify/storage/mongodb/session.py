"""Transactions and snapshots on one replica set, and what becomes of its errors."""

from __future__ import annotations

import contextlib
import datetime
import os
import random
import re
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import pymongo
from pymongo.change_stream import CollectionChangeStream
from pymongo.client_session import ClientSession
from pymongo.database import Database as Collections
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    ExecutionTimeout,
    InvalidURI,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WriteConcernError,
)
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.uri_parser import parse_uri
from pymongo.write_concern import WriteConcern

from zaqar_notify.errors import CannotStart, StorageUnavailable
from zaqar_notify.storage.file_lock import FileLock
from zaqar_notify.storage.grouping import Grouping, Run, Work
from zaqar_notify.storage.mongodb.abandoned import end_abandoned
from zaqar_notify.storage.mongodb.collections import Document
from zaqar_notify.storage.mongodb.scope import Scope

T = TypeVar("T")
Item = TypeVar("Item")

DEFAULT_NAME = "zaqar_notify"
"""Of the database, where the URL names none."""

_BAD_URL = (
    "[storage] connection is no MongoDB URL: mongodb://user:password@host1,host2/database?replicaSet=name "
    "(with %-escapes for what is special in the user or password)"
)
_TRANSIENT = "TransientTransactionError"
_UNKNOWN_RESULT = "UnknownTransactionCommitResult"
_DUPLICATE = 11000
_CONFLICT = 112
_PAUSE = 0.001
"""Seconds between two tries, at most: twice as long each time. Chance keeps two apart who are in each other's way."""
_LONGEST_PAUSE = 0.128
_LONGEST_OF_CONFLICT = 0.008
"""Others hold what they write for a few milliseconds."""
_SHORTEST_IDLE = 1.0
"""Seconds that any process may need between two commands."""
_LOST_SNAPSHOT = frozenset({239, 246})
"""SnapshotTooOld, SnapshotUnavailable: another one has to be taken."""
_NOT_NOW = _LOST_SNAPSHOT | frozenset(
    {
        6, 7, 13, 18, 24, 50, 64, 79, 89, 91, 100, 112, 133, 189, 202, 251, 262, 317,
        9001, 10107, 11600, 11602, 13388, 13435, 13436, 14031,
    }
)  # fmt: skip
"""Codes of errors that are the server's state and no fault of a command: no primary, shutting down, no right, a full disk."""
_SAID = {
    13: "the user of [storage] connection may not do this, or there is none",
    18: "the server does not take the user and the password of [storage] connection",
}
"""What whoever configures it has to know."""
_OF_THE_DRIVER = re.compile(r" \(configured timeouts|, Timeout:")
"""From here on its message is about itself."""
_NO_ELECTION = object()
_TURNS = 64
_LONGEST_TURN = 0.25
"""Seconds that a process waits for its turn, should another one have stopped in the middle of its own."""
_ASKING = 1.0
"""Seconds that asking for the time may take."""
_ABORTING = 0.5
"""Seconds that telling the server to forget a transaction may take."""


class Database:
    """One process's access to a database. Nothing is opened before it is used, and every process opens its own."""

    def __init__(self, url: str, patience: float, group_commit: int, turns: str | None = None) -> None:
        """``patience``: so many seconds a method is tried again while the replica set has no primary, or others are in the
        way. ``turns``: a file by which the processes of this machine take turns in `write_together`. Raises `CannotStart` for
        a bad URL."""
        try:
            self.name: str = parse_uri(url, warn=False)["database"] or DEFAULT_NAME
        except (InvalidURI, ConfigurationError, ValueError):
            # The text of the error may have a part of the password in it.
            raise CannotStart(_BAD_URL) from None
        self._url = url
        self._patience = patience
        self._most = group_commit
        self._turns_file = turns
        self._groups: dict[Run, _Together] = {}
        self._turns = [threading.Lock() for _ in range(_TURNS)]
        self._mutex = threading.Lock()
        self._client: pymongo.MongoClient[Document] | None = None
        self._inherited: pymongo.MongoClient[Document] | None = None
        self._process = 0
        self._closed = False
        self._election: object = _NO_ELECTION
        """That of the primary of which is known that it knows what a majority has. None: there are none (a sharded cluster)."""

    @property
    def client(self) -> pymongo.MongoClient[Document]:
        with self._mutex:
            if self._closed:
                raise StorageUnavailable("The database cannot be used any more: it was closed")
            if self._client is None or self._process != os.getpid():
                # What a fork has inherited belongs to the parent, and is left as it is.
                self._inherited = self._client
                self._client, self._process = self.connect(), os.getpid()
            return self._client

    def connect(self, **options: Any) -> pymongo.MongoClient[Document]:
        """A client of one's own; what the URL itself says goes before these options and the defaults."""
        milliseconds = round(self._patience * 1000)
        defaults = {
            "serverSelectionTimeoutMS": milliseconds,
            "connectTimeoutMS": milliseconds,
            "waitQueueTimeoutMS": milliseconds,
            # A primary whose machine has vanished is noticed by its silence alone.
            "heartbeatFrequencyMS": max(500, min(2000, milliseconds)),
            "socketTimeoutMS": 4 * milliseconds,
            "appname": "zaqar-notify",
            **options,
        }
        given = {name.lower() for name in parse_uri(self._url, warn=False, normalize=False)["options"]}
        kept = {name: value for name, value in defaults.items() if name.lower() not in given}
        return pymongo.MongoClient(self._url, **kept)

    @property
    def collections(self) -> Collections[Document]:
        return self.of(self.client)

    def of(self, client: pymongo.MongoClient[Document]) -> Collections[Document]:
        """For what stands alone: its writes are on the disks of a majority when they return."""
        return client.get_database(
            self.name, read_preference=ReadPreference.PRIMARY, write_concern=self._durable(), read_concern=ReadConcern("local")
        )

    def _durable(self) -> WriteConcern:
        return WriteConcern("majority", wtimeout=round(2000 * self._patience), j=True)

    def read(self, work: Callable[[Scope], T]) -> T:
        """Run ``work`` on a snapshot of what a majority has: everything read in it is of one moment. It may run again."""

        def once(end: float) -> T:
            while True:
                self._wait_for_majority(end)
                with self.client.start_session(snapshot=True) as session:
                    result = work(Scope(self.client.get_database(self.name, read_preference=ReadPreference.PRIMARY), session))
                # Only now it is known who has answered.
                if self._is_elected():
                    return result

        return self._until_done(once)

    def _is_elected(self) -> bool:
        """The primary is the one that was waited for."""
        return bool(self.client.topology_description.max_election_id == self._election)

    def _wait_for_majority(self, end: float) -> None:
        """A primary that was just elected has all that was acknowledged before, but does not know yet that a majority has it,
        too: a snapshot would be without it. It knows as soon as a majority has something of its own term."""
        if self._is_elected():
            return
        while not _knows_majority(told := self._say_hello()):
            if time.monotonic() >= end:
                raise StorageUnavailable("The database cannot be used now: its new primary does not reach a majority")
            time.sleep(_LONGEST_OF_CONFLICT)
        self._election = told.get("electionId")

    def _say_hello(self) -> Mapping[str, Any]:
        told: Mapping[str, Any] = self.client.admin.command("hello")
        return told

    @contextlib.contextmanager
    def turn(self, *of: Hashable) -> Iterator[None]:
        """Threads of this process that would want the same things do it one after the other. No guarantee, but good manners:
        who has waited for very long goes on."""
        lock = self._turns[hash(of) % len(self._turns)]
        taken = lock.acquire(timeout=self._patience)
        try:
            yield
        finally:
            if taken:
                lock.release()

    def alone(self, work: Callable[[Scope], T]) -> T:
        """Run ``work`` without a transaction: each of its writes is atomic, and durable, by itself. When the connection
        breaks, or there is no primary, it is run again from the beginning."""
        return self._until_done(lambda _: work(Scope(self.collections)))

    def write(self, work: Callable[[Scope], T]) -> T:
        """Run ``work`` in a transaction of its own; returns when that is durable. Where others were in the way it is run again
        from the beginning."""

        def once(end: float) -> T:
            with self.client.start_session() as session:
                session.start_transaction(ReadConcern("snapshot"), self._durable(), ReadPreference.PRIMARY)
                try:
                    result = work(Scope(self.client.get_database(self.name), session))
                except BaseException:
                    # Where there is no primary it has ended, or does so by itself.
                    with contextlib.suppress(PyMongoError), pymongo.timeout(_ABORTING):
                        session.abort_transaction()
                    raise
                _commit(session, end)
                return result

        return self._until_done(once)

    def write_together(self, work: Callable[[Scope, list[Item]], Sequence[T]], item: Item) -> T:
        """Like `write`, for work that is cheaper for many at once: gets the items of all threads that wait with the same
        ``work``, and returns a result for each, in order."""
        with self._mutex:
            group = self._groups.setdefault(work, _Together(self, self._most, self._turns_file))
        result: T = group.run(work, item)
        return result

    def hello(self) -> Mapping[str, Any]:
        """What the primary says of itself."""
        return self._until_done(lambda _: self._say_hello())

    def time(self) -> float:
        """What the clock of the primary says. Not waited for: who asks counts on by itself."""
        try:
            with pymongo.timeout(_ASKING):
                told: datetime.datetime = self.client.admin.command("hello")["localTime"]
        except PyMongoError as error:
            raise translated(error) from error
        return told.replace(tzinfo=datetime.UTC).timestamp()

    def touch(self, name: str) -> None:
        """Change the one document of a collection, for those who watch its changes. They see what a majority has."""
        self.collections[name].update_one({"_id": name}, {"$inc": {"touched": 1}}, upsert=True)

    def changes_of(self, name: str, most_wait: int) -> CollectionChangeStream[Document]:
        """A stream of what changes from now on; asking for the next takes at most ``most_wait`` milliseconds."""
        collection = self.collections[name].with_options(read_concern=ReadConcern("majority"))
        return collection.watch([{"$project": {"_id": 1}}], max_await_time_ms=most_wait)

    def close(self) -> None:
        with self._mutex:
            client, self._client, self._closed = self._client, None, True
            groups = list(self._groups.values())
        for group in groups:
            group.close()
        if client is not None and self._process == os.getpid():
            client.close()

    @property
    def longest_idle(self) -> float:
        """Seconds between two commands after which a transaction counts as abandoned."""
        return max(_SHORTEST_IDLE, self._patience / 2)

    def end_abandoned(self) -> None:
        with contextlib.suppress(StorageUnavailable):
            end_abandoned(self.client, self.longest_idle)

    def _until_done(self, once: Callable[[float], T]) -> T:
        end = time.monotonic() + self._patience
        look_at = end - self._patience / 2
        pause = _PAUSE
        while True:
            try:
                return once(end)
            except PyMongoError as error:
                now = time.monotonic()
                if not _passes(error) or now >= end:
                    raise translated(error) from error
                conflict = _CONFLICT in _codes(error)
            if conflict and now >= look_at:
                look_at = now + self._patience / 8
                self.end_abandoned()
            longest = _LONGEST_OF_CONFLICT if conflict else _LONGEST_PAUSE
            time.sleep(pause * random.random())  # noqa: S311 - no secret
            pause = min(2 * pause, longest)


class _Together(Grouping):
    """Of one kind of work. A transaction cannot take back a part of itself: where one of many fails, each has its own.

    Two processes that post to one queue are in each other's way: one of them would do its work again. So those of one machine
    take turns, and who waits collects more meanwhile. It is no guarantee, and needs none: who has waited for long goes on.
    """

    patience = 0.003
    """A commit takes as long: the journal, and the majority."""

    def __init__(self, database: Database, most: int, turns: str | None) -> None:
        super().__init__(most)
        self._database = database
        self._turn = None if turns is None else FileLock(turns)

    def close(self) -> None:
        if self._turn is not None:
            self._turn.close()

    def _prepare(self) -> None:
        if self._turn is not None:
            with contextlib.suppress(OSError):
                self._turn.acquire(_LONGEST_TURN)

    def _perform(self, batch: list[Work]) -> None:
        try:
            self._store(batch)
        finally:
            if self._turn is not None:
                self._turn.release()

    def _store(self, batch: list[Work]) -> None:
        run = batch[0].run
        try:
            results = self._database.write(lambda scope: run(scope, [work.item for work in batch]))
        except Exception as error:
            if isinstance(error, StorageUnavailable):
                raise
            if len(batch) > 1:
                for work in batch:
                    self._store([work])
            else:
                batch[0].error = error
        else:
            for work, result in zip(batch, results, strict=True):
                work.result = result
        for work in batch:
            # Whatever becomes of the next one.
            work.done = True


def _knows_majority(told: Mapping[str, Any]) -> bool:
    """``told``: what the primary says of itself."""
    if "electionId" not in told:
        return True
    # The id of an election is twelve bytes that end in its term.
    term = int.from_bytes(told["electionId"].binary[4:], "big")
    return bool(told["lastWrite"]["majorityOpTime"]["t"] >= term)


def _commit(session: ClientSession, end: float) -> None:
    """Asked again while nobody knows what became of it: a commit that is repeated changes nothing more."""
    while True:
        try:
            session.commit_transaction()
        except PyMongoError as error:
            if not error.has_error_label(_UNKNOWN_RESULT) or time.monotonic() >= end:
                raise
        else:
            return
        time.sleep(_LONGEST_PAUSE * random.random())  # noqa: S311 - no secret


def _passes(error: PyMongoError) -> bool:
    """Whether it may work in a moment. Ids that another one has taken meanwhile are chosen anew."""
    if error.has_error_label(_UNKNOWN_RESULT) or isinstance(error, ServerSelectionTimeoutError):
        return False  # it was waited for
    return error.has_error_label(_TRANSIENT) or isinstance(error, ConnectionFailure) or _codes(error) <= _AGAIN


_AGAIN = _NOT_NOW - {13, 18, 14031} | {_DUPLICATE}


def _codes(error: PyMongoError) -> set[int | None]:
    if isinstance(error, BulkWriteError):
        return {one["code"] for one in error.details.get("writeErrors", ())} or {None}
    return {error.code} if isinstance(error, OperationFailure) else {None}


def translated(error: PyMongoError) -> Exception:
    """What to raise for it. A fault of ours goes to the caller as it is; of others the text has no values in it."""
    known = error.has_error_label(_TRANSIENT) or error.has_error_label(_UNKNOWN_RESULT)
    if isinstance(error, ServerSelectionTimeoutError):
        why = f"no primary of the replica set answers ({_OF_THE_DRIVER.split(str(error))[0]})"
    elif isinstance(error, ConnectionFailure):
        why = "the connection to the primary is broken"
    elif known or isinstance(error, (ExecutionTimeout, WriteConcernError)) or _codes(error) <= _NOT_NOW:
        details = getattr(error, "details", None) or {}
        why = _SAID.get(details.get("code", 0)) or details.get("codeName") or type(error).__name__
    else:
        return error
    return StorageUnavailable(f"The database cannot be used now: {why}")
