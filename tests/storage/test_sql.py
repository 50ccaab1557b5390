from __future__ import annotations

import base64
import contextlib
import dataclasses
import itertools
import logging
import os
import pathlib
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from typing import Any

import sqlalchemy
from sqlalchemy import event

from tests.storage import (
    case,
    conformance,
    conformance_at_once,
    conformance_channels,
    conformance_cluster,
    conformance_moved,
    conformance_repeated,
    conformance_windows,
)
from zaqar_notify.encryption import Keyring
from zaqar_notify.errors import CannotStart, Conflict, InvalidRequest, NotFound, StorageUnavailable
from zaqar_notify.model import (
    Alert,
    ApiKey,
    Disabled,
    Draft,
    Exchange,
    LaneKey,
    OutcomeKind,
    Priority,
    Receipt,
    ReceiptKind,
    State,
    Subscription,
)
from zaqar_notify.storage.base import Breaker, Closing, Failure, Settlement, Storage, Window
from zaqar_notify.storage.file_lock import FileLock
from zaqar_notify.storage.sql import statements
from zaqar_notify.storage.sql.driver import SqlStorage
from zaqar_notify.storage.sql.sqlite import WorkerLocks

NEW_KEY = base64.b64encode(b"n" * 32).decode()
OLD_KEY = base64.b64encode(b"k" * 32).decode()


class EmptyCase(case.SqlCase):
    def make_empty(self) -> Storage:
        path = os.path.join(self.folder, f"{time.monotonic_ns()}.db")
        shutil.copyfile(self.empty, path)
        storage = self.storage_at(path, clock=self.clock)
        self.addCleanup(storage.close)
        return storage


class SqlConformanceTest(
    EmptyCase,
    conformance.StorageConformance,
    conformance_cluster.CopyConformance,
    conformance_repeated.RepeatedConformance,
):
    def setUp(self) -> None:
        super().setUp()
        # About bodies and secrets that cannot be opened.
        self.catch_log()


class SqlChannelsTest(
    EmptyCase,
    conformance_channels.ChannelsConformance,
    conformance_windows.RepeatedWindowConformance,
    conformance_at_once.AtOnceConformance,
    conformance_at_once.KilledHolderConformance,
    conformance_moved.MovedChannelsConformance,
):
    pass


