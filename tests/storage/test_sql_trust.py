"""Breakers, turns, redelivery and retention, where they are the database's own matter."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import pathlib
import sqlite3
from collections.abc import Callable
from typing import Any

from sqlalchemy import event

from tests.storage import case
from tests.storage.contract import LANE, NOW, RETENTION, make_keyring
from zaqar_notify.encryption import Keyring
from zaqar_notify.model import Alert, Draft, Exchange, LaneKey, Receipt, ReceiptKind, State
from zaqar_notify.storage.base import Breaker, Closing, Settlement, Taken, Window
from zaqar_notify.storage.retention import Retention
from zaqar_notify.storage.sql import pruning

DAY = 86_400.0


class InsideCase(case.SqlCase):
    def inside(self, query: str, *parameters: Any) -> list[Any]:
        with contextlib.closing(sqlite3.connect(self.path)) as connection, connection:
            return connection.execute(query, parameters).fetchall()

    def fill(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        with contextlib.closing(sqlite3.connect(self.path)) as connection, connection:
            connection.executemany(statement, rows)


class TurnsTest(InsideCase):
    """More projects than one bound has places for."""

    PROJECTS = 600

    def setUp(self) -> None:
        super().setUp()
        entries = [(number, 1, 0, 0, 1 + number % self.PROJECTS) for number in range(1, 2 * self.PROJECTS + 1)]
        self.fill("INSERT INTO outbox (message_id, queue_id, due_at, takes, project_id) VALUES (?, ?, ?, ?, ?)", entries)
        crowd = [(number, 1, 0, 0, 7) for number in range(10_000, 15_000)]
        self.fill("INSERT INTO outbox (message_id, queue_id, due_at, takes, project_id) VALUES (?, ?, ?, ?, ?)", crowd)
        self.fill("INSERT INTO projects (id, name) VALUES (?, ?)", [(self.PROJECTS, "last")])
        self.worker = self.storage.join()

    def taken(self, entries: int) -> list[int]:
        """Their projects."""
        found = self.storage.take(self.worker, 30.0, entries=entries, rows=0).entries
        numbers = [int(entry.message_id, 16) for entry in found]
        return [7 if number >= 10_000 else 1 + number % self.PROJECTS for number in numbers]

    def test_everyone_has_had_a_turn_before_anyone_has_another(self) -> None:
        taken = self.taken(400) + self.taken(200)
        self.assertEqual(list(range(1, self.PROJECTS + 1)), sorted(taken))

    def test_one_bound_is_filled_by_one_round(self) -> None:
        taken = self.taken(3000)
        self.assertEqual(3000, len(taken))
        self.assertEqual(3000 - 2 * (self.PROJECTS - 1), taken.count(7))
        self.assertEqual({2}, {taken.count(project) for project in set(taken) - {7}})

    def test_everything_is_taken_once(self) -> None:
        batches = []
        while batch := self.taken(1000):
            batches.append(batch)
        self.assertEqual(2 * self.PROJECTS + 5000, sum(map(len, batches)))
        self.assertTrue(all(len(batch) == 1000 for batch in batches[:-1]))

    def test_a_newcomer_is_in_the_next_round(self) -> None:
        for _ in range(3):
            self.taken(100)
        message_id = self.publish(project="new")[0]
        for _ in range(self.PROJECTS // 100 + 1):
            if message_id in [entry.message_id for entry in self.storage.take(self.worker, 30.0, entries=100, rows=0).entries]:
                return
        self.fail("it was left out of a whole round")


class CostTest(InsideCase):
    """Taking costs the same whatever waits, is parked, or is leased, in steps of SQLite's machine."""

    PACE = 20
    ROW = (
        "INSERT INTO deliveries (message_id, subscription_id, lane_id, due_at, attempts, lines, expires_at, project_id)"
        " VALUES (?, ?, ?, ?, 1, 1, ?, ?)"
    )

    def setUp(self) -> None:
        super().setUp()
        self.counted = 0
        self.storage = self.open()
        for engine in (self.storage._database._reading, self.storage._database._writer._engine):
            event.listen(engine, "connect", lambda connection, _: connection.set_progress_handler(self.count, self.PACE))
        self.worker = self.storage.join()
        self.storage.settle([], [], [Breaker(LANE, 1, NOW + DAY)])
        [(self.lane,)] = self.inside("SELECT id FROM lanes")

    def count(self) -> int:
        self.counted += 1
        return 0

    def steps(self, call: Callable[[], Any]) -> int:
        self.counted = 0
        call()
        return self.counted * self.PACE

    def take_and_give_back(self) -> None:
        taken = self.take(self.worker, entries=50, rows=50, lanes=50)
        self.assertEqual((50, 50), (len(taken.entries), len(taken.rows)))
        rows = [(row.message_id, row.subscription_id) for row in taken.rows]
        self.storage.give_back(taken.token, [entry.message_id for entry in taken.entries], rows)

    def costs(self) -> dict[str, int]:
        storage = self.storage
        return {
            "take": self.steps(self.take_and_give_back),
            "idle": self.steps(lambda: self.take(self.worker, entries=0, rows=0, lanes=5)),
            "breakers": self.steps(storage.breakers),
        }

    def test_it_does_not_depend_on_what_waits(self) -> None:
        def fill(first: int, count: int) -> None:
            numbers = range(first, first + count)
            self.fill(
                "INSERT INTO outbox (message_id, queue_id, due_at, takes, project_id) VALUES (?, 1, ?, 0, 1)",
                [(number, 0 if number % 2 else NOW + 60) for number in numbers],
            )
            self.fill(self.ROW, [(number, 1, None, NOW - 5 if number % 2 else NOW + 60, NOW + DAY, 1) for number in numbers])
            self.fill(self.ROW, [(number, 2, self.lane, None, NOW + DAY, 1) for number in numbers])

        fill(1, 200)
        few = self.costs()
        fill(1000, 20_000)
        many = self.costs()
        for name, steps in few.items():
            self.assertTrue(many[name] < 1.5 * steps + 500, f"{name}: {steps} -> {many[name]}")

    def test_other_projects_that_wait_cost_a_look_each(self) -> None:
        self.fill(self.ROW, [(number, 1, None, NOW - 5, NOW + DAY, 1) for number in range(1, 101)])
        call = lambda: self.take(self.worker, entries=0, rows=10)  # noqa: E731
        before = self.steps(call)
        self.fill(self.ROW, [(number, 1, None, NOW + 60, NOW + DAY, number) for number in range(1000, 1500)])
        self.assertTrue(self.steps(call) < before + 500 * 60, "the walk reads no more than the first of each")

    def test_a_window_costs_the_same_however_many_wait(self) -> None:
        mine = self.subscribe()
        number = int(mine.id, 16)
        given = self.publish(4, ttl=10**6)
        token = self.take(self.worker).token
        waits = [Settlement(one, mine.id, token, False, window=Window("s", DAY, "key")) for one in given]
        self.storage.settle(waits[:2])
        [(window,)] = self.inside("SELECT id FROM windows")

        def fill(first: int, count: int) -> None:
            """Of this subscription, and of others with the same key; and other windows."""
            self.fill(
                "INSERT INTO deliveries"
                " (message_id, subscription_id, due_at, attempts, lines, expires_at, project_id, window_id, window_key)"
                " VALUES (?, ?, ?, 0, 0, ?, 1, ?, ?)",
                [
                    (one, *held)
                    for one in range(first, first + count)
                    for held in (
                        (number, NOW + DAY, NOW + DAY, window, f"{one}"),
                        (number + one, NOW + DAY, NOW + DAY, window, "key"),
                        (number + one + 1, NOW + DAY, NOW + DAY, window + one, "key"),
                    )
                ],
            )
            windows = [("p", f"{one}", NOW + DAY) for one in range(first, first + count)]
            self.fill("INSERT INTO windows (project, scope, ends_at) VALUES (?, ?, ?)", windows)

        fill(1, 100)
        few = self.steps(lambda: self.storage.settle(waits[2:3]))
        fill(1000, 10_000)
        many = self.steps(lambda: self.storage.settle(waits[3:]))
        self.assertEqual([State.SUPERSEDED] * 3 + [State.PARKED], [self.state(one, mine.id) for one in given])
        self.assertTrue(many < 1.5 * few + 500, f"{few} -> {many}")

    def test_lanes_of_other_pools_are_not_stepped_over(self) -> None:
        def fill(first: int, count: int) -> None:
            lanes = [("p", f"{number}", "sms" if number % 2 else "push", NOW - 5) for number in range(first, first + count)]
            self.fill("INSERT INTO lanes (project, name, pool, due_at, project_id) VALUES (?, ?, ?, ?, 1)", lanes)

        def costs(due: int) -> list[int]:
            self.fill("INSERT INTO lanes (project, name, due_at, project_id) VALUES ('p', ?, 0, 1)", [(f"mine {due}",)])
            one = lambda: self.assertEqual(1, len(self.take(self.worker, lanes=5).lanes))  # noqa: E731
            none = lambda: self.assertEqual([], list(self.take(self.worker, lanes=5).lanes))  # noqa: E731
            return [self.steps(one), self.steps(none), self.steps(lambda: self.storage.merge_pools(["sms", "push"]))]

        fill(1, 50)
        few = costs(1)
        fill(1000, 10_000)
        for before, after in zip(few, costs(2), strict=True):
            self.assertTrue(after < 1.5 * before + 500, f"{before} -> {after}")
        self.storage.merge_pools(["push"])
        self.assertEqual([("", 5028), ("push", 5025)], self.inside("SELECT pool, count(*) FROM lanes GROUP BY pool"))

    def test_housekeeping_and_taking_do_not_depend_on_how_much_expires_at_once(self) -> None:
        mine = int(self.subscribe().id, 16)
        first = int(self.publish()[0], 16)
        [(queue,)] = self.inside("SELECT id FROM queues")

        def expire(count: int) -> None:
            nonlocal first
            numbers = range(first + 1, first + 1 + count)
            first += count
            self.fill(
                "INSERT INTO messages (id, queue_id, body, ttl, created_at, expires_at, version, prune_at)"
                " VALUES (?, ?, x'31', 60, ?, ?, 1, ?)",
                [(number, queue, NOW - 60, NOW, NOW + DAY) for number in numbers],
            )
            self.fill(self.ROW, [(number, mine, self.lane, None, NOW, 1) for number in numbers])

        def step(changed: int) -> None:
            self.assertEqual(changed, self.storage.prune(50))

        def costs(count: int) -> dict[str, int]:
            expire(count)
            found = {"a step": self.steps(lambda: step(50))}
            while self.storage.prune(5000):
                pass
            return {
                **found,
                "nothing more to do": self.steps(lambda: step(0)),
                "take": self.steps(lambda: self.assertEqual(50, len(self.take(self.worker, rows=50).rows))),
            }

        few = costs(200)
        many = costs(20_000)
        for name, steps in few.items():
            self.assertTrue(many[name] < 1.5 * steps + 500, f"{name}: {steps} -> {many[name]}")

    def test_counting_what_is_parked_reads_none_of_it(self) -> None:
        self.fill(self.ROW, [(number, 2, self.lane, None, NOW + DAY, 1) for number in range(1, 101)])
        few = self.steps(self.storage.depths)
        self.fill(self.ROW, [(number, 2, self.lane, None, NOW + DAY, 1) for number in range(1000, 11_000)])
        self.assertTrue(self.steps(self.storage.depths) < 2 * few + 500)
        self.assertEqual(10_100, self.storage.depths().parked)


