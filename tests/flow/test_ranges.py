"""Huge fan-outs: cut into ranges, delivered page by page, by all workers; and what a worker does in a cluster."""

from __future__ import annotations

import collections
import dataclasses
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from collections.abc import Callable
from typing import Any

from tests.flow import fan_out
from tests.flow.case import DELIVERED, KEY, WAIT, FlowCase, Scripted, wait_for
from zaqar_notify.cluster import Cluster
from zaqar_notify.cluster import Settings as JobSettings
from zaqar_notify.encryption import Keyring
from zaqar_notify.model import Delivery, Draft, LaneKey, Outcome, OutcomeKind, State, Subscription
from zaqar_notify.storage import ids
from zaqar_notify.storage.base import RANGE, Closing
from zaqar_notify.storage.memory import MemoryStorage
from zaqar_notify.storage.sql.driver import SqlStorage
from zaqar_notify.worker import Identity, Worker


class FanOutCase(FlowCase):
    settings = dataclasses.replace(FlowCase.settings, page=4, cut_after=8)
    jobs = JobSettings(jobs=1, range=10, poll_interval=0.02)

    def cluster_worker(self, **options: Any) -> Worker:
        return self.worker(jobs=Cluster(self.storage, self.jobs), **options)

    def subscribe_many(self, count: int, queue: str = "q") -> list[Subscription]:
        return [self.subscribe(f"x://{queue}{number}", queue=queue) for number in range(count)]

    def wait_done(self) -> None:
        wait_for(lambda: not self.storage.depths().jobs and not self.storage.depths().outbox, "the end of all jobs")

    def assert_each_once(self, notifier: Scripted, subscriptions: list[Subscription]) -> None:
        sent = collections.Counter(delivery.subscription.id for delivery in notifier.sent)
        self.assertEqual({one.id: 1 for one in subscriptions}, dict(sent))


