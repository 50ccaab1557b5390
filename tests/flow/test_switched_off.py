"""Notifications, or some schemes, that are switched off; over real workers and the memory storage."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

from tests.flow.case import DELIVERED, FlowCase, Scripted, wait_for
from zaqar_notify.alerts import Alerts
from zaqar_notify.model import Draft, Outcome, OutcomeKind, State, Subscription
from zaqar_notify.schemes import Schemes
from zaqar_notify.storage.base import Settlement, Taken

RECHECK = 0.3
X_OFF = Schemes(disabled={"x"}, recheck=RECHECK)
ALL_OFF = Schemes(enabled=False, recheck=RECHECK)
REJECTED = Outcome(OutcomeKind.REJECTED)


class SwitchedOffCase(FlowCase):
    alerts = Alerts("alerts")

    def setUp(self) -> None:
        super().setUp()
        self.limits = dataclasses.replace(self.limits, release_rate=1000.0)
        self.off = self.notifier("x", Scripted())
        self.on = self.notifier("y", Scripted())
        self.subscription = self.subscribe("x://a", options={"dead_letter_queue": "dead"})
        self.other = self.subscribe("y://a")

    def wait_all(self, messages: Sequence[str], state: State, subscription: Subscription | None = None) -> None:
        for message in messages:
            self.wait_state(message, subscription or self.subscription, state)


class ParkTest(SwitchedOffCase):
    def test_what_goes_there_waits_and_all_else_arrives(self) -> None:
        self.worker(schemes=X_OFF)
        messages = self.publish(10)
        self.wait_all(messages, State.PARKED)
        self.wait_all(messages, State.DELIVERED, self.other)
        time.sleep(2 * RECHECK)
        self.wait_all(messages, State.PARKED)
        self.assertEqual([], self.off.sent)
        for message in messages:
            self.assertEqual((), self.record(message, self.subscription).log)

    def test_all_of_it(self) -> None:
        self.worker(schemes=ALL_OFF)
        messages = self.publish(3)
        self.wait_all(messages, State.PARKED)
        self.wait_all(messages, State.PARKED, self.other)
        self.assertEqual(([], []), (self.off.sent, self.on.sent))

    def test_it_arrives_when_that_is_over(self) -> None:
        worker = self.worker(schemes=ALL_OFF)
        messages = self.publish(50)
        for subscription in (self.subscription, self.other):
            self.wait_all(messages, State.PARKED, subscription)
        worker.stop_and_wait()
        self.worker()
        for subscription in (self.subscription, self.other):
            self.wait_all(messages, State.DELIVERED, subscription)
        self.assertEqual((50, 50), (len(self.off.sent), len(self.on.sent)))
        self.assertEqual({1}, {delivery.attempt for delivery in self.off.sent})
        wait_for(lambda: not self.storage.breakers())

    def test_a_request_to_confirm_and_a_ping_wait_too(self) -> None:
        worker = self.worker(schemes=X_OFF, confirmed_only=True)
        now = time.time()
        asked = Subscription("", "p", "asked", "x://asked", None, {}, now, None)
        self.storage.subscribe(asked, lambda _: Draft(b'"confirm"', 3600))
        ping = self.storage.ping("p", "q", self.subscription.id, Draft(b'"ping"', 3600))
        wait_for(lambda: self.storage.depths().parked == 1)
        self.wait_state(ping, self.subscription, State.SUPPRESSED)  # it has not confirmed
        self.storage.confirm("p", "q", self.subscription.id, True)
        ping = self.storage.ping("p", "q", self.subscription.id, Draft(b'"ping"', 3600))
        self.wait_state(ping, self.subscription, State.PARKED)
        worker.stop_and_wait()
        self.worker(confirmed_only=True)
        wait_for(lambda: {delivery.message.body for delivery in self.off.sent} == {"confirm", "ping"})

    def test_it_expires_like_all_that_waits(self) -> None:
        self.worker(schemes=X_OFF)
        (message,) = self.publish(ttl=1)
        self.wait_state(message, self.subscription, State.PARKED)
        self.wait_state(message, self.subscription, State.EXPIRED)
        wait_for(lambda: self.storage.list_messages("p", "dead", None, 10))

    def test_a_window_opens_when_that_is_over(self) -> None:
        options = {"window": {"seconds": 0.2}}
        self.storage.update_subscription("p", "q", self.subscription.id, {"options": options})
        worker = self.worker(schemes=X_OFF)
        (message,) = self.publish()
        self.wait_state(message, self.subscription, State.PARKED)
        worker.stop_and_wait()
        self.worker()
        self.wait_state(message, self.subscription, State.DELIVERED)

    def test_what_falls_back_to_it_waits_there(self) -> None:
        self.on.answer = lambda _: REJECTED
        self.storage.update_subscription("p", "q", self.other.id, {"options": {"fallback": ["x://b"]}})
        worker = self.worker(schemes=X_OFF)
        (message,) = self.publish()
        wait_for(lambda: self.record(message, self.other).log)
        self.wait_state(message, self.other, State.PARKED)
        worker.stop_and_wait()
        self.worker()
        self.wait_state(message, self.other, State.DELIVERED)

    def test_with_limits_of_its_own(self) -> None:
        self.storage.update_subscription("p", "q", self.subscription.id, {"options": {"max_in_flight": 1}})
        worker = self.worker(schemes=X_OFF)
        messages = self.publish(3)
        self.wait_all(messages, State.PARKED)
        worker.stop_and_wait()
        self.worker()
        self.wait_all(messages, State.DELIVERED)


class CostTest(SwitchedOffCase):
    """However much waits: a look at it costs a row."""

    def setUp(self) -> None:
        super().setUp()
        self.taken: list[Taken] = []
        self.settled: list[Settlement] = []
        take, settle = self.storage.take, self.storage.settle

        def noted(*args: Any, **kwargs: Any) -> Taken:
            self.taken.append(take(*args, **kwargs))
            return self.taken[-1]

        def stored(settlements: Sequence[Settlement], *more: Any) -> int:
            self.settled += settlements
            return settle(settlements, *more)

        self.storage.take, self.storage.settle = noted, stored

    def test_one_row_of_a_lane_is_looked_at_each_time(self) -> None:
        self.worker(schemes=X_OFF)
        messages = self.publish(500)
        self.wait_all(messages, State.PARKED)
        self.wait_all(messages, State.DELIVERED, self.other)
        self.taken.clear()
        self.settled.clear()
        looks = wait_for(lambda: looks if len(looks := [one for one in self.taken if one.rows]) >= 4 else None, "four looks")
        self.assertEqual({1}, {len(one.rows) for one in looks})
        wait_for(lambda: len(self.settled) >= 4)
        self.assertEqual({None}, {one.log for one in self.settled})

    def test_also_with_two_workers(self) -> None:
        self.worker(schemes=X_OFF)
        self.worker(schemes=X_OFF)
        messages = self.publish(500)
        self.wait_all(messages, State.PARKED)
        time.sleep(2 * RECHECK)
        self.taken.clear()
        began = time.monotonic()
        wait_for(lambda: len([one for one in self.taken if one.rows]) >= 4)
        self.assertLessEqual(sum(len(one.rows) for one in self.taken), 2 * (2 + (time.monotonic() - began) / RECHECK))


class DropTest(SwitchedOffCase):
    def test_it_ends_at_once_and_the_log_says_why(self) -> None:
        for schemes, why in (
            (dataclasses.replace(X_OFF, drops=True), "x is switched off: [notification] disabled_schemes"),
            (dataclasses.replace(ALL_OFF, drops=True), "notifications are switched off: [notification] enabled"),
        ):
            with self.subTest(why=why):
                worker = self.worker(schemes=schemes)
                (message,) = self.publish()
                record = self.wait_state(message, self.subscription, State.SUPPRESSED)
                self.assertEqual([(why, None)], [(line.detail, line.outcome) for line in record.log])
                worker.stop_and_wait()
        self.assertEqual([], self.off.sent)
        self.assertEqual([], self.storage.list_messages("p", "dead", None, 10))
        self.assertEqual([], self.storage.list_messages("p", "alerts", None, 10))

    def test_also_what_has_a_window_or_is_a_ping(self) -> None:
        self.storage.update_subscription("p", "q", self.subscription.id, {"options": {"window": {"seconds": 600}}})
        self.worker(schemes=dataclasses.replace(X_OFF, drops=True))
        (message,) = self.publish()
        ping = self.storage.ping("p", "q", self.subscription.id, Draft(b"1", 60))
        self.wait_all([message, ping], State.SUPPRESSED)

    def test_it_can_be_asked_for_again(self) -> None:
        worker = self.worker(schemes=dataclasses.replace(X_OFF, drops=True))
        (message,) = self.publish()
        self.wait_state(message, self.subscription, State.SUPPRESSED)
        worker.stop_and_wait()
        self.worker()
        self.storage.redeliver("p", "q", message, self.subscription.id, 60.0)
        self.wait_state(message, self.subscription, State.DELIVERED)
        self.assertEqual(DELIVERED.kind, self.record(message, self.subscription).log[-1].outcome)