class ExchangeAtRestTest(InsideCase):
    EXCHANGE = Exchange({"url": "http://the-secret-url/"}, {"status": 200, "body": "the-secret-answer"}, {"end": 0.5})

    def delivered_in(self, queue: str) -> tuple[str, str]:
        mine = self.storage.subscribe(self.subscription(queue=queue)).subscription
        message_id = self.publish(queue=queue)[0]
        token = self.take(self.storage.join()).token
        line = dataclasses.replace(self.delivered(), exchange=self.EXCHANGE)
        self.assertEqual(
            0, self.storage.settle([Settlement(message_id, mine.id, token, False, line)], [Closing(message_id, token)])
        )
        return message_id, mine.id

    def exchange(self, queue: str, message_id: str) -> Exchange | None:
        [record] = self.storage.message_deliveries("p", queue, message_id, None, 10, exchanges=True)
        return record.log[0].exchange

    def raw(self) -> bytes:
        self.storage.close()
        return b"".join(path.read_bytes() for path in pathlib.Path(self.folder).iterdir() if path.is_file())

    def test_of_an_encrypted_message_no_file_has_it_in_plain_text(self) -> None:
        self.storage.put_queue("p", "sealed", {"_enable_encrypt_messages": True})
        message_id, _ = self.delivered_in("sealed")
        self.assertEqual(self.EXCHANGE, self.exchange("sealed", message_id))
        raw = self.raw()
        self.assertNotIn(b"the-secret-answer", raw)
        self.assertNotIn(b"the-secret-url", raw)

    def test_of_another_it_is_json(self) -> None:
        message_id, _ = self.delivered_in("q")
        [(stored,)] = self.inside("SELECT exchange FROM delivery_log WHERE message_id = ?", int(message_id, 16))
        self.assertTrue(stored.startswith(b'{"request":{"url":"http://the-secret-url/"}'), stored)

    def test_one_that_was_moved_to_another_line_does_not_open(self) -> None:
        self.storage.put_queue("p", "sealed", {"_enable_encrypt_messages": True})
        message_id, mine = self.delivered_in("sealed")
        self.fill("UPDATE delivery_log SET number = ? WHERE message_id = ?", [(2, int(message_id, 16))])
        self.assertIsNone(self.exchange("sealed", message_id))
        [record] = self.storage.subscription_deliveries("p", "sealed", mine, None, 10, exchanges=True)
        self.assertEqual((State.DELIVERED, None), (record.state, record.log[0].exchange))