class FanOutTest(FanOutCase):
    def test_everybody_gets_it_once(self) -> None:
        notifier = self.notifier("x", Scripted())
        subscriptions = self.subscribe_many(51)
        (message,) = self.publish()
        self.cluster_worker()
        for subscription in subscriptions:
            self.wait_state(message, subscription, State.DELIVERED)
        self.wait_done()
        self.assert_each_once(notifier, subscriptions)

    def test_an_entry_that_is_not_huge_is_not_cut(self) -> None:
        subscriptions = self.subscribe_many(8)
        self.notifier("x", Scripted())
        (message,) = self.publish()
        self.settings = dataclasses.replace(self.settings, cut_after=9)
        self.worker()
        for subscription in subscriptions:
            self.wait_state(message, subscription, State.DELIVERED)
        wait_for(lambda: not self.storage.depths().outbox)
        self.assertEqual(0, self.storage.depths().jobs, "it would stay: nobody runs jobs here")

    def test_all_workers_share_it(self) -> None:
        workers: set[threading.Thread] = set()
        ranges = threading.Event()

        def answer(delivery: Delivery) -> Outcome | None:
            if not ranges.is_set():
                return DELIVERED
            workers.add(threading.current_thread())
            return DELIVERED if len(workers) > 1 else None

        notifier = self.notifier("x", Scripted(answer))
        subscriptions = self.subscribe_many(80)
        (message,) = self.publish()
        worker = self.worker()  # which runs no jobs
        wait_for(lambda: self.storage.depths().jobs)
        worker.stop_and_wait()
        ranges.set()
        self.cluster_worker()
        self.cluster_worker()
        wait_for(lambda: len(workers) == 2, "the second worker")
        notifier.let_go()
        self.wait_done()
        self.assertEqual({State.DELIVERED}, {self.record(message, one).state for one in subscriptions})
        self.assert_each_once(notifier, subscriptions)

    def test_what_else_is_posted_does_not_wait_for_it(self) -> None:
        self.send_timeout = WAIT
        notifier = self.notifier("x", Scripted(lambda _: None))
        others = self.notifier("y", Scripted())
        subscriptions = self.subscribe_many(60)
        other = self.subscribe("y://a", queue="other")
        stranger = self.subscribe("y://b", project="stranger")
        self.cluster_worker()
        self.publish()
        wait_for(lambda: notifier.held)
        for _ in range(3):
            self.wait_state(self.publish(queue="other")[0], other, State.DELIVERED)
            self.wait_state(self.publish(project="stranger")[0], stranger, State.DELIVERED)
        self.assertEqual(6, len(others.sent))
        notifier.answer = lambda _: DELIVERED
        notifier.let_go()
        self.wait_done()
        self.assert_each_once(notifier, subscriptions)

    def test_what_comes_in_while_a_page_is_read_is_sent_first(self) -> None:
        sent: list[str] = []
        posted: list[str] = []

        class Posting(MemoryStorage):
            wake: Callable[[], None] = staticmethod(lambda: None)

            def list_subscriptions(self, project: str, queue: str, marker: str | None, limit: int) -> list[Subscription]:
                found = super().list_subscriptions(project, queue, marker, limit)
                if queue == "q" and not posted:
                    posted.extend(self.publish("p", "other", [Draft(b"1", 60)]))
                    self.wake()
                return found

        self.storage = Posting(keyring=Keyring([KEY]), retention=604800.0)
        self.settings = dataclasses.replace(self.settings, page=1000)
        for scheme in "xy":
            self.notifier(scheme, Scripted(lambda delivery: sent.append(delivery.subscription.queue) or DELIVERED))
        self.subscribe("y://a", queue="other")
        self.subscribe_many(250)
        (message,) = self.publish()
        self.make_range(message)
        worker = self.worker(start=False, jobs=Cluster(self.storage, self.jobs))
        self.storage.wake = worker.wake
        self.run_worker(worker)
        self.wait_done()
        self.assertEqual(["other"] + ["q"] * 250, sent)

    def test_one_page_of_a_range_is_under_way_at_a_time(self) -> None:
        notifier = self.notifier("x", Scripted(lambda _: None))
        self.subscribe_many(30)
        (message,) = self.publish()
        job_id = self.make_range(message)
        worker = self.cluster_worker()
        wait_for(lambda: len(notifier.held) == 4 and worker._ranges.deliveries == 4)
        time.sleep(0.1)
        self.assertEqual(4, len(notifier.sent))
        notifier.let_go()
        wait_for(lambda: len(notifier.sent) == 8)
        self.assertEqual([job_id], [job.id for job in self.storage.list_jobs(None, 10)])

    def make_range(self, message_id: str, after: str | None = None, last: str | None = None) -> str:
        """Instead of its entry."""
        taken = self.storage.take(self.storage.join(), 30.0, entries=1, rows=0)
        self.storage.settle([], [Closing(entry.message_id, taken.token) for entry in taken.entries])
        return self.storage.add_job("p", RANGE, {"message_id": message_id, "after": after, "last": last})

    def test_a_range_ends_where_it_ends(self) -> None:
        notifier = self.notifier("x", Scripted())
        mine = self.subscribe_many(20)
        for after, last in ((2, 9), (0, 4), (5, 6), (9, 10)):
            with self.subTest(after=after, last=last):
                notifier.sent.clear()
                (message,) = self.publish()
                self.make_range(message, mine[after].id, mine[last].id)
                worker = self.cluster_worker()
                self.wait_done()
                worker.stop_and_wait()
                self.assert_each_once(notifier, mine[after + 1 : last + 1])

    def test_what_the_log_knows_already_is_not_sent_again(self) -> None:
        notifier = self.notifier("x", Scripted())
        mine = self.subscribe_many(20)
        (message,) = self.publish()
        self.make_range(message)
        self.storage.cancel("p", "q", message, mine[7].id)
        self.cluster_worker()
        self.wait_done()
        self.assert_each_once(notifier, mine[:7] + mine[8:])
        self.assertIs(State.CANCELLED, self.record(message, mine[7]).state)

    def test_it_goes_on_where_a_worker_has_stopped(self) -> None:
        notifier = self.notifier("x", Scripted())
        subscriptions = self.subscribe_many(200)
        self.publish()
        worker = self.cluster_worker()
        wait_for(lambda: len(notifier.sent) > 40)
        worker.stop_and_wait()
        self.assertTrue(self.storage.depths().jobs, "it was quicker than this test")
        self.assertEqual([], [job for job in self.storage.list_jobs(None, 100) if job.held_until])
        self.cluster_worker()
        self.wait_done()
        self.assert_each_once(notifier, subscriptions)

    def test_a_queue_that_is_deleted_ends_it(self) -> None:
        notifier = self.notifier("x", Scripted(lambda _: None))
        self.subscribe_many(60)
        (message,) = self.publish()
        self.make_range(message)
        self.cluster_worker()
        wait_for(lambda: notifier.held)
        self.storage.delete_queue("p", "q")
        notifier.answer = lambda _: DELIVERED
        notifier.let_go()
        self.wait_done()
        self.assertEqual(4, len(notifier.sent))

    def test_deliveries_of_a_range_fail_and_are_retried_like_others(self) -> None:
        attempts: collections.Counter[str] = collections.Counter()

        def answer(delivery: Delivery) -> Outcome:
            attempts[delivery.subscription.id] += 1
            return Outcome(OutcomeKind.RETRY) if attempts[delivery.subscription.id] == 1 else DELIVERED

        self.notifier("x", Scripted(answer))
        subscriptions = self.subscribe_many(12)
        (message,) = self.publish()
        self.make_range(message)
        self.cluster_worker()
        for subscription in subscriptions:
            record = self.wait_state(message, subscription, State.DELIVERED)
            self.assertEqual([State.PENDING, State.DELIVERED], [line.state for line in record.log])

    def test_slow_ones_leave_their_page(self) -> None:
        notifier = self.notifier(
            "x", Scripted(lambda delivery: None if delivery.subscription.subscriber == "x://q0" else DELIVERED)
        )
        subscriptions = self.subscribe_many(12)
        (message,) = self.publish()
        self.make_range(message)
        self.cluster_worker()
        self.wait_done()
        self.assertIs(State.IN_FLIGHT, self.record(message, subscriptions[0]).state)
        notifier.let_go()
        self.wait_state(message, subscriptions[0], State.DELIVERED)
        self.assert_each_once(notifier, subscriptions)


