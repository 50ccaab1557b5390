import logging
import threading
import time
import unittest
from collections.abc import Sequence

from tests.notifiers.test_sending import WAIT, delivery
from zaqar_notify.model import Delivery, Outcome, OutcomeKind
from zaqar_notify.notifiers import census
from zaqar_notify.notifiers.base import BatchNotifier, Report, SingleNotifier
from zaqar_notify.notifiers.census import Census
from zaqar_notify.notifiers.sending import Aside, Threads

LOG = logging.getLogger("tests.census")


class Leak:
    """Threads that live until they are told to end, and threads that these start."""

    def __init__(self) -> None:
        self.end = threading.Event()
        self.threads: list[threading.Thread] = []

    def start(self, below: bool = False) -> None:
        started = threading.Event()

        def live() -> None:
            if below:
                self.start()
            started.set()
            self.end.wait(WAIT)

        thread = threading.Thread(target=live, daemon=True)
        thread.start()
        started.wait(WAIT)
        self.threads.append(thread)

    def stop(self) -> None:
        self.end.set()
        for thread in self.threads:
            thread.join(WAIT)


class LeakingSingle(SingleNotifier):
    most_threads = 4

    def __init__(self, leak: Leak) -> None:
        super().__init__(None, None, LOG)
        self.leak = leak

    def send(self, delivery: Delivery) -> Outcome:
        self.leak.start()
        return Outcome(OutcomeKind.DELIVERED)


class LeakingBatch(BatchNotifier):
    most_threads = 4

    def __init__(self, leak: Leak) -> None:
        super().__init__(None, None, LOG)
        self.leak = leak

    def send_many(self, deliveries: Sequence[Delivery], report: Report) -> None:
        for one in deliveries:
            self.leak.start()
            report(one, Outcome(OutcomeKind.DELIVERED))


class CensusCase(unittest.TestCase):
    def setUp(self) -> None:
        self.leak = Leak()
        self.addCleanup(self.leak.stop)
        # Not to be waited for.
        for name in ("_PAUSE", "_LEAKING_PAUSE"):
            self.addCleanup(setattr, census, name, getattr(census, name))
            setattr(census, name, 0.0)

    def leak_as(self, notifier: Census, count: int = 1, below: bool = False) -> None:
        """On a thread of the notifier's, which ends then."""

        def send() -> None:
            notifier.name_this_thread()
            for _ in range(count):
                self.leak.start(below)

        thread = threading.Thread(target=send)
        thread.start()
        thread.join(WAIT)

    def census(self, name: str = "one", most: int = 4) -> Census:
        return Census(name, most, LOG)


class CensusTest(CensusCase):
    def test_threads_and_what_they_start_are_those_of_whoever_started_them(self) -> None:
        one, other = self.census(), self.census("a name that is longer than the kernel keeps")
        self.leak_as(one, below=True)
        self.leak_as(other)
        self.leak.start()
        self.assertEqual((2, 1), (one.count(), other.count()), "one that was started, and one that it has started")

    def test_more_than_it_may_have(self) -> None:
        one = self.census()
        self.leak_as(one, 4)
        self.assertFalse(one.is_leaking(0))
        self.leak_as(one)
        with self.assertLogs(LOG, logging.ERROR) as logged:
            self.assertTrue(one.is_leaking(0))
            self.assertTrue(one.is_leaking(0), "and it is said once")
        self.assertEqual(1, len(logged.output))
        self.assertIn("one leaks threads: 5 that it has started are alive, and it may have 4", logged.output[0])
        with self.assertLogs(LOG, logging.WARNING):
            self.leak.stop()
            self.assertFalse(one.is_leaking(0))

    def test_those_that_send_for_it_do_not_count(self) -> None:
        one = self.census()
        self.leak_as(one, 6)
        self.assertFalse(one.is_leaking(ours=2))

    def test_as_many_as_it_likes(self) -> None:
        one = self.census(most=0)
        self.leak_as(one, 6)
        self.assertFalse(one.is_leaking(0))


class SenderTest(CensusCase):
    def test_one_that_leaks_at_each_send_is_stopped_until_its_threads_end(self) -> None:
        for make in (
            lambda: Threads(LeakingSingle(self.leak), "leaky", 2, LOG),
            lambda: Aside(LeakingBatch(self.leak), "leaky", LOG),
        ):
            sender = make()
            with self.subTest(sender), self.assertLogs(LOG, logging.ERROR):
                self.addCleanup(sender.close)
                reported = threading.Semaphore(0)
                sent = 0
                while not sender.stopped:
                    started = delivery(sent)
                    started.deadline = time.monotonic() + WAIT
                    sender.send_many([started], lambda *_, reported=reported: reported.release())
                    self.assertTrue(reported.acquire(timeout=WAIT))
                    sent += 1
                    self.assertLess(sent, 7)
                self.assertTrue(sender.full)
                self.leak.stop()
                self.assertFalse(sender.full or sender.stopped)
                self.leak.__init__()
