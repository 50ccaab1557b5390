"""PostgreSQL: connections that are lost, servers that are started again, workers that say nothing, wake-ups."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import event

from tests.servers.postgresql import PostgreSQL
from tests.storage.contract import NOW, StorageCase
from tests.storage.postgresql_case import PostgresCase, RealTimeCase, storage_at
from zaqar_notify.errors import StorageUnavailable
from zaqar_notify.model import Draft, State
from zaqar_notify.storage.base import Closing, Settlement
from zaqar_notify.storage.sql import statements

WAIT = 30.0
END = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


class KilledConnectionTest(PostgresCase):
    def end_once(self, moment: str, part: str = "") -> None:
        """All connections, before the next statement with this text in it, or at another moment."""
        left = [1]

        def look(*given: Any) -> None:
            if left and (not part or part in given[2]):
                left.pop()
                self.inside(END)

        event.listen(self.storage._database._engine, moment, look)

    def test_an_idle_one_is_replaced(self) -> None:
        self.publish()
        self.inside(END)
        self.assertEqual(1, len(self.listed()))
        self.inside(END)
        self.assertEqual(1, len(self.publish()))

    def test_before_anything_is_stored_it_is_done_again(self) -> None:
        self.publish()
        self.end_once("before_cursor_execute", "INSERT INTO outbox")
        given = self.publish(3)
        self.assertEqual(4, len(self.listed()))
        self.assertEqual(given, self.listed()[1:])
        self.assertEqual([(4,)], self.inside("SELECT count(*) FROM outbox"))

    def test_in_the_middle_of_settling(self) -> None:
        mine = self.subscribe()
        message_id = self.publish()[0]
        token = self.take(self.storage.join()).token
        self.end_once("before_cursor_execute", "INSERT INTO delivery_log")
        done = [Settlement(message_id, mine.id, token, False, self.delivered())]
        self.assertEqual(0, self.storage.settle(done, [Closing(message_id, token)]))
        self.assertEqual(State.DELIVERED, self.state(message_id, mine.id))
        self.assertEqual(1, len(self.delivery(message_id, mine.id).log))

    def test_while_it_is_committed_nobody_can_say(self) -> None:
        self.publish()
        self.end_once("commit")
        self.assertRaises(StorageUnavailable, self.publish)
        self.assertEqual(1, len(self.publish()))
        self.assertEqual(2, len(self.listed()))

    def test_one_that_stops_in_its_middle_is_ended_before_others_lose_patience(self) -> None:
        self.publish()
        storage = self.another(busy_timeout=1.0)
        tries = []

        def stop(connection: Any) -> int:
            tries.append(connection.exec_driver_sql(statements.FIND_QUEUE_TO_CHANGE, ("p", "q")).one().id)
            if len(tries) == 1:
                held.set()
                time.sleep(2.0)
            return int(connection.exec_driver_sql("SELECT 7").scalar_one())

        held = threading.Event()
        results: list[int] = []
        thread = threading.Thread(target=lambda: results.append(storage._database.write(stop)))
        thread.start()
        self.assertTrue(held.wait(WAIT))
        self.assertEqual(1, len(storage.publish("p", "q", [Draft(b"1", 60)])))
        thread.join()
        self.assertEqual(([7], 2), (results, len(tries)), "what was rolled back ran again")

    def test_a_lock_that_is_not_let_go(self) -> None:
        self.publish()
        impatient = self.another(busy_timeout=0.1)
        with self.storage._database.connect() as outside:
            outside.execute("BEGIN")
            outside.execute("SELECT 1 FROM queues FOR UPDATE")
            self.assertIn("lock", str(self.assertRaises(StorageUnavailable, impatient.publish, "p", "q", [Draft(b"1", 60)])))
            self.assertEqual(1, len(impatient.list_messages("p", "q", None, 10)))

    def test_more_threads_than_connections(self) -> None:
        few = self.another(pool_size=2, busy_timeout=0.2)
        # Without transactions: such as do nothing are soon ended.
        with few._database.read(snapshot=False), few._database.read(snapshot=False):
            self.assertIn("in use", str(self.assertRaises(StorageUnavailable, few.get_queue, "p", "q")))
        self.assertIsNone(few.get_queue("p", "q"))


class RestartTest(StorageCase):
    """With a server of its own."""

    def setUp(self) -> None:
        self.server = PostgreSQL(fsync=False)
        self.url = self.server.new_database()
        super().setUp()
        self._cleanups.insert(0, (self.server.close, (), {}))
        self.storage.upgrade()

    def make_storage(self, clock: Callable[[], float] | None, **options: Any) -> Any:
        return storage_at(self.url, clock=clock, **options)

    def test_it_goes_on_after_a_restart(self) -> None:
        woken = threading.Event()
        self.addCleanup(self.storage.watch(woken.set))
        self.assertTrue(woken.wait(WAIT))
        given = self.publish(2)
        for end in (self.server.stop, self.server.kill):
            with self.assertLogs("zaqar_notify.storage.sql.listening", "WARNING") as told:
                end()
                woken.clear()
                self.assertRaises(StorageUnavailable, self.publish)
                self.assertRaises(StorageUnavailable, self.storage.list_messages, "p", "q", None, 10)
                self.assertRaises(StorageUnavailable, self.storage.check)
                self.storage.announce()
                self.server.start()
                self.assertTrue(woken.wait(WAIT), "it may have missed something")
            self.assertNotIn("\n", told.output[0])
            self.storage.check()
            given += self.publish(2)
            self.assertEqual(given, self.listed())
        self.assertEqual(given, [entry.message_id for entry in self.take(self.storage.join()).entries])

    def test_while_it_is_restarted_under_load_nothing_that_was_acknowledged_is_lost(self) -> None:
        given: list[str] = []
        ended = threading.Event()

        def post() -> None:
            while not ended.is_set():
                with contextlib.suppress(StorageUnavailable):
                    given.extend(self.publish())

        threads = [threading.Thread(target=post) for _ in range(8)]
        for thread in threads:
            thread.start()
        try:
            for end in (self.server.stop, self.server.kill, None):
                enough = len(given) + 20
                self.assertTrue(self.until(lambda enough=enough: len(given) > enough))
                if end is not None:
                    end()
                    self.server.start()
        finally:
            ended.set()
            for thread in threads:
                thread.join()
        stored = [message for (message,) in self.server.execute("SELECT id FROM messages", self.url)]
        self.assertEqual(set(), {int(message, 16) for message in given} - set(stored))
        self.assertEqual(len(stored), self.server.execute("SELECT count(*) FROM outbox", self.url)[0][0])

    def until(self, condition: Callable[[], bool]) -> bool:
        end = time.monotonic() + WAIT
        while not condition():
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True


class MembersTest(PostgresCase):
    def test_who_says_nothing_for_a_lease_is_dead(self) -> None:
        mine = self.subscribe()
        message_id = self.publish()[0]
        dead, alive = self.storage.join("a", 1, "1.0"), self.storage.join("b", 2, "1.0")
        token = self.take(dead).token
        self.clock.now += 20
        self.assertTrue(self.storage.beat(alive))
        self.assertEqual(0, self.another().recover())
        self.clock.now += 10
        self.assertEqual((1, 0), (self.another().recover(), self.storage.recover()))
        self.assertEqual([alive], [member.id for member in self.storage.members()])
        self.assertEqual([message_id], [entry.message_id for entry in self.take(alive).entries])
        # It was only stopped, and wakes up.
        self.assertFalse(self.storage.beat(dead))
        done = [Settlement(message_id, mine.id, token, False, self.delivered())]
        self.assertEqual(1, self.storage.settle(done, [Closing(message_id, token)]))
        self.assertEqual(State.IN_FLIGHT, self.state(message_id, mine.id))
        self.assertGreater(self.storage.join(), alive)

    def test_how_long_that_is(self) -> None:
        self.storage.join()
        patient = self.another(member_timeout=100.0)
        self.clock.now += 99
        self.assertEqual(0, patient.recover())
        self.clock.now += 1
        self.assertEqual(1, patient.recover())

    def test_one_that_is_seen_at_the_last_moment_lives(self) -> None:
        worker = self.storage.join()
        self.clock.now += 60
        other = self.another()
        read = other._database.read

        @contextlib.contextmanager
        def beaten_after() -> Any:
            with read() as connection:
                yield connection
            self.storage.beat(worker)

        other._database.read = beaten_after
        self.assertEqual(0, other.recover())
        self.assertTrue(self.storage.beat(worker))


class ClockTest(RealTimeCase):
    def test_it_is_that_of_the_server(self) -> None:
        before = float(self.inside("SELECT extract(epoch FROM clock_timestamp())")[0][0])
        now = self.storage.now()
        after = float(self.inside("SELECT extract(epoch FROM clock_timestamp())")[0][0])
        # The question and its answer take a moment, and who knows which half took how much of it.
        self.assertTrue(before - 1 < now < after + 1, (before, now, after))

    def test_one_that_is_given_takes_its_place(self) -> None:
        self.assertEqual(NOW, self.another(clock=lambda: NOW).now())


class WakeUpTest(RealTimeCase):
    def setUp(self) -> None:
        super().setUp()
        self.other = self.another(clock=None)
        self.woken = threading.Semaphore(0)

    def assert_woken(self) -> None:
        self.assertTrue(self.woken.acquire(timeout=WAIT))

    def test_who_watches_is_woken_by_what_others_announce(self) -> None:
        end = self.storage.watch(self.woken.release)
        self.assert_woken()  # for what was announced before
        self.other.announce()
        self.assert_woken()
        self.storage.announce()
        self.assert_woken()
        end()
        end()
        self.other.announce()
        self.assertFalse(self.woken.acquire(timeout=0.1))

    def test_many_announcements_are_few(self) -> None:
        self.storage.watch(self.woken.release)
        self.assert_woken()
        for _ in range(1000):
            self.other.announce()
        self.assert_woken()
        time.sleep(0.1)
        more = 0
        while self.woken.acquire(timeout=0.05):
            more += 1
        self.assertLess(more, 100)

    def test_a_listener_whose_connection_is_lost_wakes_and_listens_again(self) -> None:
        self.storage.watch(self.woken.release)
        self.assert_woken()
        with self.assertLogs("zaqar_notify.storage.sql.listening", "WARNING"):
            self.inside(END)
            self.assert_woken()
        self.other.announce()
        self.assert_woken()

    def test_a_process_that_was_forked_announces_too(self) -> None:
        self.other.announce()
        self.storage.watch(self.woken.release)
        self.assert_woken()
        while self.woken.acquire(timeout=0.1):
            pass
        child = os.fork()
        if child == 0:
            self.other.announce()
            time.sleep(2)
            os._exit(0)
        self.assert_woken()
        os.waitpid(child, 0)