class HousekeepingTest(InsideCase):
    def test_a_breaker_that_nothing_waits_for_is_forgotten(self) -> None:
        mine = self.subscribe()
        worker = self.storage.join()
        self.park(worker, self.publish(ttl=100_000), mine.id)
        idle = LaneKey("p", "idle")
        breakers = [Breaker(LANE, 3, NOW + 30), Breaker(idle, 1, NOW + 30)]
        self.storage.settle([], [], breakers)
        self.clock.now = NOW + 30 + 3599
        self.take(worker, lanes=5)
        self.prune_all()
        self.assertEqual({LANE, idle}, {one.lane for one in self.storage.breakers()})
        self.clock.now = NOW + 30 + 3601
        self.prune_all()
        self.assertEqual([breakers[0]], self.storage.breakers())

    def test_old_alerts_are_forgotten(self) -> None:
        mine = self.subscribe()
        message_id = self.publish()[0]
        token = self.take(self.storage.join()).token
        alerts = tuple(Alert(f"cause {number}", "alerts", Draft(b"1", 60)) for number in range(5))
        self.storage.settle([Settlement(message_id, mine.id, token, False, self.failed(), alerts=alerts)])
        self.assertEqual([(5,)], self.inside("SELECT count(*) FROM alerts"))
        self.clock.now += DAY - 1
        self.prune_all()
        self.assertEqual([(5,)], self.inside("SELECT count(*) FROM alerts"))
        self.clock.now += 2
        self.assertTrue(self.storage.prune(2) <= 4)
        self.prune_all()
        self.assertEqual([(0,)], self.inside("SELECT count(*) FROM alerts"))

    def test_projects_go_with_their_last_queue_and_their_numbers_with_them(self) -> None:
        for project in ("a", "b"):
            self.storage.put_queue(project, "q", {})
        self.storage.put_queue("b", "r", {})
        for project in ("a", "b"):
            self.storage.delete_queue(project, "q")
        self.prune_all()
        self.assertEqual([(2, "b")], self.inside("SELECT id, name FROM projects"))
        self.storage.delete_queue("b", "r")
        self.prune_all()
        self.storage.put_queue("b", "q", {})
        self.assertEqual([(3, "b")], self.inside("SELECT id, name FROM projects"))
        self.assertEqual([(3,)], self.inside("SELECT project_id FROM queues"))

    def test_forgetting_what_was_delivered_goes_in_steps(self) -> None:
        self.storage = self.open(retention_delivered=100.0)
        subscribers = [self.subscribe(f"http://{number}/") for number in range(30)]
        given = self.publish(3, ttl=60)
        token = self.take(self.storage.join()).token
        settled = [Settlement(one, of.id, token, False, self.delivered()) for one in given for of in subscribers]
        self.assertEqual(0, self.storage.settle(settled, [Closing(one, token) for one in given]))
        for one in given:
            self.assertTrue(self.storage.receive(one, subscribers[0].id, Receipt(ReceiptKind.DEVICE, NOW)))
        self.clock.now += 101
        left = 90
        while step := self.storage.prune(20):
            [(remaining,)] = self.inside("SELECT count(*) FROM delivery_log")
            self.assertTrue(left - 20 <= remaining <= left and step <= 45, (left, remaining, step))
            left = remaining
        self.assertEqual(0, left)
        self.assertEqual([(3, 0)], self.inside("SELECT (SELECT count(*) FROM messages), (SELECT count(*) FROM receipts)"))
        self.clock.now += RETENTION
        self.prune_all()
        self.assertEqual([(0,)], self.inside("SELECT count(*) FROM messages"))

    def test_windows_go_when_they_are_over(self) -> None:
        mine = self.subscribe()
        given = self.publish(6, ttl=10**6)
        token = self.take(self.storage.join()).token
        for number, one in enumerate(given):
            window = Window(f"{number}", 100.0 if number else 300.0, "key")
            self.storage.settle([Settlement(one, mine.id, token, False, window=window)])
        self.assertEqual(0, self.storage.prune(100))
        self.clock.now += 100
        self.assertEqual(2, self.storage.prune(2))
        self.assertEqual([(4,)], self.inside("SELECT count(*) FROM windows"))
        self.prune_all()
        self.assertEqual([("0",)], self.inside("SELECT scope FROM windows"))
        self.assertEqual([(6,)], self.inside("SELECT count(*) FROM deliveries"))

    def test_receipts_go_in_steps(self) -> None:
        subscribers = [self.subscribe(f"http://{number}/") for number in range(20)]
        given = self.publish(2, ttl=60)
        token = self.take(self.storage.join()).token
        settled = [Settlement(one, of.id, token, False, self.delivered()) for one in given for of in subscribers]
        self.assertEqual(0, self.storage.settle(settled, [Closing(one, token) for one in given]))
        for one in given:
            for of in subscribers:
                for kind in (ReceiptKind.DEVICE, ReceiptKind.ACKNOWLEDGED):
                    self.assertTrue(self.storage.receive(one, of.id, Receipt(kind, NOW)))
        self.clock.now += RETENTION + 101
        left = 80
        while step := self.storage.prune(15):
            [(remaining,)] = self.inside("SELECT count(*) FROM receipts")
            self.assertTrue(left - 15 <= remaining <= left and step <= 30, (left, remaining, step))
            left = remaining
        self.assertEqual(0, left)
        self.assertEqual([(0, 0)], self.inside("SELECT (SELECT count(*) FROM messages), (SELECT count(*) FROM delivery_log)"))

    def test_what_is_reported_meanwhile_is_not_removed(self) -> None:
        mine = self.subscribe()
        [message_id] = self.publish(ttl=60)
        token = self.take(self.storage.join()).token
        done = Settlement(message_id, mine.id, token, False, self.delivered())
        self.storage.settle([done], [Closing(message_id, token)])
        self.clock.now += 60
        self.prune_all()
        self.clock.now += RETENTION
        with self.storage._database.read() as connection:
            looks = pruning.look_at_messages(connection, self.clock.now, Retention(RETENTION), 10)
        self.assertEqual([0.0], [look.prune_at for look in looks])
        self.assertTrue(self.storage.receive(message_id, mine.id, Receipt(ReceiptKind.FAILED, NOW)))
        self.storage._database.write(lambda connection: pruning.store_looks(connection, looks, self.clock.now))
        self.prune_all()
        self.assertEqual([message_id], [row.message_id for row in self.take(self.storage.join()).rows])

    def test_what_is_begun_anew_meanwhile_is_not_removed(self) -> None:
        mine = self.subscribe()
        message_id = self.publish(ttl=60)[0]
        token = self.take(self.storage.join()).token
        done = Settlement(message_id, mine.id, token, False, self.delivered())
        self.storage.settle([done], [Closing(message_id, token)])
        self.clock.now += 61
        self.prune_all()
        self.clock.now += RETENTION + 1
        with self.storage._database.read() as connection:
            looks = pruning.look_at_messages(connection, self.clock.now, Retention(RETENTION), 100)
        self.assertEqual([0.0], [look.prune_at for look in looks], "it is to be removed")
        self.storage.redeliver("p", "q", message_id, mine.id, 600)
        self.storage._database.write(lambda connection: pruning.store_looks(connection, looks, self.clock.now))
        self.prune_all()
        [row] = self.take(self.storage.join()).rows
        self.assertEqual(message_id, row.message_id)
        self.assertIn(message_id, self.storage.load([message_id], []).messages)
        self.assertEqual(State.IN_FLIGHT, self.state(message_id, mine.id))