class KilledTest(unittest.TestCase):
    COUNT = 2000

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.database = f"sqlite:///{self.folder}/notify.db"
        self.storage = SqlStorage(self.database, keyring=Keyring([KEY]), retention=604800.0)
        self.addCleanup(self.storage.close)
        self.storage.upgrade()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Longer than others do: processes have to start."""
        end = time.monotonic() + 3 * WAIT
        while not condition():
            self.assertLess(time.monotonic(), end, f"{len(self.sent())} were sent")
            time.sleep(0.005)

    def sent(self) -> list[str]:
        try:
            with open(f"{self.folder}/sent") as file:
                return file.read().split()
        except FileNotFoundError:
            return []

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", fan_out.__name__, self.database, f"{self.folder}/wake", f"{self.folder}/sent"]
        process = subprocess.Popen(command)

        def end() -> None:
            process.kill()
            process.wait()

        self.addCleanup(end)
        return process

    def subscribe_all(self) -> list[str]:
        """As a copy has it: the first one, again and again."""
        self.storage.subscribe(Subscription("", "p", "q", "x://0", None, {}, 0.0, None))
        [first], _ = self.storage.copy_from("subscriptions", None, 1)
        others = [{**first, "id": first["id"] + number, "subscriber": f"x://{number}"} for number in range(1, self.COUNT)]
        self.storage.copy_into("subscriptions", others)
        return [ids.show(one["id"]) for one in (first, *others)]

    def test_kill_9_loses_nothing_and_repeats_what_was_in_flight(self) -> None:
        mine = self.subscribe_all()
        (message,) = self.storage.publish("p", "q", [Draft(b"1", 3600)])
        for share in (0.3, 0.6):
            process = self.start()
            self.wait_for(lambda share=share: len(self.sent()) > share * self.COUNT)
            process.kill()
            process.wait()
            self.assertTrue(self.storage.depths().jobs, "it was quicker than this test")
        self.start()
        self.wait_for(lambda: not self.storage.depths().jobs)
        sent = collections.Counter(self.sent())
        self.assertEqual(set(mine), set(sent))
        self.assertLessEqual(sent.total() - self.COUNT, 2 * (fan_out.MOST_IN_FLIGHT + fan_out.MICRO_BATCH))
        states, marker = collections.Counter[State](), None
        while page := self.storage.message_deliveries("p", "q", message, marker, 500):
            states.update(record.state for record in page)
            marker = page[-1].subscription_id
        self.assertEqual({State.DELIVERED: self.COUNT}, dict(states))


class ClusterWorkerTest(FlowCase):
    """What a worker does because there are others."""

    def test_it_is_a_member_with_a_name_until_it_stops(self) -> None:
        worker = self.worker(identity=Identity("here", 12, "1.5"))
        [member] = self.storage.members()
        self.assertEqual((worker.id, "here", 12, "1.5"), (member.id, member.host, member.pid, member.version))
        worker.stop_and_wait()
        self.assertEqual([], self.storage.members())

    def test_it_says_that_it_lives(self) -> None:
        self.settings = dataclasses.replace(self.settings, lease=0.3)
        self.worker()
        [before] = self.storage.members()
        wait_for(lambda: self.storage.members()[0].seen_at > before.seen_at + 0.2)

    def test_one_that_was_taken_for_dead_joins_anew(self) -> None:
        self.settings = dataclasses.replace(self.settings, lease=1.5)
        notifier = self.notifier("x", Scripted())
        subscription = self.subscribe("x://a")
        worker = self.worker()
        before = worker.id
        lane = LaneKey("p", "x://a")
        # It is this worker's to probe.
        worker._lanes.hold([lane], time.monotonic() + 60, time.monotonic(), {lane: 1})
        self.storage.leave(before)
        wait_for(lambda: worker.id != before)
        self.assertEqual([worker.id], [member.id for member in self.storage.members()])
        self.assertEqual(0.0, worker._lanes.lane(lane, time.monotonic()).held_until)
        self.wait_state(self.publish()[0], subscription, State.DELIVERED)
        self.assertEqual(1, len(notifier.sent))

    def test_a_range_of_one_that_was_taken_for_dead_is_not_its_own_any_more(self) -> None:
        self.settings = dataclasses.replace(self.settings, lease=1.5)
        self.notifier("x", Scripted(lambda _: None))
        self.subscribe("x://a")
        (message,) = self.publish()
        job_id = self.storage.add_job("p", RANGE, {"message_id": message})
        worker = self.worker()
        over = threading.Event()
        self.assertIsNotNone(self.storage.hold_job(worker.id, 60.0, job_id))
        self.storage.leave(worker.id)
        worker.hold_range(job_id, over.set)
        self.assertTrue(over.wait(WAIT))

    def test_it_is_woken_by_the_storage(self) -> None:
        class Watched(MemoryStorage):
            wake: Callable[[], None] | None = None

            def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
                self.wake = wake

                def end() -> None:
                    self.wake = None

                return end

        self.settings = dataclasses.replace(self.settings, poll_interval=3600.0)
        self.storage = storage = Watched(keyring=Keyring([KEY]), retention=604800.0)
        self.notifier("x", Scripted())
        subscription = self.subscribe("x://a")
        worker = self.worker()
        for _ in range(3):
            wait_for(lambda: worker._asleep and not worker._more)
            (message,) = self.publish()
            storage.wake()
            self.wait_state(message, subscription, State.DELIVERED)
        worker.stop_and_wait()
        self.assertIsNone(storage.wake)

    def test_the_clock_of_the_storage_is_the_one_that_counts(self) -> None:
        ahead = 100_000.0
        self.storage = MemoryStorage(keyring=Keyring([KEY]), retention=604800.0, clock=lambda: time.time() + ahead)
        failures = [Outcome(OutcomeKind.RETRY), Outcome(OutcomeKind.RETRY)]
        self.notifier("x", Scripted(lambda _: failures.pop() if failures else DELIVERED))
        subscription = self.subscribe("x://a")
        self.worker()
        (message,) = self.publish(ttl=600)
        record = self.wait_state(message, subscription, State.DELIVERED)
        self.assertEqual(3, len(record.log))
        for line in record.log:
            self.assertLess(abs(line.at - time.time() - ahead), 600)

    def test_a_clock_that_is_ahead_expires_nothing(self) -> None:
        behind = 100_000.0
        self.storage = MemoryStorage(keyring=Keyring([KEY]), retention=604800.0, clock=lambda: time.time() - behind)
        notifier = self.notifier("x", Scripted())
        subscription = self.storage.subscribe(Subscription("", "p", "q", "x://a", 600, {}, 0.0, None)).subscription
        self.worker()
        self.wait_state(self.publish(ttl=600)[0], subscription, State.DELIVERED)
        self.assertEqual(1, len(notifier.sent))
