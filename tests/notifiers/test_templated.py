"""What has templates is sent from a thread of its own."""

import logging
import queue
import threading
import time
import unittest
from collections.abc import Sequence
from typing import Any

from tests.notifiers.case import WAIT, wait_for
from tests.notifiers.pushing import delivery
from zaqar_notify.guard import Guard
from zaqar_notify.model import Delivery, Outcome, OutcomeKind
from zaqar_notify.notifiers.base import Report
from zaqar_notify.notifiers.http import HttpClients
from zaqar_notify.notifiers.templated import TemplatedNotifier

DELIVERED, OURS = OutcomeKind.DELIVERED, OutcomeKind.OURS
TEMPLATES = {"*": {"text": "x"}}


class Notifier(TemplatedNotifier):
    section = "held"

    def __init__(self, log: logging.Logger) -> None:
        super().__init__(None, HttpClients(Guard(), max_timeout=20.0), log)
        self.free = threading.Event()
        self.begun = threading.Event()

    def _start_many(self, deliveries: Sequence[Delivery], report: Report) -> None:
        for one in deliveries:
            if one.subscription.subscriber == "x:bug":
                raise KeyError
            if one.subscription.subscriber == "x:held":
                self.begun.set()
                wait_for(self.free)
            report(one, Outcome(DELIVERED, threading.current_thread().name))


class TemplatedNotifierTest(unittest.TestCase):
    def setUp(self) -> None:
        self.notifier = Notifier(logging.getLogger("tests.templated"))
        self.addCleanup(self.notifier.close)
        self.addCleanup(self.notifier.free.set)
        self.reports: queue.Queue[tuple[Delivery, Outcome]] = queue.Queue()

    def send(self, *deliveries: Delivery) -> None:
        self.notifier.send_many(deliveries, lambda one, outcome: self.reports.put((one, outcome)))

    def outcome(self, of: Delivery) -> Outcome:
        found, outcome = self.reports.get(timeout=WAIT)
        self.assertIs(of, found)
        return outcome

    def templated(self, uri: str = "x:", **fields: Any) -> Delivery:
        return delivery(uri, templates=TEMPLATES, **fields)

    def test_what_has_none_waits_for_nobody(self) -> None:
        held, plain = self.templated("x:held"), delivery("x:")
        self.send(held, plain)
        self.assertEqual(Outcome(DELIVERED, threading.current_thread().name), self.outcome(plain))
        self.notifier.free.set()
        self.assertEqual(Outcome(DELIVERED, "held-templates"), self.outcome(held))

    def test_one_after_the_other(self) -> None:
        many = [self.templated() for _ in range(5)]
        self.send(*many)
        self.assertEqual([DELIVERED] * 5, [self.outcome(one).kind for one in many])

    def test_a_bug_costs_its_own_delivery(self) -> None:
        bad, good = self.templated("x:bug"), self.templated()
        with self.assertLogs("tests.templated", "ERROR"):
            self.send(bad, good)
            self.assertEqual(Outcome(OURS, "The notifier failed: KeyError"), self.outcome(bad))
        self.assertIs(DELIVERED, self.outcome(good).kind)

    def test_what_comes_too_late(self) -> None:
        held, late = self.templated("x:held"), self.templated(timeout=0.0)
        self.send(held, late)
        wait_for(self.notifier.begun)
        self.notifier.free.set()
        self.assertIs(DELIVERED, self.outcome(held).kind)
        self.assertIs(OURS, self.outcome(late).kind)

    def test_closing(self) -> None:
        held, waiting, later = self.templated("x:held"), self.templated(), self.templated()
        self.send(held, waiting)
        wait_for(self.notifier.begun)
        closing = threading.Thread(target=self.notifier.close)
        closing.start()
        end = time.monotonic() + WAIT
        while not self.notifier._closing and time.monotonic() < end:
            time.sleep(0.001)
        self.send(later)
        self.assertEqual(Outcome(OURS, "stopped"), self.outcome(later))
        self.notifier.free.set()
        self.assertIs(DELIVERED, self.outcome(held).kind)
        self.assertEqual(Outcome(OURS, "stopped"), self.outcome(waiting))
        closing.join(WAIT)
        self.assertFalse(any(thread.name == "held-templates" for thread in threading.enumerate()))
