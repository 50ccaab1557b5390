"""What is MongoDB's own: the schema, transactions that meet, a server that is away, the stream of changes."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest import mock

import pymongo
import testtools
from pymongo.client_session import ClientSession
from pymongo.errors import OperationFailure
from pymongo.write_concern import WriteConcern

from tests.servers import mongodb
from tests.storage import conformance
from tests.storage.test_mongodb import MongoCase
from zaqar_notify.errors import CannotStart, Conflict, StorageUnavailable
from zaqar_notify.model import Draft, LaneKey, Message, Subscription
from zaqar_notify.storage import ids
from zaqar_notify.storage.base import Breaker
from zaqar_notify.storage.file_lock import FileLock
from zaqar_notify.storage.mongodb import collections as names
from zaqar_notify.storage.mongodb import session
from zaqar_notify.storage.mongodb.driver import MongoStorage
from zaqar_notify.storage.mongodb.scope import Scope
from zaqar_notify.storage.mongodb.session import Database, translated

WAIT = 30.0


def run_threads(works: Sequence[Callable[[], None]]) -> list[Exception]:
    """At once; returns what they raised."""
    failures: list[Exception] = []
    together = threading.Barrier(len(works))

    def run(work: Callable[[], None]) -> None:
        together.wait(WAIT)
        try:
            work()
        except Exception as error:  # noqa: BLE001 - the test tells of it
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


class Standalone(mongodb.Mongod):
    """No member of a replica set."""

    def command(self) -> Sequence[str]:
        words = list(super().command())
        at = words.index("--replSet")
        return words[:at] + words[at + 2 :]


class SchemaTest(testtools.TestCase):
    def setUp(self) -> None:
        super().setUp()
        server = mongodb.shared()
        self.url = server.new_database()
        self.addCleanup(server.drop, self.url)
        self.client = mongodb.client(self.url)
        self.addCleanup(self.client.close)
        self.database = self.client.get_default_database()
        self.storage = self.open(self.url)

    def open(self, url: str, **options: Any) -> MongoStorage:
        storage = MongoCase.storage_at(url, **options)
        self.addCleanup(storage.close)
        return storage

    def test_an_empty_database_has_to_be_upgraded_once(self) -> None:
        error = self.assertRaises(CannotStart, self.storage.check)
        self.assertIn("db upgrade", str(error))
        self.assertTrue(self.storage.upgrade())
        self.storage.check()
        self.assertFalse(self.storage.upgrade())

    def test_it_has_the_indexes_that_are_declared(self) -> None:
        self.storage.upgrade()
        found = {
            (collection, name): ([field for field, _ in index["key"]], index.get("unique", False), partial(index))
            for collection in names.COLLECTIONS
            for name, index in self.database[collection].index_information().items()
            if name != "_id_"
        }
        declared = {
            (collection, name): (list(fields), options.get("unique", False), partial(options))
            for collection, name, fields, options in names.INDEXES
        }
        self.assertEqual(declared, found)
        self.assertEqual(set(names.COLLECTIONS), set(self.database.list_collection_names()))

    def test_two_may_upgrade_at_once(self) -> None:
        self.assertEqual([], run_threads([self.storage.upgrade, self.open(self.url).upgrade]))
        self.storage.check()

    def test_an_upgrade_keeps_what_is_there(self) -> None:
        self.storage.upgrade()
        given = self.storage.publish("p", "q", [Draft(b"1", 300)])
        self.database.messages.drop_index("ix_messages_claim")
        self.set_schema(revision=names.REVISION - 1)
        error = self.assertRaises(CannotStart, self.storage.check)
        self.assertIn("db upgrade", str(error))
        self.assertTrue(self.storage.upgrade())
        self.storage.check()
        self.assertEqual(given, [message.id for message in self.storage.list_messages("p", "q", None, 10)])
        self.assertIn("ix_messages_claim", self.database.messages.index_information())

    def test_from_the_first_revision(self) -> None:
        """Lanes were in no pool."""
        self.storage.upgrade()
        lane = LaneKey("p", "x")
        self.storage.settle([], [], [Breaker(lane, 1, 0.0)])
        lanes = self.database.lanes
        lanes.update_one({}, {"$unset": {"pool": ""}})
        lanes.drop_index("ix_lanes_due")
        lanes.create_index([("project_id", 1), ("due_at", 1), ("_id", 1)], name="ix_lanes_due")
        self.database.receipts.drop()
        self.set_schema(revision=1, oldest_reader=1)
        storages = [self.storage, self.open(self.url)]
        self.assertEqual([], run_threads([storage.upgrade for storage in storages]))
        self.storage.check()
        self.assertEqual("pool", next(iter(lanes.index_information()["ix_lanes_due"]["key"]))[0])
        self.assertIn("receipts", self.database.list_collection_names())
        self.assertEqual([lane], list(self.storage.take(1, 30, entries=0, rows=0, lanes=5).lanes))
        self.assertEqual([Breaker(lane, 1, 0.0)], self.storage.breakers())

    def test_a_newer_schema_says_who_may_use_it(self) -> None:
        self.storage.upgrade()
        self.set_schema(revision=names.REVISION + 1)
        self.storage.check()
        self.set_schema(oldest_reader=names.REVISION + 1)
        error = self.assertRaises(CannotStart, self.storage.check)
        self.assertIn("too new", str(error))

    def set_schema(self, **values: int) -> None:
        self.database.schema.update_one({}, {"$set": values})

    def test_it_needs_a_replica_set(self) -> None:
        server = Standalone(self)
        storage = self.open(f"mongodb://{server.address}/notify")
        for call in (storage.upgrade, storage.check):
            error = self.assertRaises(CannotStart, call)
            self.assertIn("replica set", str(error))

    def test_the_url_says_which_database(self) -> None:
        def database(url: str) -> Database:
            return Database(url, 5.0, 256)

        self.assertEqual("some", database("mongodb://a:1,b:2/some?replicaSet=rs0").name)
        self.assertEqual("zaqar_notify", database("mongodb://a:1").name)
        for bad in ("mongodb://", "mongodb://a:port/x", "mongodb://a/x?w=1=2", "mongodb://a:secret/b@c/x"):
            self.assertNotIn("secret", str(self.assertRaises(CannotStart, database, bad)))

    def test_the_url_goes_before_the_defaults(self) -> None:
        with Database(f"{self.url}&serverSelectionTimeoutMS=1234&maxPoolSize=3", 5.0, 256).connect() as client:
            self.assertEqual(1.234, client.options.server_selection_timeout)
            self.assertEqual(3, client.options.pool_options.max_pool_size)
            self.assertEqual(5.0, client.options.pool_options.connect_timeout)


def partial(index: Mapping[str, Any]) -> dict[str, Any]:
    return dict(index.get("partialFilterExpression", {}))


class TurnsTest(MongoCase):
    """The processes of one machine take turns with what they commit together."""

    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.file = os.path.join(folder.name, "turns")
        self.storage = self.storage_at(self.url, clock=self.clock, turns=self.file)
        self.addCleanup(self.storage.close)
        self.storage.publish("p", "q", [Draft(b"1", 300)])

    def test_who_posts_waits_for_its_turn(self) -> None:
        other = FileLock(self.file)
        self.addCleanup(other.close)
        with mock.patch.object(session, "_LONGEST_TURN", 60.0):
            self.assertTrue(other.acquire(0))
            posting = threading.Thread(target=self.storage.publish, args=("p", "q", [Draft(b"2", 300)]))
            posting.start()
            posting.join(0.2)
            self.assertTrue(posting.is_alive())
            other.release()
            posting.join(60)
        self.assertEqual(2, len(self.storage.list_messages("p", "q", None, 10)))

    def test_who_never_gives_way_holds_up_nobody(self) -> None:
        other = FileLock(self.file)
        self.addCleanup(other.close)
        self.assertTrue(other.acquire(0))
        self.storage.publish("p", "q", [Draft(b"2", 300)])
        self.assertEqual(2, len(self.storage.list_messages("p", "q", None, 10)))

    def test_the_turn_ends_with_the_transaction(self) -> None:
        other = FileLock(self.file)
        self.addCleanup(other.close)
        self.assertTrue(other.acquire(0))

    def test_without_the_file_there_are_no_turns(self) -> None:
        storage = self.storage_at(self.url, clock=self.clock, turns=os.path.join(self.file, "no", "such"))
        self.addCleanup(storage.close)
        storage.publish("p", "q", [Draft(b"2", 300)])
        self.assertEqual(2, len(self.storage.list_messages("p", "q", None, 10)))


class TransactionsTest(MongoCase):
    KNOWN_TO_FEW = ("messages", "subscriptions")

    def test_a_reader_behind_its_marker_misses_nothing(self) -> None:
        """Two processes post to one queue at once: what is stored later has the greater id."""
        posting = [self.another() for _ in range(2)]
        given: list[str] = []
        left = [True]

        def post(storage: MongoStorage) -> None:
            for _ in range(40):
                given.extend(storage.publish("p", "q", [Draft(b"1", 300)] * 3))

        def read() -> None:
            page: list[Message] = []
            while left[0] or page:
                left[0] = len(given) < 4 * 40 * 3
                page = self.storage.list_messages("p", "q", found[-1] if found else None, 1000)
                found.extend(message.id for message in page)

        found: list[str] = []
        self.assertEqual([], run_threads([read, *(lambda one=storage: post(one) for storage in posting for _ in range(2))]))
        self.assertEqual(480, len(set(given)))
        self.assertEqual(sorted(given), found)

    def test_changes_of_one_thing_are_not_lost(self) -> None:
        self.storage.put_queue("p", "q", {"n": 0})

        def count(storage: MongoStorage) -> None:
            for _ in range(20):
                storage.update_queue("p", "q", lambda metadata: {"n": metadata["n"] + 1})

        storages = [self.another() for _ in range(4)]
        self.assertEqual([], run_threads([lambda one=one: count(one) for one in storages]))
        self.assertEqual({"n": 80}, self.storage.get_queue("p", "q").metadata)

    def test_a_queue_is_made_once(self) -> None:
        storages = [self.another() for _ in range(6)]
        works = [lambda one=one: one.publish("p", "q", [Draft(b"1", 300)]) for one in storages[:4]]
        works += [lambda one=one: one.put_queue("p", "q", {"a": 1}) for one in storages[4:]]
        self.assertEqual([], run_threads(works))
        self.assertEqual(1, self.database.queues.count_documents({}))
        self.assertEqual(1, self.database.projects.count_documents({}))
        self.assertEqual(4, len(self.listed()))

    def test_a_subscriber_is_subscribed_once(self) -> None:
        got = []
        asked = self.subscription(confirmed=True)
        storages = [self.another() for _ in range(4)]
        failures = run_threads([lambda one=one: got.append(one.subscribe(asked)) for one in storages])
        self.assertEqual([Conflict] * 3, list(map(type, failures)))
        self.assertEqual([True], [one.created for one in got])
        self.assertEqual([got[0].subscription], self.storage.list_subscriptions("p", "q", None, 10))

    def test_what_is_posted_while_a_queue_is_deleted_is_in_one_of_both(self) -> None:
        given: list[str] = []
        posting = self.another()
        deleted_after = [0]

        def post() -> None:
            for _ in range(30):
                given.extend(posting.publish("p", "q", [Draft(b"1", 300)]))

        def delete() -> None:
            for _ in range(10):
                self.storage.delete_queue("p", "q")
                deleted_after.append(len(given))

        self.assertEqual([], run_threads([post, delete]))
        # One was perhaps stored before, and noted after.
        self.assertLessEqual(set(given[deleted_after[-1] + 1 :]), set(self.listed()))
        self.assertEqual(30, self.database.messages.count_documents({}))
        used = set(self.database.messages.distinct("queue_id"))
        self.assertLessEqual(used, set(self.database.queues.distinct("_id")))

    def test_ids_that_another_one_has_taken_are_chosen_anew(self) -> None:
        self.publish(queue="other")
        last = self.storage._means.last_id
        taken = [{"_id": last + step, "queue_id": 0, "prune_at": 1e12} for step in range(1, 300)]
        self.database.messages.insert_many(taken)
        given = ids.parse(self.publish()[0])
        self.assertGreater(given, last + 299)
        self.assertEqual(2, self.database.outbox.count_documents({}))

    def test_of_many_that_are_stored_together_one_may_fail(self) -> None:
        begun, goes_on = threading.Event(), threading.Event()
        got: dict[str, Any] = {}

        def wait(_: Subscription) -> Draft:
            begun.set()
            goes_on.wait(WAIT)
            return Draft(b"1", 60)

        def refuse(_: Subscription) -> Draft:
            raise LookupError("no confirmation")

        def subscribe(name: str, confirmation: Any) -> None:
            try:
                got[name] = self.storage.subscribe(self.subscription(f"http://{name}/"), confirmation).subscription.id
            except LookupError as error:
                got[name] = error

        others = {"a": None, "b": refuse, "c": None}
        threads = [threading.Thread(target=subscribe, args=("first", wait))]
        threads[0].start()
        self.assertTrue(begun.wait(WAIT))
        for name, confirmation in others.items():
            threads.append(threading.Thread(target=subscribe, args=(name, confirmation)))
            threads[-1].start()
        waiting = self.storage._database._groups[self.storage._subscribe]._waiting
        end = time.monotonic() + WAIT
        while len(waiting) < len(others) and time.monotonic() < end:
            time.sleep(0.001)
        goes_on.set()
        for thread in threads:
            thread.join()
        self.assertIsInstance(got.pop("b"), LookupError)
        stored = {one.subscriber: one.id for one in self.storage.list_subscriptions("p", "q", None, 10)}
        self.assertEqual({f"http://{name}/": number for name, number in got.items()}, stored)

    def test_each_message_goes_to_one_consumer(self) -> None:
        given = [one for _ in range(5) for one in self.storage.publish("p", "q", [Draft(b"1", 300)] * 100)]
        got: list[str] = []

        def pop(storage: MongoStorage) -> None:
            while popped := storage.pop_messages("p", "q", 7):
                got.extend(message.id for message in popped)

        def claim(storage: MongoStorage) -> None:
            while claimed := storage.claim("p", "q", 7, 60, 60):
                got.extend(message.id for message in claimed[1])
                self.assertEqual({claimed[0].id}, {message.claim_id for message in claimed[1]})

        consumers = [self.another() for _ in range(2)]
        works = [lambda do=do, one=one: do(one) for one in consumers for do in (pop, claim) for _ in range(2)]
        self.assertEqual([], run_threads(works))
        self.assertEqual([], [one for one, times in collections.Counter(got).items() if times > 1])
        # A consumer may have found nothing while others had all that it saw, and be gone.
        pop(self.storage)
        self.assertEqual(sorted(given), sorted(got))

    def test_what_a_lost_answer_has_marked_is_found_again(self) -> None:
        """The connection breaks after the message was marked and before it was read."""
        for consume in (self.popped, lambda: self.claim(1)[1]):
            given = self.publish(2)
            broken = _BrokenOnce(self.storage._database)
            self.assertEqual([given[0]], consume()[:1])
            self.assertTrue(broken.done)
            self.close_and_delete()

    def close_and_delete(self) -> None:
        self.storage.purge_messages("p", "q")
        self.storage = self.open()

    def test_a_worker_sees_what_the_primary_has(self) -> None:
        """One that was just elected does not know yet what of that a majority has; what a worker does not see is lost."""
        mine = self.subscribe()
        self.publish()
        few = {name: self.database.get_collection(name, write_concern=WriteConcern(1, j=False)) for name in self.KNOWN_TO_FEW}
        models = {name: collection.find_one({}) for name, collection in few.items()}
        for step in range(1, 6):
            numbers = {name: model["_id"] + step for name, model in models.items()}
            message, subscription = map(ids.show, numbers.values())
            few["messages"].insert_one({**models["messages"], "_id": numbers["messages"]})
            self.assertIn(message, self.storage.load([message], []).messages)
            another = {"_id": numbers["subscriptions"], "subscriber": f"http://{step}/"}
            few["subscriptions"].insert_one({**models["subscriptions"], **another})
            self.assertIn(subscription, self.storage.load([], [subscription]).subscriptions)
            few["subscriptions"].insert_one(
                {**models["subscriptions"], "_id": another["_id"] + 1000, "subscriber": f"//{step}"}
            )
            found = self.storage.list_subscriptions("p", "q", mine.id, 100)
            self.assertEqual(2 * step, len(found))

    def test_a_message_and_its_entry_are_there_both_or_none(self) -> None:
        """The transaction is broken off between the two."""
        self.storage._database.write_together(self.storage._insert, _post())
        with self.assertRaises(ZeroDivisionError):
            self.storage._database.write(lambda scope: (self.storage._insert(scope, [_post()]), 1 // 0))
        self.assertEqual([1, 1], [self.database[name].count_documents({}) for name in ("messages", "outbox")])


def _post() -> Any:
    from zaqar_notify.storage.mongodb.publishing import Post

    return Post("p", "q", [Draft(b"1", 60)])


class SaidTest(testtools.TestCase):
    """What whoever configures it gets to read."""

    def test_a_server_that_is_not_there_and_a_set_of_another_name(self) -> None:
        for url, why in (
            ("mongodb://a:secret@127.0.0.1:1/x?replicaSet=rs0", "(127.0.0.1:1: [Errno 111] Connection refused)"),
            (
                mongodb.shared().url.replace("rs0", "another"),
                '(No replica set members available for replica set name "another")',
            ),
        ):
            database = Database(url, 0.3, 1)
            self.addCleanup(database.close)
            with self.subTest(url=url):
                error = self.assertRaises(StorageUnavailable, database.alone, lambda scope: scope[names.SCHEMA].find_one({}))
                self.assertTrue(str(error).endswith(f"no primary of the replica set answers {why}"), str(error))

    def test_a_user_who_is_not_taken_or_may_not(self) -> None:
        for code, why in ((18, "does not take the user and the password"), (13, "may not do this")):
            error = translated(OperationFailure("no", code, {"code": code, "codeName": "No"}))
            self.assertIsInstance(error, StorageUnavailable)
            self.assertIn(why, str(error))


class _BrokenOnce:
    """The first write of messages is done, and its answer lost."""

    def __init__(self, database: Database) -> None:
        self.done = False
        alone = database.alone

        def broken(work: Callable[[Scope], Any]) -> Any:
            return alone(lambda scope: work(_Breaking(scope, self)))

        database.alone = broken


class _Breaking:
    def __init__(self, scope: Scope, once: _BrokenOnce) -> None:
        self._scope = scope
        self._once = once

    def __getitem__(self, name: str) -> Any:
        bound = self._scope[name]
        return _BreakingMessages(bound, self._once) if name == "messages" and not self._once.done else bound


class _BreakingMessages:
    def __init__(self, bound: Any, once: _BrokenOnce) -> None:
        self._bound = bound
        self._once = once

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bound, name)

    def update_many(self, *arguments: Any, **options: Any) -> int:
        from pymongo.errors import AutoReconnect

        done = self._bound.update_many(*arguments, **options)
        if not self._once.done:
            self._once.done = True
            raise AutoReconnect("the connection was closed")
        return done


class AwayTest(testtools.TestCase):
    """A server of its own, which is paused and restarted."""

    def setUp(self) -> None:
        super().setUp()
        self.server = mongodb.ReplicaSet(self)
        url = self.server.new_database()
        self.storage = MongoCase.storage_at(url, busy_timeout=0.3)
        self.addCleanup(self.storage.close)
        self.storage.upgrade()

    def test_while_it_is_away_there_is_an_error_and_then_it_goes_on(self) -> None:
        given = self.storage.publish("p", "q", [Draft(b"1", 300)])
        self.storage.now()
        self.server.kill()
        for call in (
            lambda: self.storage.publish("p", "q", [Draft(b"1", 300)]),
            lambda: self.storage.list_messages("p", "q", None, 10),
            lambda: self.storage.claim("p", "q", 1, 60, 60),
            self.storage.check,
        ):
            error = self.assertRaises(StorageUnavailable, call)
            self.assertIn("cannot be used now", str(error))
        self.assertAlmostEqual(time.time(), self.storage.now(), delta=60)
        self.server.start()
        given += self.until_it_works(lambda: self.storage.publish("p", "q", [Draft(b"2", 300)]))
        self.assertEqual(given, [message.id for message in self.storage.list_messages("p", "q", None, 10)])
        self.storage.check()

    def test_a_server_that_hangs_is_not_waited_for_without_end(self) -> None:
        self.server.pause()
        try:
            self.assertRaises(StorageUnavailable, self.storage.get_queue, "p", "q")
            self.assertRaises(StorageUnavailable, self.storage.publish, "p", "q", [Draft(b"1", 300)])
        finally:
            self.server.resume()
        self.until_it_works(lambda: self.storage.publish("p", "q", [Draft(b"1", 300)]))

    def until_it_works(self, call: Callable[[], Any]) -> Any:
        end = time.monotonic() + WAIT
        while True:
            try:
                return call()
            except StorageUnavailable:
                if time.monotonic() > end:
                    raise

    def test_a_watcher_hears_of_work_before_and_after(self) -> None:
        woken = threading.Event()
        self.addCleanup(self.storage.watch(woken.set))
        self.assertTrue(woken.wait(WAIT), "once it listens")
        self.hear(woken)
        self.server.kill()
        self.server.start()
        self.hear(woken)

    def hear(self, woken: threading.Event) -> None:
        """Announcements are hints: while the stream is opened again, one may be lost."""
        woken.clear()
        end = time.monotonic() + WAIT
        while not woken.wait(0.1):
            self.assertLess(time.monotonic(), end)
            self.storage.announce()


class Hindered(mongodb.Mongod):
    """It can be kept from applying what the primary has written."""

    def command(self) -> Sequence[str]:
        return [*super().command(), "--setParameter", "enableTestCommands=1"]

    def apply(self, on: bool) -> None:
        self.ask({"configureFailPoint": "rsSyncApplyStop", "mode": "off" if on else "alwaysOn"})


class ElectionTest(testtools.TestCase):
    def test_a_new_primary_answers_when_it_knows_what_was_acknowledged(self) -> None:
        with mock.patch.object(mongodb, "Mongod", Hindered):
            server = mongodb.ReplicaSet(self, members=3)
        storage = MongoCase.storage_at(server.new_database(), busy_timeout=WAIT)
        self.addCleanup(storage.close)
        storage.upgrade()
        last = server.members[2]
        last.apply(False)
        given = [one for _ in range(20) for one in storage.publish("p", "q", [Draft(b"1", 300)])]
        self.assertEqual(20, len(storage.list_messages("p", "q", None, 100)))
        given += storage.publish("p", "q", [Draft(b"1", 300)])
        server.kill_primary()
        found: list[Message] = []
        reading = threading.Thread(target=lambda: found.extend(storage.list_messages("p", "q", None, 100)))
        reading.start()
        self.assertIsNot(last, server.primary(), "it cannot know of the last ones")
        reading.join(0.5)
        self.assertEqual((True, []), (reading.is_alive(), found))
        last.apply(True)
        reading.join(WAIT)
        self.assertEqual(given, [message.id for message in found])


ABANDONED = "zaqar_notify.storage.mongodb.abandoned"


class AbandonedTest(MongoCase):
    """A process was paused in the midst of a transaction."""

    def leave_open(self) -> ClientSession:
        """With the queue changed by it."""
        self.storage.put_queue("p", "q", {})
        client = Database(self.url, 5.0, 1).client
        self.addCleanup(client.close)
        session = client.start_session()
        session.start_transaction()
        left = client.get_default_database()[names.QUEUES].update_many({}, {"$inc": {"held": 1}}, session=session)
        self.assertEqual(1, left.modified_count)
        return session

    def check_ended(self, session: ClientSession) -> None:
        error = self.assertRaises(OperationFailure, session.commit_transaction)
        self.assertTrue(error.has_error_label("TransientTransactionError"), "its process begins anew")
        self.assertEqual(0, self.database[names.QUEUES].count_documents({"held": 1}))

    def test_who_meets_it_ends_it(self) -> None:
        session = self.leave_open()
        storage = self.storage_at(self.url, busy_timeout=3.0)
        self.addCleanup(storage.close)
        with self.assertLogs(ABANDONED, "WARNING"):
            (given,) = storage.publish("p", "q", [Draft(b"1", 300)])
        self.assertEqual([given], [message.id for message in storage.list_messages("p", "q", None, 10)])
        self.check_ended(session)

    def test_workers_end_it_for_those_whom_the_server_makes_wait(self) -> None:
        session = self.leave_open()
        storage = self.storage_at(self.url, busy_timeout=1.0)
        self.addCleanup(storage.close)
        with self.assertLogs(ABANDONED, "WARNING"), pymongo.timeout(WAIT):  # the server itself ends it after a minute
            end = storage.watch(lambda: None)
            self.database[names.QUEUES].update_one({}, {"$set": {"other": 1}})
        end()
        self.check_ended(session)


class WatchTest(MongoCase):
    def test_an_announcement_wakes_other_processes(self) -> None:
        woken: list[threading.Event] = [threading.Event() for _ in range(2)]
        ends = [self.another().watch(one.set) for one in woken]
        for one in woken:
            self.assertTrue(one.wait(WAIT), "what came before it listened is not in the stream")
            one.clear()
        for _ in range(100):
            self.storage.announce()
        for one in woken:
            self.assertTrue(one.wait(WAIT))
        ends[0]()
        woken[0].clear()
        woken[1].clear()
        self.storage.announce()
        self.assertTrue(woken[1].wait(WAIT))
        self.assertFalse(woken[0].is_set())
        ends[1]()

    def test_many_announcements_are_few_writes(self) -> None:
        for _ in range(1000):
            self.storage.announce()
        end = time.monotonic() + WAIT
        while not (found := self.database.wakes.find_one({})) and time.monotonic() < end:
            time.sleep(0.01)
        self.assertLess(found["touched"], 500)

    def test_the_clock_is_that_of_the_server(self) -> None:
        storage = self.storage_at(self.url)
        self.addCleanup(storage.close)
        self.assertAlmostEqual(time.time(), storage.now(), delta=1)


class PlansTest(MongoCase):
    """Reading costs what it returns, however much there is."""

    def setUp(self) -> None:
        super().setUp()
        for _ in range(2):
            self.storage.publish("p", "q", [Draft(b"1", 300)] * 1000)
        self.storage.publish("p", "q", [Draft(b"1", 300, delay=200)] * 100)
        self.claim(20)

    def examined(self, work: Callable[[], Any]) -> int:
        """Documents and keys that the server has looked at."""
        self.database.command("profile", 2)
        try:
            work()
        finally:
            self.database.command("profile", 0)
        looked = list(self.database["system.profile"].find({"ns": {"$regex": "messages$"}}))
        self.database["system.profile"].drop()
        self.assertNotEqual([], looked)
        return max(max(one.get("docsExamined", 0), one.get("keysExamined", 0)) for one in looked)

    def test_pages_of_messages(self) -> None:
        marker = self.listed()[500]
        for which in ({}, {"claimed": True}, {"delayed": True}, {"claimed": True, "delayed": True}):
            page = lambda which=which: self.storage.list_messages("p", "q", marker, 10, **which)  # noqa: E731
            self.assertLessEqual(self.examined(page), 20, which)

    def test_claiming_and_popping(self) -> None:
        self.assertLessEqual(self.examined(lambda: self.claim(10)), 30)
        self.assertLessEqual(self.examined(lambda: self.popped(10)), 30)

    def test_counting_reads_the_index_alone(self) -> None:
        self.database.command("profile", 2)
        try:
            self.storage.stats("p", "q")
        finally:
            self.database.command("profile", 0)
        counts = list(self.database["system.profile"].find({"command.aggregate": "messages"}))
        self.database["system.profile"].drop()
        self.assertEqual([0, 0], [one["docsExamined"] for one in counts])


class DocumentsTest(MongoCase):
    def test_names_of_a_document_are_never_those_of_a_client(self) -> None:
        """Keys with dots and dollars, whose order is kept, are inside of JSON text."""
        odd = {"$set": {"a.b": 1}, "z": None, "a": [], "": 0}
        self.storage.put_queue("p", "q", odd)
        mine = self.subscribe(options=odd)
        message_id = self.storage.publish("p", "q", [Draft(b"1", 60, odd)])[0]
        found = [
            self.storage.get_queue("p", "q").metadata,
            self.storage.get_subscription("p", "q", mine.id).options,
            self.storage.get_message("p", "q", message_id).attributes,
        ]
        self.assertEqual([json.dumps(odd)] * 3, [json.dumps(dict(one)) for one in found])

    def test_what_is_null_is_left_out(self) -> None:
        self.subscribe()
        self.publish()
        for name in ("queues", "messages", "subscriptions", "outbox"):
            document = self.database[name].find_one({})
            self.assertNotIn(None, document.values(), name)
        subscription = self.database.subscriptions.find_one({})
        self.assertEqual(set(), {"ttl", "expires_at", "secret", "disabled_at", "prune_at"} & set(subscription))

    def test_what_becomes_null_is_removed(self) -> None:
        mine = self.subscribe(ttl=60, secret=conformance.SECRET)
        changed = self.storage.update_subscription("p", "q", mine.id, {"ttl": None, "secret": None})
        self.assertEqual(dataclasses.replace(mine, ttl=None, expires_at=None, secret=None), changed)
        found = self.database.subscriptions.find_one({})
        self.assertEqual(set(), {"ttl", "expires_at", "secret", "prune_at"} & set(found))

    def test_keys_of_deliveries_sort_as_their_numbers_do(self) -> None:
        pairs = [(1, 2), (1, 255), (1, 256), (2, 1), (256, 0), (2**63 - 1, 2**63 - 1)]
        made = [names.delivery_key(*pair) for pair in pairs]
        self.assertEqual(sorted(made), made)
        self.assertEqual(pairs, [names.of_delivery_key(key) for key in made])
        within = names.deliveries_of(1, behind=2, up_to=255)
        self.assertEqual([made[1]], [key for key in made if within["$gte"] <= key <= within["$lte"]])
        lines = [names.line_key(1, 2, 1), names.line_key(1, 2, 2), names.line_key(1, 3, 1), names.line_key(2, 0, 1)]
        within = names.lines_of_delivery(1, 2)
        self.assertEqual(lines[:2], [key for key in lines if within["$gte"] <= key <= within["$lte"]])
        within = names.lines_of(1)
        self.assertEqual(lines[:3], [key for key in lines if within["$gte"] <= key <= within["$lte"]])