class RestartTest(InsideCase):
    def test_breakers_strikes_alerts_and_redeliveries_survive(self) -> None:
        mine = self.subscribe()
        given = self.publish(2)
        token = self.take(self.storage.join()).token
        alert = Alert("cause", "alerts", Draft(b"1", 600))
        settled = [Settlement(one, mine.id, token, False, self.delivered(), alerts=(alert,)) for one in given]
        self.storage.settle(settled, [Closing(one, token) for one in given], [Breaker(LANE, 2, NOW + 600)])
        self.storage.redeliver("p", "q", given[0], mine.id, 5000)
        self.storage.close()
        again = self.open()
        self.assertEqual([Breaker(LANE, 2, NOW + 600)], again.breakers())
        taken: Taken = again.take(again.join(), 30.0, entries=10, rows=10, lanes=10)
        self.assertEqual([(given[0], self.clock.now + 5000)], [(row.message_id, row.expires_at) for row in taken.rows])
        [letter] = taken.entries
        again.settle([Settlement(letter.message_id, mine.id, taken.token, False, self.delivered(), alerts=(alert,))])
        self.assertEqual([], list(again.take(again.join(), 30.0, entries=10, rows=0).entries), "told already")

    def test_a_killed_worker_leaves_the_probe_to_another(self) -> None:
        self.storage.settle([], [], [Breaker(LANE, 1, NOW)])
        process = self.start(
            "taken = storage.take(storage.join(), 10**9, entries=0, rows=0, lanes=1)\n"
            "print(len(taken.probes), flush=True)\nsys.stdin.readline()\n"
        )
        self.assertEqual("1\n", process.stdout.readline())
        worker = self.storage.join()
        self.assertEqual({}, self.take(worker, lanes=1).probes)
        process.kill()
        process.wait()
        self.assertEqual(1, self.storage.recover())
        self.assertEqual({LANE: 1}, self.take(worker, lanes=1).probes)


class LostKeyTest(InsideCase):
    def test_an_exchange_that_cannot_be_opened_is_left_out(self) -> None:
        self.storage.put_queue("p", "q", {"_enable_encrypt_messages": True})
        mine = self.subscribe()
        message_id = self.publish()[0]
        token = self.take(self.storage.join()).token
        line = dataclasses.replace(self.delivered(), exchange=Exchange({"method": "POST"}))
        self.storage.settle([Settlement(message_id, mine.id, token, False, line)])
        other = self.open(keyring=Keyring([base64.b64encode(b"n" * 32).decode()]))
        self.catch_log()
        [record] = other.message_deliveries("p", "q", message_id, None, 10, exchanges=True)
        self.assertEqual((State.DELIVERED, None), (record.state, record.log[0].exchange))
        [record] = self.open(keyring=make_keyring()).message_deliveries("p", "q", message_id, None, 10, exchanges=True)
        self.assertEqual(Exchange({"method": "POST"}), record.log[0].exchange)
