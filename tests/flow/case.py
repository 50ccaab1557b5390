"""A worker on a thread, with the memory storage and notifiers that do as they are told."""

from __future__ import annotations

import base64
import logging
import os
import tempfile
import threading
import time
import unittest
from collections.abc import Callable, Iterable
from typing import Any

from zaqar_notify.alerts import Alerts
from zaqar_notify.encryption import Keyring
from zaqar_notify.errors import UnknownScheme
from zaqar_notify.lanes import Limits
from zaqar_notify.model import Delivery, DeliveryRecord, Draft, Outcome, OutcomeKind, State, Subscription
from zaqar_notify.notifiers.base import BatchNotifier, Notifier, Report, SingleNotifier
from zaqar_notify.notifiers.sending import Senders
from zaqar_notify.retry import Policy
from zaqar_notify.settling import Endurance, Telling
from zaqar_notify.storage.memory import MemoryStorage
from zaqar_notify.wake import Listener
from zaqar_notify.worker import Settings, Worker

WAIT = 20.0
LOG = logging.getLogger("tests.flow")
DELIVERED = Outcome(OutcomeKind.DELIVERED)
KEY = base64.b64encode(bytes(32)).decode()


def wait_for(condition: Callable[[], Any], what: str = "it") -> Any:
    end = time.monotonic() + WAIT
    while not (result := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"gave up waiting for {what}")
        time.sleep(0.005)
    return result


class Scripted(BatchNotifier):
    """Answers each delivery with ``answer(delivery)``; None leaves it unanswered. Counts what it got."""

    def __init__(self, answer: Callable[[Delivery], Outcome | None] = lambda _: DELIVERED) -> None:
        super().__init__(None, None, LOG)
        self.answer = answer
        self.sent: list[Delivery] = []
        self.held: list[tuple[Delivery, Report]] = []

    def send_many(self, deliveries: Iterable[Delivery], report: Report) -> None:
        for delivery in deliveries:
            self.sent.append(delivery)
            outcome = self.answer(delivery)
            if outcome is None:
                self.held.append((delivery, report))
            else:
                report(delivery, outcome)

    def let_go(self, outcome: Outcome = DELIVERED) -> None:
        held, self.held = self.held, []
        for delivery, report in held:
            report(delivery, outcome)


class OneByOne(SingleNotifier):
    def __init__(self, answer: Callable[[Delivery], Any]) -> None:
        super().__init__(None, None, LOG)
        self.answer = answer
        self.sent: list[Delivery] = []

    def send(self, delivery: Delivery) -> Outcome:
        self.sent.append(delivery)
        return self.answer(delivery)


class FlowCase(unittest.TestCase):
    settings = Settings(
        lease=30.0, poll_interval=0.05, stop_timeout=2.0, settle_delay=0.001, hang_grace=0.05, prune_interval=0.05
    )
    send_timeout = 1.0
    """Seconds after which a send that was not answered is given up."""
    limits = Limits(park_after=0.2, slow_after=0.2, parked_for=1.0)
    alerts = Alerts(None)
    endurance = Endurance()
    policy = Policy(schedule=(0.0, 0.02, 0.02, 0.02), jitter=0.0, fault_delay=0.02, fault_delay_max=0.05)

    def setUp(self) -> None:
        logging.disable(logging.CRITICAL)
        self.addCleanup(logging.disable, logging.NOTSET)
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.storage = self.make_storage()
        self.notifiers: dict[str, Notifier] = {}
        self.number = 0

    def make_storage(self) -> MemoryStorage:
        return MemoryStorage(keyring=Keyring([KEY]), retention=604800.0, body_retention=None)

    def notifier(self, scheme: str, notifier: Notifier) -> Any:
        self.notifiers[scheme] = notifier
        return notifier

    def pick(self, uri: str) -> Notifier:
        try:
            return self.notifiers[uri.partition(":")[0]]
        except KeyError:
            raise UnknownScheme(f"no notifier for {uri}") from None

    def worker(self, start: bool = True, **options: Any) -> Worker:
        self.number += 1
        senders = Senders(self.pick, threads=2, timeout=self.send_timeout, max_timeout=20.0)
        self.addCleanup(senders.close)
        worker = Worker(
            self.storage,
            senders.route,
            Listener(os.path.join(self.directory.name, str(self.number))),
            settings=self.settings,
            limits=self.limits,
            policy=self.policy,
            telling=Telling(alerts=self.alerts, endurance=self.endurance),
            **options,
        )
        if start:
            self.run_worker(worker)
        return worker

    def run_worker(self, worker: Worker) -> None:
        worker.start()
        thread = threading.Thread(target=worker.run, daemon=True)
        thread.start()

        def stop() -> None:
            worker.stop()
            thread.join(WAIT)
            self.assertFalse(thread.is_alive(), "the worker did not stop")

        worker.stop_and_wait = stop
        self.addCleanup(stop)

    def subscribe(
        self, uri: str, project: str = "p", queue: str = "q", ttl: int | None = None, options: dict | None = None
    ) -> Subscription:
        now = time.time()
        return self.storage.subscribe(
            Subscription("", project, queue, uri, ttl, options or {}, now, None if ttl is None else now + ttl)
        ).subscription

    def publish(self, count: int = 1, ttl: int = 3600, project: str = "p", queue: str = "q") -> list[str]:
        return self.storage.publish(project, queue, [Draft(b'{"n": 1}', ttl)] * count)

    def record(self, message_id: str, subscription: Subscription) -> DeliveryRecord:
        records = self.storage.message_deliveries(subscription.project, subscription.queue, message_id, None, 1000)
        (record,) = [record for record in records or () if record.subscription_id == subscription.id]
        return record

    def wait_state(self, message_id: str, subscription: Subscription, state: State) -> DeliveryRecord:
        def reached() -> DeliveryRecord | None:
            record = self.record(message_id, subscription)
            return record if record.state is state else None

        try:
            return wait_for(reached, state)
        except AssertionError:
            raise AssertionError(f"{self.record(message_id, subscription)} is not {state}") from None