class DurabilityTest(case.SqlCase):
    def test_everything_is_there_after_a_restart(self) -> None:
        mine = self.subscribe(secret=conformance.SECRET, options={"a": 1})
        message_id, _ = self.entry_into_row(mine.id, log=self.failed(), due_at=conformance.NOW + 900, attempts=1, lines=1)
        claim, _ = self.storage.claim("p", "q", 1, 60, 60)
        waiting = self.publish()[0]
        self.storage.close()
        again = self.open()
        again.check()
        kept = again.get_claim("p", "q", claim.id)
        self.assertEqual([mine], again.list_subscriptions("p", "q", None, 10))
        self.assertEqual({"n": 0}, again.get_message("p", "q", message_id).body)
        self.assertEqual((claim, [message_id]), (kept[0], [message.id for message in kept[1]]))
        taken = again.take(again.join(), 30, entries=10, rows=10)
        self.assertEqual([waiting], [entry.message_id for entry in taken.entries])

    def test_commits_are_written_through(self) -> None:
        with self.storage._database._writer._engine.connect() as connection:
            self.assertEqual("wal", connection.exec_driver_sql("PRAGMA journal_mode").scalar())
            self.assertEqual(2, connection.exec_driver_sql("PRAGMA synchronous").scalar(), "2 is FULL")

    def test_a_commit_that_matters_waits_for_the_disk_and_a_lease_does_not(self) -> None:
        def synchronous() -> int:
            connection = self.storage._database._writer._connection
            return int(connection.connection.driver_connection.execute("PRAGMA synchronous").fetchone()[0])

        mine = self.subscribe()
        message_id = self.publish()[0]
        self.assertEqual(2, synchronous(), "2 is FULL")
        taken = self.storage.take(self.storage.join(), 30, entries=10, rows=10)
        self.assertEqual(1, synchronous(), "1 is NORMAL")
        self.storage.settle([Settlement(message_id, mine.id, taken.token, from_row=False, log=self.delivered())])
        self.assertEqual(2, synchronous())
        self.storage.take(self.storage.join(), 30, entries=10, rows=10)
        self.publish()
        self.assertEqual(2, synchronous())

    def test_hammering_threads_lose_nothing(self) -> None:
        given: list[str] = []

        def publish(number: int) -> None:
            for _ in range(40):
                given.extend(self.publish(1, queue=f"q{number % 3}"))

        threads = [threading.Thread(target=publish, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(640, len(set(given)))
        stored = [one.id for number in range(3) for one in self.storage.list_messages("p", f"q{number}", None, 1000)]
        self.assertEqual(sorted(given), sorted(stored))
        taken = self.storage.take(self.storage.join(), 30, entries=1000, rows=0)
        self.assertEqual(sorted(given), [entry.message_id for entry in taken.entries])

    def test_two_processes_write(self) -> None:
        program = (
            "sys.stdin.readline()\nfor _ in range(60):\n    print(*storage.publish('p', 'q', [Draft(b'1', 300)]), flush=True)\n"
        )
        processes = [self.start(program) for _ in range(2)]
        self.clock.now = 2_000_000_000.0  # so that nothing is expired for them or for us
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        given = self.publish(20)
        for process in processes:
            output, _ = process.communicate(timeout=60)
            self.assertEqual(0, process.returncode)
            theirs = output.split()
            self.assertEqual((60, sorted(theirs)), (len(theirs), theirs))
            given += theirs
        self.assertEqual(140, len(set(given)))
        taken = self.storage.take(self.storage.join(), 30, entries=1000, rows=0)
        self.assertEqual(set(), set(given) ^ {entry.message_id for entry in taken.entries})
        self.assertEqual(sorted(given), [entry.message_id for entry in taken.entries])

    def test_ids_rise_over_processes_whose_clocks_differ(self) -> None:
        behind = self.make_storage(conformance.Clock(conformance.NOW - 3600))
        self.addCleanup(behind.close)
        given = []
        for _ in range(3):
            given += self.publish(2)
            given += behind.publish("p", "q", [Draft(b"1", 300)] * 2)
        self.assertEqual(sorted(set(given)), given)

    def test_ids_of_two_databases_differ(self) -> None:
        path = shutil.copy(self.empty, os.path.join(self.folder, "other.db"))
        other = self.storage_at(path, clock=self.clock)
        self.addCleanup(other.close)
        self.assertEqual(set(), set(self.publish(5)) & set(other.publish("p", "q", [Draft(b"1", 300)] * 5)))


class BodyTest(case.SqlCase):
    def test_a_body_is_stored_once_however_many_wait_for_it(self) -> None:
        body = b'"the-body-' + b"x" * 1000 + b'"'
        message_id = self.storage.publish("p", "q", [Draft(body, 300)])[0]
        subscribers = [self.subscribe(f"http://{number}/") for number in range(30)]
        token = self.take(self.storage.join()).token
        ways = itertools.cycle([{"park": conformance.LANE}, {"due_at": conformance.NOW + 900}, {"log": self.delivered()}])
        settled = [Settlement(message_id, one.id, token, from_row=False, **next(ways)) for one in subscribers]
        self.assertEqual(0, self.storage.settle(settled, [Closing(message_id, token)]))
        with contextlib.closing(sqlite3.connect(self.path)) as inside:
            self.assertEqual((20,), inside.execute("SELECT count(*) FROM deliveries").fetchone())
            self.assertEqual((1, len(body)), inside.execute("SELECT count(*), sum(length(body)) FROM messages").fetchone())
            holders = [
                name
                for (name,) in inside.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
                if "the-body-" in repr(inside.execute(f'SELECT * FROM "{name}"').fetchall())
            ]
        self.assertEqual(["messages"], holders)


class EncryptedBodyTest(case.SqlCase):
    def setUp(self) -> None:
        super().setUp()
        self.storage.put_queue("p", "q", {"_enable_encrypt_messages": True})

    def stored(self, message_id: str) -> bytes:
        with contextlib.closing(sqlite3.connect(self.path)) as outside:
            found = outside.execute("SELECT body FROM messages WHERE id = ?", (int(message_id, 16),)).fetchone()
        return bytes(found[0])

    def test_no_file_has_it_in_plain_text(self) -> None:
        body = b'"the-secret-body"'
        mine = self.subscribe(secret=conformance.SECRET)
        drafts = [Draft(body, 300), Draft(body, 300, delay=60)]
        given = self.storage.publish("p", "q", drafts) + self.storage.hold("p", "q", drafts, "me", 30)
        self.storage.confirm("p", "q", mine.id, False, lambda _: Draft(body, 300))
        self.storage.claim("p", "q", 1, 60, 60)
        loaded = self.storage.load(given, []).messages
        self.assertEqual([body] * 4, [loaded[message_id].body_json for message_id in given])
        self.storage.close()
        raw = b"".join(path.read_bytes() for path in pathlib.Path(self.folder).iterdir() if path.is_file())
        self.assertIn(mine.subscriber.encode(), raw)
        self.assertNotIn(b"the-secret-body", raw)

    def test_one_that_was_moved_to_another_message_does_not_open(self) -> None:
        first, second = self.publish(2)
        with contextlib.closing(sqlite3.connect(self.path)) as outside, outside:
            outside.execute("UPDATE messages SET body = ? WHERE id = ?", (self.stored(first), int(second, 16)))
        with self.assertLogs("zaqar_notify.storage", logging.WARNING) as logged:
            found = self.storage.list_messages("p", "q", None, 10)
            self.storage.get_message("p", "q", second)
        self.assertEqual([(first, False, b'{"n": 0}'), (second, True, b"")], [(m.id, m.sealed, m.body_json) for m in found])
        [line] = logged.output
        self.assertIn(second, line)

    def test_a_lost_key_is_said_once_for_each_queue(self) -> None:
        self.storage.put_queue("p", "r", {"_enable_encrypt_messages": True})
        self.publish(3)
        self.publish(3, queue="r")
        self.storage = self.open(keyring=Keyring([NEW_KEY]))
        with self.assertLogs("zaqar_notify.storage", logging.WARNING) as logged:
            for queue in ("q", "r", "q"):
                self.assertTrue(all(one.sealed for one in self.storage.list_messages("p", queue, None, 10)))
        self.assertEqual(2, len(logged.output), logged.output)
        self.assertIn("[encryption] keys", logged.output[0])

    def test_other_queues_are_stored_as_they_are(self) -> None:
        for number, metadata in enumerate(({}, {"_enable_encrypt_messages": False}, {"x": '"_enable_encrypt_messages":true'})):
            self.storage.put_queue("p", f"plain-{number}", metadata)
            message_id = self.publish(queue=f"plain-{number}")[0]
            self.assertEqual(b'{"n": 0}', self.stored(message_id))
        self.assertNotEqual(b'{"n": 0}', self.stored(self.publish()[0]))


class OutageTest(case.SqlCase):
    """A database that is locked or full: nothing is stored, and it works again when that is over."""

    def make_storage(self, clock: Any, **options: Any) -> SqlStorage:
        return super().make_storage(clock, busy_timeout=0.05, **options)

    def assert_out_of_order(self, storage: Storage | None = None) -> None:
        storage = storage or self.storage
        for call in (
            lambda: storage.publish("p", "q", [Draft(b"1", 300)] * 50),
            lambda: storage.put_queue("p", "new", {}),
            lambda: storage.subscribe(self.subscription("http://secret-name/")),
        ):
            error = self.assertRaises(StorageUnavailable, call)
            self.assertNotIn("secret-name", str(error))
            self.assertEqual(503, error.status)

    def assert_nothing_stored(self) -> None:
        self.assertEqual([], self.storage.list_messages("p", "q", None, 100))
        self.assertEqual([], self.storage.list_subscriptions("p", "q", None, 100))
        self.assertIsNone(self.storage.get_queue("p", "new"))

    def assert_works(self) -> None:
        self.storage.check()
        message_id = self.publish()[0]
        self.assertEqual(message_id, self.storage.list_messages("p", "q", None, 100)[0].id)

    def test_the_lock_is_held_by_another_process(self) -> None:
        holder = self.start(
            "from zaqar_notify.storage.file_lock import FileLock\n"
            f"print(FileLock({self.path + '.lock'!r}).acquire(5), flush=True)\nsys.stdin.readline()\n"
        )
        self.assertEqual("True\n", holder.stdout.readline())
        self.assert_out_of_order()
        self.assertRaises(StorageUnavailable, self.storage.check)
        self.assert_nothing_stored()
        holder.kill()
        holder.wait()
        self.assert_works()

    def test_the_database_is_locked_from_outside(self) -> None:
        outside = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(outside.close)
        outside.execute("BEGIN IMMEDIATE")
        self.assert_out_of_order()
        self.assertRaises(StorageUnavailable, self.storage.check)
        self.assert_nothing_stored()
        outside.execute("ROLLBACK")
        self.assert_works()

    def test_the_database_is_full(self) -> None:
        def fill(connection: sqlalchemy.Connection) -> None:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

        body = b'"' + b"x" * 100_000 + b'"'
        self.storage._database.write(fill)
        error = self.assertRaises(StorageUnavailable, self.storage.publish, "p", "q", [Draft(b"1", 300), Draft(body, 300)])
        self.assertIn("full", str(error))
        self.assert_nothing_stored()
        # The next transaction has a connection of its own, without the bound.
        self.assert_works()

    def test_the_disk_is_full(self) -> None:
        process = self.start(
            "import os, resource\n"
            "from zaqar_notify.errors import StorageUnavailable\n"
            "given, refused = [], 0\n"
            "given += storage.publish('p', 'q', [Draft(b'1', 10**9)])\n"
            "limit = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
            f"size = os.path.getsize({self.path + '-wal'!r})\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (size + 200_000, limit[1]))\n"
            "while refused < 3:\n"
            "    try:\n"
            "        given += storage.publish('p', 'q', [Draft(b'\"' + b'x' * 20_000 + b'\"', 10**9)])\n"
            "    except StorageUnavailable:\n"
            "        refused += 1\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, limit)\n"
            "given += storage.publish('p', 'q', [Draft(b'1', 10**9)])\n"
            "print(*given)\n"
        )
        output, _ = process.communicate(timeout=60)
        given = output.split()
        self.assertTrue(len(given) > 2, given)
        self.assertEqual(given, [message.id for message in self.storage.list_messages("p", "q", None, 1000)])

    def test_the_file_is_no_database(self) -> None:
        path = os.path.join(self.folder, "noise.db")
        with open(path, "wb") as file:
            file.write(b"noise" * 1000)
        storage = self.storage_at(path)
        self.addCleanup(storage.close)
        self.assertRaises(StorageUnavailable, storage.check)
        self.assertRaises(StorageUnavailable, storage.get_queue, "p", "q")

    def test_a_folder_that_is_missing(self) -> None:
        storage = self.storage_at(os.path.join(self.folder, "none", "x.db"))
        self.addCleanup(storage.close)
        self.assertRaises(StorageUnavailable, storage.upgrade)


class GroupCommitTest(case.SqlCase):
    @contextlib.contextmanager
    def everyone_waits(self, threads: list[threading.Thread]) -> Iterator[None]:
        """The threads' work goes into one commit: the lock is only free when all of it waits."""
        lock = FileLock(f"{self.path}.lock")
        self.addCleanup(lock.close)
        self.assertTrue(lock.acquire(5))
        for thread in threads:
            thread.start()
        waiting = self.storage._database._writer._waiting
        pause = threading.Event()
        for _ in range(2000):
            if len(waiting) == len(threads):
                break
            pause.wait(0.005)
        self.assertEqual(len(threads), len(waiting))
        yield
        lock.release()
        for thread in threads:
            thread.join()

    def run_together(self, calls: dict[str, Any]) -> dict[str, Any]:
        results: dict[str, Any] = {}

        def run(name: str) -> None:
            try:
                results[name] = calls[name]()
            except Exception as error:  # noqa: BLE001 - what a thread raises is what is looked at
                results[name] = error

        with self.everyone_waits([threading.Thread(target=run, args=(name,)) for name in calls]):
            pass
        return results

    def test_a_conflict_of_one_does_not_harm_the_others(self) -> None:
        self.subscribe("http://taken/", confirmed=True)
        ready, kept = self.publish(2, queue="ready"), self.publish(queue="kept")[0]
        commits: list[Any] = []
        event.listen(self.storage._database._writer._engine, "commit", commits.append)
        results = self.run_together(
            {
                "first": lambda: self.publish(2),
                "conflict": lambda: self.storage.subscribe(self.subscription("http://taken/", queue="q")),
                "bug": lambda: self.storage.put_queue("p", object(), {}),  # type: ignore[arg-type]
                "queue": lambda: self.storage.put_queue("p", "made", {"a": 1}),
                "second": lambda: self.publish(1, queue="other"),
                "subscribe": lambda: self.storage.subscribe(self.subscription("http://new/")),
                "claim": lambda: self.storage.claim("p", "ready", 1, 60, 60),
                "pop": lambda: self.storage.pop_messages("p", "ready", 1),
                "no claim": lambda: self.storage.delete_message("p", "kept", kept, conformance.UNKNOWN),
            }
        )
        self.assertEqual(1, len(commits))
        self.assertIsInstance(results["conflict"], Conflict)
        self.assertIsInstance(results["no claim"], InvalidRequest)
        self.assertIsNotNone(self.storage.get_message("p", "kept", kept))
        self.assertEqual(ready, sorted(message.id for message in results["claim"][1] + results["pop"]))
        self.assertNotIsInstance(results["bug"], StorageUnavailable)
        self.assertIsInstance(results["bug"], Exception)
        self.assertTrue(results["queue"])
        self.assertEqual({"a": 1}, self.storage.get_queue("p", "made").metadata)
        self.assertEqual(results["first"], [one.id for one in self.storage.list_messages("p", "q", None, 10)])
        self.assertEqual(results["second"], [one.id for one in self.storage.list_messages("p", "other", None, 10)])
        self.assertEqual(2, len(self.storage.list_subscriptions("p", "q", None, 10)))

    def test_what_fails_for_one_by_the_database_fails_for_all(self) -> None:
        def fill(connection: sqlalchemy.Connection) -> None:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

        self.storage._database.write(fill)
        body = b'"' + b"x" * 200_000 + b'"'
        results = self.run_together(
            {
                "queue": lambda: self.storage.put_queue("p", "made", {}),
                "big": lambda: self.storage.publish("p", "q", [Draft(body, 300)]),
            }
        )
        self.assertEqual([StorageUnavailable] * 2, [type(one) for one in results.values()])
        self.assertIsNone(self.storage.get_queue("p", "made"))
        self.assertTrue(self.storage.put_queue("p", "made", {}))

    def test_a_worker_whose_registration_failed_joins_again(self) -> None:
        def fill(connection: sqlalchemy.Connection) -> None:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

        self.storage._database.write(fill)
        body = b'"' + b"x" * 200_000 + b'"'
        results = self.run_together(
            {"join": self.storage.join, "big": lambda: self.storage.publish("p", "q", [Draft(body, 300)])}
        )
        self.assertEqual([StorageUnavailable] * 2, [type(one) for one in results.values()])
        other = self.open()
        joined = [other.join(), self.storage.join()]
        self.assertEqual((2, 0, 0), (len(set(joined)), self.storage.recover(), other.recover()))
        other.close()
        self.assertEqual(1, self.storage.recover())

    def test_a_group_is_bounded(self) -> None:
        self.storage = self.open(group_commit=3)
        commits: list[Any] = []
        event.listen(self.storage._database._writer._engine, "commit", commits.append)
        results = self.run_together({str(number): self.publish for number in range(8)})
        self.assertEqual(8, len({given[0] for given in results.values()}))
        self.assertEqual(3, len(commits))

    def test_a_lock_that_does_not_come_free_fails_all(self) -> None:
        self.storage = self.open(busy_timeout=0.05)
        lock = FileLock(f"{self.path}.lock")
        self.addCleanup(lock.close)
        self.assertTrue(lock.acquire(5))
        failed: list[StorageUnavailable] = []

        def publish() -> None:
            try:
                self.publish()
            except StorageUnavailable as error:
                failed.append(error)

        threads = [threading.Thread(target=publish) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(5, len({id(error) for error in failed}))
        lock.release()
        self.publish()
        self.assertEqual(1, len(self.storage.list_messages("p", "q", None, 10)))


class WorkerLocksTest(case.SqlCase):
    def test_a_folder_that_cannot_be_made_is_the_storage_out_of_reach(self) -> None:
        folder = pathlib.Path(f"{self.path}.workers")
        folder.touch()
        self.assertIn(str(folder), str(self.assertRaises(StorageUnavailable, self.storage.join)))
        folder.unlink()
        self.assertEqual(1, self.storage.join())

    def test_a_lock_that_is_held(self) -> None:
        locks, others = WorkerLocks(self.folder), WorkerLocks(self.folder)
        self.addCleanup(locks.close)
        self.addCleanup(others.close)
        locks.hold(7)
        locks.hold(7)
        self.assertRaises(StorageUnavailable, others.hold, 7)
        locks.let_go(7)
        others.hold(7)
        self.assertEqual((False, False), (locks.dead(7), others.dead(7)))
        others.let_go(7)
        self.assertTrue(locks.dead(7))


class WorkerDeathTest(case.SqlCase):
    PROGRAM = (
        "worker = storage.join()\n"
        "taken = storage.take(worker, 10**9, entries=10, rows=10, lanes=10)\n"
        "print(worker, len(taken.entries), len(taken.rows), len(taken.lanes), flush=True)\n"
        "sys.stdin.readline()\n"
    )

    def test_a_killed_worker_is_recovered_at_once(self) -> None:
        mine = self.subscribe()
        row_of, worker = self.entry_into_row(mine.id, due_at=conformance.NOW, attempts=1, lines=1)
        parked = self.publish()
        self.park(worker, parked, mine.id)
        waiting = self.publish()
        process = self.start(self.PROGRAM)
        dead, *counts = process.stdout.readline().split()
        self.assertEqual(["1", "1", "1"], counts)
        self.assertEqual(0, self.storage.recover())
        self.assertEqual([], list(self.take(worker, lanes=5).entries))
        process.kill()
        process.wait()
        self.assertEqual(1, self.storage.recover())
        self.assertEqual(0, self.storage.recover())
        taken = self.take(worker, lanes=5)
        self.assertEqual(waiting, [entry.message_id for entry in taken.entries])
        self.assertEqual([row_of], [row.message_id for row in taken.rows])
        self.assertEqual([conformance.LANE], list(taken.lanes))
        self.assertFalse(os.path.exists(os.path.join(f"{self.path}.workers", f"{dead}.lock")))

    def test_one_of_two_that_look_recovers_it(self) -> None:
        process = self.start(self.PROGRAM)
        process.stdout.readline()
        process.kill()
        process.wait()
        other = self.open()
        self.assertEqual(1, self.storage.recover() + other.recover())

    def test_ids_of_workers_are_never_given_out_again(self) -> None:
        first = self.storage.join()
        self.storage.leave(first)
        self.assertTrue(self.storage.join() > first)

    def test_one_that_left_is_not_found(self) -> None:
        worker = self.storage.join()
        other = self.open()
        self.assertEqual(0, other.recover())
        self.storage.leave(worker)
        self.assertEqual(0, other.recover())
        self.assertEqual([], os.listdir(f"{self.path}.workers"))

    def test_one_whose_storage_was_closed_is_found(self) -> None:
        other = self.open()
        other.join()
        other.close()
        self.assertEqual(1, self.storage.recover())


class SecretTest(case.SqlCase):
    def test_secrets_are_sealed_in_the_files(self) -> None:
        secret = conformance.SECRET
        mine = self.subscribe(secret=secret)
        self.storage.update_subscription("p", "q", mine.id, {"secret": conformance.OTHER_SECRET})
        self.storage.subscribe(self.subscription("http://c/", secret=secret))
        self.storage.close()
        raw = b"".join(path.read_bytes() for path in pathlib.Path(self.folder).iterdir() if path.is_file())
        self.assertIn(b"http://c/", raw)
        for one in (secret, conformance.OTHER_SECRET):
            key = one.removeprefix("whsec_")
            for form in (one.encode(), key.encode(), base64.b64decode(key)):
                self.assertNotIn(form, raw)

    def test_files_are_for_their_owner_alone(self) -> None:
        path = os.path.join(self.folder, "fresh.db")
        storage = self.storage_at(path)
        self.addCleanup(storage.close)
        storage.upgrade()
        storage.join()
        for name in ("fresh.db", "fresh.db-wal", "fresh.db.lock"):
            self.assertEqual(0, os.stat(os.path.join(self.folder, name)).st_mode & 0o077, name)
        self.assertEqual(0, os.stat(path + ".workers").st_mode & 0o077)

    def test_keys_are_rotated(self) -> None:
        old = self.subscribe(secret=conformance.SECRET)
        rotating = self.open(keyring=Keyring([NEW_KEY, OLD_KEY]))
        self.assertEqual(conformance.SECRET, rotating.get_subscription("p", "q", old.id).secret)
        new = rotating.subscribe(self.subscription("http://b/", secret=conformance.OTHER_SECRET)).subscription
        rotated = self.open(keyring=Keyring([NEW_KEY]))
        self.assertEqual(conformance.OTHER_SECRET, rotated.get_subscription("p", "q", new.id).secret)
        with self.assertLogs("zaqar_notify.storage", logging.WARNING):
            self.assertEqual((None, True), _secret_of(rotated.get_subscription("p", "q", old.id)), "its key is gone")

    def test_a_secret_that_was_moved_to_another_subscription_does_not_open(self) -> None:
        first, second = self.subscribe(secret=conformance.SECRET), self.subscribe("http://b/", secret=conformance.OTHER_SECRET)
        self.storage.close()
        with contextlib.closing(sqlite3.connect(self.path)) as outside, outside:
            outside.execute(
                "UPDATE subscriptions SET secret = (SELECT secret FROM subscriptions WHERE id = ?) WHERE id = ?",
                (int(first.id, 16), int(second.id, 16)),
            )
        again = self.open()
        with self.assertLogs("zaqar_notify.storage", logging.WARNING):
            self.assertEqual((None, True), _secret_of(again.get_subscription("p", "q", second.id)))
        self.assertEqual(first, again.get_subscription("p", "q", first.id))


class LostKeyTest(case.SqlCase):
    """The key of one subscription's secret is gone: that concerns this subscription alone."""

    def setUp(self) -> None:
        super().setUp()
        self.logged = self.enterContext(self.assertLogs("zaqar_notify.storage", logging.WARNING))
        self.lost = self.subscribe(secret=conformance.SECRET, secret_made=True)
        self.storage = self.open(keyring=Keyring([NEW_KEY]))
        self.kept = self.subscribe("http://b/", secret=conformance.OTHER_SECRET)
        self.sealed = dataclasses.replace(self.lost, secret=None, sealed=True)

    def stored_secret(self) -> bytes:
        with contextlib.closing(sqlite3.connect(self.path)) as outside:
            found = outside.execute("SELECT secret FROM subscriptions WHERE id = ?", (int(self.lost.id, 16),)).fetchone()
        return found[0]

    def test_the_others_come(self) -> None:
        self.assertEqual([self.sealed, self.kept], self.storage.list_subscriptions("p", "q", None, 10))
        self.assertEqual(self.sealed, self.storage.get_subscription("p", "q", self.lost.id))
        loaded = self.storage.load([], [self.lost.id, self.kept.id])
        self.assertEqual({self.lost.id: self.sealed, self.kept.id: self.kept}, loaded.subscriptions)

    def test_it_is_said_once(self) -> None:
        for number in range(3):
            self.storage.update_subscription("p", "q", self.lost.id, {"options": {"n": number}})
            self.storage.list_subscriptions("p", "q", None, 10)
        [line] = self.logged.output
        self.assertIn(self.lost.id, line)
        self.assertIn("[encryption] keys", line)

    def test_what_is_stored_stays_until_it_is_replaced(self) -> None:
        stored = self.stored_secret()
        why = Disabled("told to", 1.0)
        self.entry_into_row(self.lost.id, log=self.delivered())
        for changes in ({"ttl": 600, "options": {"a": 1}}, {"disabled": why}, {"disabled": None}, {"subscriber": "http://c/"}):
            changed = self.storage.update_subscription("p", "q", self.lost.id, changes)
            self.assertEqual((None, True), _secret_of(changed))
        asked = self.subscription("http://c/", secret=conformance.OTHER_SECRET, secret_made=True)
        self.assertFalse(self.storage.subscribe(asked).secret_is_new, "it has signed")
        self.assertEqual(stored, self.stored_secret())
        self.assertEqual((conformance.SECRET, False), _secret_of(self.open().get_subscription("p", "q", self.lost.id)))

    def test_a_new_secret_heals_it(self) -> None:
        healed = self.storage.update_subscription("p", "q", self.lost.id, {"secret": conformance.OTHER_SECRET})
        self.assertEqual((conformance.OTHER_SECRET, False), _secret_of(healed))
        self.assertIn(healed, self.storage.list_subscriptions("p", "q", None, 10))

    def test_it_can_be_deleted(self) -> None:
        self.storage.delete_subscription("p", "q", self.lost.id)
        self.assertEqual([self.kept], self.storage.list_subscriptions("p", "q", None, 10))


def _secret_of(subscription: Subscription) -> tuple[str | None, bool]:
    return subscription.secret, subscription.sealed


class SchemaTest(case.SqlCase):
    def test_a_missing_or_empty_database_cannot_start(self) -> None:
        path = os.path.join(self.folder, "new.db")
        storage = self.storage_at(path)
        self.addCleanup(storage.close)
        error = self.assertRaises(CannotStart, storage.check)
        self.assertIn("run: zaqar-notify db upgrade", str(error))
        self.assertFalse(os.path.exists(path))
        pathlib.Path(path).touch()
        error = self.assertRaises(CannotStart, storage.check)
        self.assertIn("run: zaqar-notify db upgrade", str(error))
        self.assertTrue(storage.upgrade())
        storage.check()
        self.assertFalse(storage.upgrade())

    def test_a_schema_of_another_version_cannot_start(self) -> None:
        self.storage.check()
        with contextlib.closing(sqlite3.connect(self.path)) as outside, outside:
            outside.execute("UPDATE alembic_version SET version_num = '9999'")
            outside.execute("UPDATE schema_info SET oldest = '9999'")
        error = self.assertRaises(CannotStart, self.storage.check)
        self.assertIn("9999", str(error))
        self.assertRaises(CannotStart, self.storage.upgrade)

    def test_urls(self) -> None:
        for bad in (
            "nonsense",
            "mysql://u:hunter2@h/d",
            "sqlite://",
            "sqlite:///:memory:",
            "postgresql://u:hunter2@h/d?nonsense=1",
        ):
            error = self.assertRaises(CannotStart, SqlStorage, bad, keyring=conformance.make_keyring(), retention=1.0)
            self.assertNotIn("hunter2", str(error))

    def test_nothing_is_opened_before_it_is_used(self) -> None:
        storage = self.storage_at(os.path.join(self.folder, "unused.db"))
        storage.close()
        self.assertFalse(os.path.exists(os.path.join(self.folder, "unused.db")))
        self.assertFalse(os.path.exists(os.path.join(self.folder, "unused.db.lock")))


class PlanTest(case.SqlCase):
    """No statement looks at more rows than it needs: SQLite's plans say SEARCH, never SCAN, for our tables."""

    HARMLESS = re.compile(r"SCAN (asked|walk|first|\(subquery-\d+\)|json_each|(\d+ )?CONSTANT ROW|alembic_version)")
    # All living workers, all keys, the queues of all projects, all open breakers, and counts of everything, where these are
    # what is asked for; the jobs that are held stand before the first that is free.
    MEANT = re.compile(
        r"SCAN (workers$|w$|schema_info$|api_keys$|q USING INDEX ix_queues_name$|lanes USING (COVERING )?INDEX ix_lanes_open$"
        r"|jobs USING INDEX ix_jobs_open$|(outbox|deliveries|jobs) USING COVERING INDEX ix_\w+$)"
    )

    def plan(self, statement: str, parameters: Any) -> list[str]:
        with contextlib.closing(sqlite3.connect(self.path)) as outside:
            return [row[3] for row in outside.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]

    def assert_searches(self, statement: str, parameters: Any) -> None:
        plan = self.plan(statement, parameters)
        scans = [step for step in plan if step.startswith("SCAN") and not self.HARMLESS.match(step)]
        self.assertEqual([], [scan for scan in scans if not self.MEANT.match(scan)], f"{statement}\n{plan}")

    def test_a_scan_is_seen(self) -> None:
        for bad in ("SELECT id FROM messages WHERE body = ?", "SELECT id FROM messages WHERE ttl > ? ORDER BY id LIMIT 1"):
            self.assertRaises(AssertionError, self.assert_searches, bad, [None])

    def test_hot_statements(self) -> None:
        named = {name: value for name, value in vars(statements).items() if name.isupper() and not name.startswith("_")}
        self.assertIn("TAKE_ROWS", named)
        for named_one in named.values():
            rows = isinstance(named_one, statements.Rows)
            statement = next(named_one.of([(None,) * named_one.columns] * 2))[0] if rows else named_one
            names = set(re.findall(r":(\w+)", statement))
            self.assert_searches(statement, dict.fromkeys(names) if names else [None] * statement.count("?"))

    def test_taking_sorts_nothing(self) -> None:
        named = dict.fromkeys(("projects", "until", "token", "now", "most", "pool"))
        for statement in (statements.TAKE_ENTRIES, statements.TAKE_ROWS, statements.TAKE_LANES):
            self.assert_sorts_nothing(statement, named)
        self.assert_sorts_nothing(statements.TAKE_PARKED, dict.fromkeys(("asked", "until", "token")))

    def test_consuming_and_listing_everything_sort_nothing(self) -> None:
        named = dict.fromkeys(("queue", "now", "limit", "behind", "not_from"))
        for statement in (statements.CONSUMABLE, statements.LIST_ALL, statements.OLDEST_MESSAGE, statements.NEWEST_MESSAGE):
            self.assert_sorts_nothing(statement, named)

    def test_counting_reads_an_index_alone(self) -> None:
        for statement in (statements.COUNT_MESSAGES, statements.COUNT_ALL_MESSAGES):
            plan = self.plan(statement, dict.fromkeys(("queue", "now")))
            of_messages = [step for step in plan if "ix_messages" in step]
            self.assertTrue(of_messages)
            self.assertEqual(of_messages, [step for step in of_messages if "USING COVERING INDEX ix_messages_queue" in step])

    def assert_sorts_nothing(self, statement: str, parameters: Any) -> None:
        plan = self.plan(statement, parameters)
        self.assertEqual([], [step for step in plan if "TEMP B-TREE" in step], f"{statement}\n{plan}")

    def test_everything_that_is_run(self) -> None:
        seen: dict[str, Any] = {}

        def note(_: Any, __: Any, statement: str, parameters: Any, ___: Any, executemany: bool) -> None:
            if statement.lstrip().startswith(("SELECT", "UPDATE", "DELETE", "INSERT")):
                seen.setdefault(statement, parameters[0] if executemany else parameters)

        for engine in (self.storage._database._reading, self.storage._database._writer._engine):
            event.listen(engine, "before_cursor_execute", note)
        self.use_everything()
        for statement, parameters in seen.items():
            if "sqlite_master" not in statement and "pragma" not in statement.lower():
                self.assert_searches(statement, parameters)
        self.assertTrue(len(seen) > 50, len(seen))

    def use_everything(self) -> None:
        storage = self.storage
        storage.put_queue("p", "q", {})
        storage.put_queue("p", "q", {"a": 1})
        storage.list_queues("p", "a", 10)
        storage.list_queues("p", "a", 10, name="q", metadata={"a": "1"})
        storage.count_queues("p", name="q")
        storage.count_queues("p", metadata={"a": "1"})
        storage.update_queue("p", "q", lambda metadata: {**metadata, "b": 2})
        self.consume_everything()
        first, second = self.subscribe(secret=conformance.SECRET, secret_made=True), self.subscribe("http://b/", ttl=60)
        storage.subscribe(self.subscription(secret=conformance.SECRET, secret_made=True))
        storage.update_subscription("p", "q", first.id, {"subscriber": "http://c/", "options": {}})
        given = self.publish(6, ttl=60, client_id="me")
        storage.get_queue("p", "q")
        storage.list_messages("p", "q", given[0], 5, "they")
        storage.get_message("p", "q", given[0])
        storage.delete_message("p", "q", given[0])
        worker = storage.join()
        token = self.take(worker, lanes=3).token
        ways: list[dict[str, Any]] = [
            {"log": self.delivered()},
            {"due_at": self.clock.now},
            {"park": conformance.LANE},
            {"due_at": self.clock.now + 20, "hold": True},
        ]
        settled = [
            Settlement(message_id, one.id, token, from_row=False, publish=(("letters", Draft(b"1", 60)),), **way)
            for one in (first, second)
            for message_id, way in zip(given, ways, strict=False)
        ]
        storage.settle(settled, [Closing(one, token) for one in given[:4]] + [Closing(given[4], token, after=first.id)])
        for one in (first, second):
            storage.subscription_deliveries("p", "q", one.id, "7" * 16, 5)
        for message_id in given:
            storage.message_deliveries("p", "q", message_id, None, 5)
        taken = self.take(worker, lanes=3)
        again = self.take(worker, parked={conformance.LANE: 1, LaneKey("p", "none"): 1})
        storage.load([row.message_id for row in taken.rows], [row.subscription_id for row in taken.rows])
        storage.known(given[1], None)
        end = self.attempt(1, State.DEAD, OutcomeKind.REJECTED)
        storage.settle(
            [Settlement(row.message_id, row.subscription_id, taken.token, from_row=True, log=end) for row in taken.rows]
        )
        storage.give_back(again.token, given, [(row.message_id, row.subscription_id) for row in again.rows])
        self.fan_out_everything(worker, first)
        self.reach_everyone(worker, second)
        self.trust_everything(worker, second)
        self.clock.now += 70
        storage.subscribe(self.subscription("http://b/"))
        storage.delete_subscription("p", "q", first.id)
        storage.recover()
        for _ in range(3):
            self.prune_all()
            taken = self.take(worker)
            storage.settle([], [Closing(entry.message_id, taken.token) for entry in taken.entries])
            self.clock.now += conformance.RETENTION
        storage.purge_messages("p", "q")
        storage.purge_subscriptions("p", "q", 10)
        storage.delete_queue("p", "q")
        storage.leave(worker)
        self.prune_all()
        storage.check()

    def fan_out_everything(self, worker: int, mine: Subscription) -> None:
        storage = self.storage
        storage.beat(worker)
        storage.members()
        message_id = self.publish(ttl=60)[0]
        token = self.take(worker).token
        storage.settle([], [Closing(message_id, token, mine.id, cut=True)])
        self.assertRaises(NotFound, storage.cancel, "p", "q", message_id, mine.id)
        job = storage.hold_job(worker, 30)
        self.assertTrue(storage.cut(worker, job.id, 1))
        self.assertFalse(storage.cut(worker, job.id, 1))
        part = storage.hold_job(worker, 30)
        taken = self.take(worker, ranges=[part.id])
        [page] = taken.entries
        storage.known(message_id, page.after, page.last)
        storage.message_deliveries("p", "q", message_id, None, 5)
        storage.subscription_deliveries("p", "q", mine.id, None, 5)
        done = Settlement(message_id, page.last, taken.token, False, self.delivered(), job_id=part.id)
        storage.settle([done], [Closing(message_id, taken.token, page.last, job_id=part.id)])
        taken = self.take(worker, ranges=[part.id])
        storage.give_back(taken.token, [], [], [part.id])
        taken = self.take(worker, ranges=[part.id])
        storage.settle([], [Closing(message_id, taken.token, job_id=part.id)])
        for failed in (None, True, False):
            storage.list_jobs(None, 10, failed=failed)
        storage.add_job("p", "some", {})
        other = storage.hold_job(worker, 30)
        storage.advance_job(worker, other.id, {"n": 1})
        storage.fail_job(worker, other.id, "why")
        storage.retry_job(other.id)
        storage.hold_job(worker, 30, other.id)
        storage.let_job_go(worker, other.id)
        storage.hold_job(worker, 30, other.id)
        storage.finish_job(worker, other.id)

    def reach_everyone(self, worker: int, mine: Subscription) -> None:
        storage = self.storage
        draft = Draft(b"1", 60, collapse_key="key", priority=Priority.LOW, language="sv")
        given = storage.publish("p", "q", [draft] * 5)
        token = self.take(worker).token
        alert = Alert("callback", "q", Draft(b"1", 60), subscription_id=mine.id)
        waits = {"window": Window("scope", 5.0, "key", 1.0)}
        ends: list[dict[str, Any]] = [
            {"log": self.delivered(), "alerts": (alert,)},
            waits,
            waits,
            {"park": LaneKey("p", "sms", "sms")},
            {"park": LaneKey("p", "sms", "push")},
        ]
        settled = [Settlement(one, mine.id, token, False, **end) for one, end in zip(given, ends, strict=True)]
        for part in (settled[:4], settled[4:]):
            self.assertEqual(0, storage.settle(part, [Closing(one.message_id, token) for one in part]))
        storage.settle([], [], [Breaker(LaneKey("p", "other", "sms"), 1, self.clock.now)])
        self.assertEqual(1, len(self.take(worker, lanes=3, pool="sms").lanes))
        storage.merge_pools(["push"])
        for kind in ReceiptKind:
            self.assertTrue(storage.receive(given[0], mine.id, Receipt(kind, conformance.NOW)))
        storage.message_deliveries("p", "q", given[0], None, 5)
        self.clock.now += 6
        taken = self.take(worker)
        left = [Settlement(row.message_id, row.subscription_id, taken.token, True, **waits) for row in taken.rows]
        self.assertEqual(0, storage.settle(left))

    def trust_everything(self, worker: int, mine: Subscription) -> None:
        self.storage = storage = self.open(retention_delivered=30.0)
        storage.put_queue("p", "sealed", {"_enable_encrypt_messages": True})
        asked = self.subscription("http://sealed/", queue="sealed")
        other = storage.subscribe(asked).subscription
        storage.ping("p", "q", mine.id, Draft(b"1", 60))
        given = [*self.publish(4, ttl=600), *self.publish(queue="sealed", ttl=600)]
        storage.cancel("p", "q", given[3], mine.id)
        token = self.take(worker).token
        exchange = Exchange({"method": "POST"})
        alert = Alert("cause", "alerts", Draft(b"1", 60))
        failure = Failure(self.clock.now, True, 1, 60.0, "strikes", "longest", alert)
        ends: list[dict[str, Any]] = [
            {"log": dataclasses.replace(self.delivered(), exchange=exchange), "recovered": True},
            {"log": self.failed(), "failure": failure, "alerts": (alert,)},
            {"park": conformance.LANE},
        ]
        settled = [Settlement(one, mine.id, token, False, **end) for one, end in zip(given, ends, strict=False)]
        settled += [
            Settlement(given[3], mine.id, token, False, self.delivered()),
            Settlement(given[4], other.id, token, False, dataclasses.replace(self.delivered(), exchange=exchange)),
        ]
        breakers = [Breaker(conformance.LANE, 1, self.clock.now + 5), Breaker(LaneKey("p", "other"), 1, self.clock.now)]
        self.assertEqual(1, storage.settle(settled, [Closing(one, token) for one in given], breakers))
        storage.settle([], [], [Breaker(LaneKey("p", "other"), 0, 0.0)])
        storage.breakers()
        storage.depths()
        storage.message_deliveries("p", "q", given[0], None, 5, exchanges=True)
        self.clock.now += 10
        self.take(worker, lanes=3)
        storage.redeliver("p", "q", given[0], mine.id, 60)
        self.clock.now += 30
        self.prune_all()

    def consume_everything(self) -> None:
        storage = self.storage
        metadata = {"_max_claim_count": 1, "_dead_letter_queue": "dead", "_enable_encrypt_messages": True}
        storage.put_queue("p", "work", metadata)
        given = self.publish(20, queue="work") + storage.publish("p", "work", [Draft(b"1", 300, delay=50)])
        claim, messages = storage.claim("p", "work", 5, 60, 900)
        for wanted in itertools.product((False, True), repeat=2):
            storage.list_messages("p", "work", given[0], 5, "they", claimed=wanted[0], delayed=wanted[1])
        storage.get_claim("p", "work", claim.id)
        storage.update_claim("p", "work", claim.id, 90, 900)
        storage.delete_message("p", "work", messages[0].id, claim.id)
        storage.delete_messages("p", "work", [messages[1].id], [claim.id])
        storage.release_claim("p", "work", claim.id)
        storage.claim("p", "work", 5, 60, 60)
        storage.pop_messages("p", "work", 5)
        storage.stats("p", "work")
        storage.volume()
        held = storage.hold("p", "work", [Draft(b"1", 300)] * 3, "me", 30)
        storage.release("p", "work", held[:1], ["foreign"])
        storage.drop("p", "work", held[1:])
        storage.message_deliveries("p", "work", "foreign", None, 5)
        asked = self.subscription("http://asked/", queue="work")
        made = storage.subscribe(asked, lambda _: Draft(b"1", 300)).subscription
        storage.subscription_deliveries("p", "work", made.id, "foreign", 5)
        storage.confirm("p", "work", made.id, True)
        storage.add_key(ApiKey("k", "p", ("read",), "a key", b"hash", 1.0))
        storage.get_key("k")
        storage.list_keys("p")
        storage.list_keys()
        storage.revoke_key("k")


class CostTest(case.SqlCase):
    """Consuming and listing cost the same whatever is claimed or delayed, in steps of SQLite's machine."""

    PACE = 20

    def setUp(self) -> None:
        super().setUp()
        self.counted = 0
        self.storage = self.open()
        for engine in (self.storage._database._reading, self.storage._database._writer._engine):
            event.listen(engine, "connect", lambda connection, _: connection.set_progress_handler(self.count, self.PACE))

    def count(self) -> int:
        self.counted += 1
        return 0

    def steps(self, call: Any) -> int:
        self.counted = 0
        self.assertTrue(call())
        return self.counted * self.PACE

    def costs(self) -> dict[str, int]:
        storage = self.storage
        return {
            "claim": self.steps(lambda: storage.claim("p", "q", 20, 60, 60)),
            "pop": self.steps(lambda: storage.pop_messages("p", "q", 20)),
            "free": self.steps(lambda: storage.list_messages("p", "q", None, 20)),
            "claimed": self.steps(lambda: storage.list_messages("p", "q", None, 20, claimed=True)),
            "delayed": self.steps(lambda: storage.list_messages("p", "q", None, 20, delayed=True)),
            "all": self.steps(lambda: storage.list_messages("p", "q", None, 20, claimed=True, delayed=True)),
            "purge": self.steps(lambda: storage.publish("p", "r", [Draft(b"1", 300)]) and not storage.purge_messages("p", "r")),
        }

    def test_it_does_not_depend_on_what_is_claimed_or_delayed(self) -> None:
        def fill(count: int) -> None:
            self.publish(count)
            for _ in range(count // 100):
                self.storage.claim("p", "q", 50, 600, 60)
            self.storage.publish("p", "q", [Draft(b"1", 600, delay=500)] * count)
            self.publish(count, queue="r")

        fill(200)
        few = self.costs()
        fill(5000)
        many = self.costs()
        for name, steps in few.items():
            self.assertTrue(many[name] < 1.5 * steps + 500, f"{name}: {steps} -> {many[name]}")

    def test_a_plain_message_is_in_no_index_of_the_others(self) -> None:
        self.publish(2)
        self.storage.publish("p", "q", [Draft(b"1", 300, delay=60)])
        self.storage.claim("p", "q", 1, 60, 60)
        with contextlib.closing(sqlite3.connect(self.path)) as inside:
            wheres = {
                "ix_messages_delayed": "free_at > 0 AND claim_id IS NULL AND deleted_at IS NULL",
                "ix_messages_delay": "free_at > 0 AND claim_id IS NULL AND deleted_at IS NULL",
                "ix_messages_claimed": "claim_id IS NOT NULL AND deleted_at IS NULL",
                "ix_messages_claim": "claim_id IS NOT NULL AND deleted_at IS NULL",
                "ix_messages_foreign": "foreign_id IS NOT NULL",
                "ix_messages_encrypted": "encrypted > 0",
            }
            counts = {
                name: inside.execute(f"SELECT count(*) FROM messages INDEXED BY {name} WHERE {where}").fetchone()[0]
                for name, where in wheres.items()
            }
            indexes = inside.execute("SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = 'messages'").fetchall()
        self.assertEqual([1, 1, 1, 1, 0, 0], list(counts.values()))
        self.assertEqual({*wheres, "ix_messages_queue", "ix_messages_prune"}, {name for (name,) in indexes})
