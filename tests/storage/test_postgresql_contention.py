"""PostgreSQL: many threads and processes at once."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import event

from tests.storage import conformance_contention
from tests.storage.contract import LEASE
from tests.storage.postgresql_case import PostgresCase, RealTimeCase
from zaqar_notify.errors import Conflict, Forbidden, InvalidRequest, NotFound
from zaqar_notify.model import Draft, LaneKey, LogEntry, OutcomeKind, Receipt, ReceiptKind, State
from zaqar_notify.storage.base import Breaker, Closing, Failure, Settlement, Storage, Window

POSTS = 60
POSTER = f"""
print("ready", flush=True)
sys.stdin.readline()
for number in range({POSTS}):
    print(*storage.publish("p", "q", [Draft(b"1", 3600)] * (1 + number % 3)), flush=True)
"""


class ContentionTest(PostgresCase, conformance_contention.ContentionConformance):
    pass


class ThreadsCase(RealTimeCase):
    def run_threads(self, *runs: Callable[[], Any]) -> None:
        failures: list[BaseException] = []

        def run(one: Callable[[], Any]) -> None:
            try:
                one()
            except BaseException as error:
                failures.append(error)
                raise

        threads = [threading.Thread(target=run, args=(one,)) for one in runs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual([], failures)


class PagingTest(ThreadsCase):
    def test_a_reader_behind_its_marker_misses_none_of_two_processes_and_of_threads(self) -> None:
        self.storage.put_queue("p", "q", {})
        posters = [self.start(POSTER) for _ in range(2)]
        for process in posters:
            self.assertEqual("ready\n", process.stdout.readline())
        read: list[str] = []
        given: list[str] = []
        done = threading.Event()

        def page() -> None:
            marker, ended = None, False
            while not ended:
                ended = done.is_set()
                while found := self.storage.list_messages("p", "q", marker, 7):
                    read.extend(message.id for message in found)
                    marker = found[-1].id

        def post() -> None:
            for _ in range(POSTS):
                given.extend(self.storage.publish("p", "q", [Draft(b"1", 3600)]))
                self.storage.publish("p", f"other{random.randrange(3)}", [Draft(b"1", 3600)])

        def wait_for_posters() -> None:
            try:
                for process in posters:
                    process.stdin.write("go\n")
                    process.stdin.flush()
                for process in posters:
                    output, _ = process.communicate(timeout=120)
                    given.extend(output.split())
                threads = [threading.Thread(target=post) for _ in range(2)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            finally:
                done.set()

        self.run_threads(page, wait_for_posters)
        self.assertEqual(2 * POSTS * 2 + 2 * POSTS, len(given))
        self.assertEqual(sorted(given), read)


class TakersTest(ThreadsCase):
    def test_two_takers_never_get_the_same(self) -> None:
        mine = self.subscribe()
        given = [message for _ in range(20) for message in self.storage.publish("p", "q", [Draft(b"1", 3600)] * 20)]
        entries: list[str] = []
        rows: list[str] = []

        def take(storage: Storage) -> None:
            worker = storage.join()
            while True:
                taken = storage.take(worker, LEASE, entries=7, rows=7)
                if not taken.entries and not taken.rows:
                    return
                entries.extend(entry.message_id for entry in taken.entries)
                rows.extend(row.message_id for row in taken.rows)
                left = [Settlement(entry.message_id, mine.id, taken.token, False, due_at=0.0) for entry in taken.entries]
                ended = [Settlement(row.message_id, mine.id, taken.token, True) for row in taken.rows]
                closings = [Closing(entry.message_id, taken.token) for entry in taken.entries]
                self.assertEqual(0, storage.settle(left + ended, closings))

        storages = [self.storage, self.another(clock=None), self.another(clock=None)]
        self.run_threads(*(lambda storage=storage: take(storage) for storage in storages * 2))
        self.assertEqual(sorted(given), sorted(entries))
        # Who found nothing may have gone while another one was about to leave something.
        self.assertEqual([], [message for message, times in collections.Counter(rows).items() if times > 1])
        rest = self.storage.take(self.storage.join(), LEASE, entries=0, rows=1000).rows
        self.assertEqual(sorted(given), sorted(rows + [row.message_id for row in rest]))

    def test_takers_do_not_wait_for_each_other(self) -> None:
        self.publish(20)
        one, two = self.storage, self.another(clock=None, busy_timeout=2.0)
        held = threading.Event()
        let_go = threading.Event()
        taken = []

        def take_and_wait(connection: Any) -> None:
            taken.extend(connection.exec_driver_sql("SELECT message_id FROM outbox ORDER BY 1 LIMIT 10 FOR UPDATE").all())
            held.set()
            let_go.wait(30)

        thread = threading.Thread(target=lambda: one._database.write(take_and_wait))
        thread.start()
        try:
            self.assertTrue(held.wait(30))
            found = two.take(two.join(), LEASE, entries=20, rows=0).entries
        finally:
            let_go.set()
            thread.join()
        self.assertEqual(10, len(found))
        self.assertEqual(set(), {int(entry.message_id, 16) for entry in found} & {message for (message,) in taken})

    def test_posts_to_another_queue_do_not_wait(self) -> None:
        self.publish(queue="q")
        two = self.another(clock=None, busy_timeout=2.0)
        held, let_go = threading.Event(), threading.Event()

        def hold(connection: Any) -> None:
            connection.exec_driver_sql("SELECT 1 FROM queues WHERE name = 'q' FOR UPDATE")
            held.set()
            let_go.wait(30)

        thread = threading.Thread(target=lambda: self.storage._database.write(hold))
        thread.start()
        try:
            self.assertTrue(held.wait(30))
            self.assertEqual(1, len(two.publish("p", "r", [Draft(b"1", 60)])))
            self.assertEqual(1, len(two.list_messages("p", "q", None, 10)))
        finally:
            let_go.set()
            thread.join()


LANES = [LaneKey("p", f"http://{number}") for number in range(3)]
REFUSALS = (Conflict, NotFound, Forbidden, InvalidRequest)


class StormTest(ThreadsCase):
    """Everything at once, on the same few things."""

    SECONDS = 3.0

    def setUp(self) -> None:
        super().setUp()
        self.storage = self.another(clock=None, pool_size=24)
        self.subscriptions = [
            self.storage.subscribe(self.subscription(f"http://{number}/")).subscription.id for number in range(4)
        ]
        self.done: collections.Counter[str] = collections.Counter()
        self.deadlocks: list[str] = []
        event.listen(self.storage._database._engine, "handle_error", self.note)

    def note(self, context: Any) -> None:
        if type(context.original_exception).__name__ == "DeadlockDetected":
            self.deadlocks.append(context.statement)

    def outcome(self, state: State, kind: OutcomeKind, number: int = 1) -> LogEntry:
        return LogEntry(number, self.storage.now(), state, kind)

    def post(self) -> None:
        self.storage.publish("p", f"q{random.randrange(2) or ''}", [Draft(b"1", 300)] * random.randrange(1, 4))

    def consume(self) -> None:
        claimed = self.storage.claim("p", "q", 5, 60, 60)
        if claimed is not None:
            claim, messages = claimed
            shown = [message.id for message in messages]
            random.choice(
                (
                    lambda: self.storage.update_claim("p", "q", claim.id, 90, 60),
                    lambda: self.storage.release_claim("p", "q", claim.id),
                    lambda: self.storage.delete_messages("p", "q", shown, {claim.id}),
                )
            )()
        self.storage.pop_messages("p", "q", 3)

    def change(self) -> None:
        mine = random.choice(self.subscriptions)
        random.choice(
            (
                lambda: self.storage.put_queue("p", "q", {"a": 1}),
                lambda: self.storage.update_queue("p", "q", lambda metadata: {**metadata, "b": 2}),
                lambda: self.storage.delete_queue("p", "q1"),
                lambda: self.storage.update_subscription("p", "q", mine, {"options": {}}),
                lambda: self.storage.confirm("p", "q", mine, True, lambda _: Draft(b"1", 60)),
                lambda: self.storage.ping("p", "q", mine, Draft(b"1", 60)),
                lambda: self.storage.subscribe(self.subscription(f"http://x{random.randrange(2)}/"), lambda _: Draft(b"1", 60)),
            )
        )()

    def again(self) -> None:
        for one in self.storage.subscription_deliveries("p", "q", random.choice(self.subscriptions), None, 3) or ():
            draw = random.random()
            if draw < 0.2:
                receipt = Receipt(random.choice(list(ReceiptKind)), self.storage.now())
                self.storage.receive(one.message_id, one.subscription_id, receipt)
            elif draw < 0.5:
                self.storage.cancel("p", "q", one.message_id, one.subscription_id)
            else:
                self.storage.redeliver("p", "q", one.message_id, one.subscription_id, 60)

    def tidy(self) -> None:
        self.storage.prune(200)
        self.storage.recover()
        self.storage.depths()
        self.storage.merge_pools([])

    def work(self) -> None:
        worker = self.storage.join()
        for _ in range(10):
            parked = dict.fromkeys(LANES, 2)
            taken = self.storage.take(worker, LEASE, entries=5, rows=10, lanes=2, parked=parked)
            token = taken.token
            settled = [self.settlement(entry.message_id, one, token) for entry in taken.entries for one in self.subscriptions]
            delivered = self.outcome(State.DELIVERED, OutcomeKind.DELIVERED, 2)
            settled += [
                Settlement(row.message_id, row.subscription_id, token, True, delivered, recovered=True)
                if random.random() < 0.8
                else Settlement(row.message_id, row.subscription_id, token, True, window=Window("s", 0.1, "k"), lines=row.lines)
                for row in taken.rows
            ]
            random.shuffle(settled)
            breakers = [Breaker(random.choice(LANES), random.randrange(2), self.storage.now()) for _ in range(2)]
            self.storage.settle(settled, [Closing(entry.message_id, token) for entry in taken.entries], breakers)
        self.storage.leave(worker)

    def settlement(self, message_id: str, subscription_id: str, token: int) -> Settlement:
        draw = random.random()
        if draw < 0.1:
            window = Window(random.choice("st"), random.uniform(0.0, 0.5), random.choice("kl"))
            return Settlement(message_id, subscription_id, token, False, window=window)
        if draw < 0.3:
            lane = LaneKey(*dataclasses.astuple(random.choice(LANES))[:2], random.choice(["", "sms"]))
            return Settlement(message_id, subscription_id, token, False, park=lane, lines=1)
        if draw < 0.6:
            failure = Failure(self.storage.now(), True, 10**6, 1e9, "strikes", "longest")
            log = self.outcome(State.PENDING, OutcomeKind.RETRY)
            return Settlement(message_id, subscription_id, token, False, log, due_at=0.0, lines=1, failure=failure)
        publish = (("q", Draft(b"2", 300)),) if draw > 0.95 else ()
        log = self.outcome(State.DELIVERED, OutcomeKind.DELIVERED)
        return Settlement(message_id, subscription_id, token, False, log, recovered=True, publish=publish)

    def test_nothing_fails_and_nobody_waits_for_a_deadlock_to_be_found(self) -> None:
        end = time.monotonic() + self.SECONDS

        def repeat(action: Callable[[], None]) -> Callable[[], None]:
            def run() -> None:
                while time.monotonic() < end:
                    with contextlib.suppress(*REFUSALS):
                        action()
                    self.done[action.__name__] += 1

            return run

        actions = (self.post, self.consume, self.change, self.again, self.tidy, self.work)
        self.run_threads(*(repeat(action) for action in actions * 2))
        self.assertEqual({action.__name__ for action in actions}, set(self.done))
        # Each is found after a second, and ends in a repetition.
        self.assertLess(len(self.deadlocks), 3, self.deadlocks)
