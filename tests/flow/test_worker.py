"""From the outbox to the log: what the worker makes of each outcome, and of everything that goes wrong on the way."""

from __future__ import annotations

import collections
import copy
import dataclasses
import functools
import threading
import time
import unittest
from collections.abc import Sequence

from tests.flow.case import DELIVERED, WAIT, FlowCase, OneByOne, Scripted, wait_for
from zaqar_notify.encryption import Keyring
from zaqar_notify.errors import StorageUnavailable
from zaqar_notify.feedback import ACKNOWLEDGE, Links, Tokens, Use
from zaqar_notify.model import Delivery, Disabled, Draft, Outcome, OutcomeKind, Queue, Scope, State
from zaqar_notify.storage.base import Breaker, Closing, Settlement
from zaqar_notify.storage.memory import MemoryStorage


class Delivering(FlowCase):
    def test_each_subscriber_gets_each_message_once(self) -> None:
        notifier = self.notifier("x", Scripted())
        subscriptions = [self.subscribe(f"x://{n}") for n in range(5)]
        messages = self.publish(20)
        self.worker()
        wait_for(lambda: len(notifier.sent) == 100)
        for message in messages:
            for subscription in subscriptions:
                self.wait_state(message, subscription, State.DELIVERED)
        counts = collections.Counter(delivery.id for delivery in notifier.sent)
        self.assertEqual((len(counts), set(counts.values())), (100, {1}))
        self.assertNotIn(".", "".join(counts))

    def test_more_subscribers_than_a_page(self) -> None:
        # One page follows the other: it does not wait for the next look at what is due.
        self.settings = dataclasses.replace(self.settings, page=2, poll_interval=1000.0)
        notifier = self.notifier("x", Scripted())
        subscriptions = [self.subscribe(f"x://{n}") for n in range(5)]
        (message,) = self.publish()
        self.worker()
        for subscription in subscriptions:
            self.wait_state(message, subscription, State.DELIVERED)
        self.assertEqual(len(notifier.sent), 5)

    def test_more_messages_than_may_be_held(self) -> None:
        self.settings = dataclasses.replace(self.settings, max_active=8)
        notifier = self.notifier("x", Scripted())
        subscription = self.subscribe("x://a")
        self.subscribe("x://b")
        messages = self.publish(100)
        self.worker()
        for message in messages:
            self.wait_state(message, subscription, State.DELIVERED)
        wait_for(lambda: len(notifier.sent) == 200)

    def test_what_the_notifier_sees(self) -> None:
        notifier = self.notifier("x", Scripted())
        subscription = self.subscribe("x://a")
        (message,) = self.publish()
        self.worker()
        self.wait_state(message, subscription, State.DELIVERED)
        (delivery,) = notifier.sent
        self.assertEqual((delivery.id, delivery.attempt), (f"{message}-{subscription.id}", 1))
        self.assertEqual(delivery.message.body, {"n": 1})
        self.assertEqual(delivery.subscription, subscription)
        self.assertEqual({}, delivery.templates)
        self.assertEqual({}, dict(delivery.links))

    def test_links_are_those_of_the_delivery(self) -> None:
        tokens = Tokens("key")
        notifier = self.notifier("x", Scripted())
        subscription = self.subscribe("x://a")
        (message,) = self.publish()
        self.worker(links=functools.partial(Links, tokens, "https://notify.example.org"))
        self.wait_state(message, subscription, State.DELIVERED)
        link = notifier.sent[0].links[ACKNOWLEDGE]
        token = link.removeprefix("https://notify.example.org/v2/acknowledgements/")
        self.assertEqual((message, subscription.id, 0), tokens.read(Use.ACKNOWLEDGE, token))

    def test_templates_of_the_subscription_and_of_its_queue(self) -> None:
        notifier = self.notifier("x", Scripted())
        notifier.templated = True
        of_queue = {"sms": {"text": "queue"}, "email": {"text": "queue"}}
        self.storage.put_queue("p", "q", {"_templates": of_queue})
        own, none = self.subscribe("x://a", options={"templates": {"email": {"text": "own"}}}), self.subscribe("x://b")
        (message,) = self.publish()
        self.worker()
        for subscription in (own, none):
            self.wait_state(message, subscription, State.DELIVERED)
        found = {delivery.subscription.id: delivery.templates for delivery in notifier.sent}
        self.assertEqual({own.id: {**of_queue, "email": {"text": "own"}}, none.id: of_queue}, found)

    def test_nothing_is_sent_while_the_templates_of_the_queue_are_not_known(self) -> None:
        notifier = self.notifier("x", Scripted())
        notifier.templated = True
        self.storage.put_queue("p", "q", {"_templates": {"sms": {"text": "queue"}}})
        subscription = self.subscribe("x://a")
        reads, get_queue = [], self.storage.get_queue

        def fail_twice(*which: str) -> Queue | None:
            reads.append(which)
            if len(reads) < 3:
                raise StorageUnavailable("out of reach")
            return get_queue(*which)

        self.storage.get_queue = fail_twice
        (message,) = self.publish()
        self.worker()
        self.wait_state(message, subscription, State.DELIVERED)
        self.assertEqual([{"sms": {"text": "queue"}}], [delivery.templates for delivery in notifier.sent])

    def test_a_message_without_subscribers_is_done_with(self) -> None:
        self.publish(3)
        worker = self.worker()
        wait_for(lambda: not worker._more)
        self.assertEqual(self.storage.take(self.storage.join(), 30.0, entries=10, rows=10).entries, [])

    def test_two_workers_do_not_deliver_twice(self) -> None:
        notifier = self.notifier("x", Scripted())
        subscription = self.subscribe("x://a")
        self.worker()
        self.worker()
        messages = [self.publish(5) for _ in range(40)]
        for message in [message for batch in messages for message in batch]:
            self.wait_state(message, subscription, State.DELIVERED)
        self.assertEqual(set(collections.Counter(delivery.id for delivery in notifier.sent).values()), {1})


class Outcomes(FlowCase):
    def run_with(self, *outcomes: Outcome, ttl: int = 3600) -> tuple[Scripted, str, object]:
        """Answers the attempts with these outcomes, the last one for ever."""
        left = list(outcomes)
        notifier = self.notifier("x", Scripted(lambda _: left.pop(0) if len(left) > 1 else left[0]))
        subscription = self.subscribe("x://a")
        (message,) = self.publish(ttl=ttl)
        self.worker()
        return notifier, message, subscription

    def test_retried_until_it_works(self) -> None:
        failed = Outcome(OutcomeKind.RETRY, "no", status=500)
        notifier, message, subscription = self.run_with(failed, failed, DELIVERED)
        record = self.wait_state(message, subscription, State.DELIVERED)
        self.assertEqual([line.state for line in record.log], [State.PENDING, State.PENDING, State.DELIVERED])
        self.assertEqual([line.number for line in record.log], [1, 2, 3])
        self.assertEqual((record.log[0].status, record.log[0].detail, record.log[0].outcome), (500, "no", OutcomeKind.RETRY))
        self.assertEqual([delivery.attempt for delivery in notifier.sent], [1, 2, 3])
        self.assertEqual(len({delivery.id for delivery in notifier.sent}), 1)

    def test_dead_when_the_schedule_is_used_up(self) -> None:
        notifier, message, subscription = self.run_with(Outcome(OutcomeKind.RETRY))
        record = self.wait_state(message, subscription, State.DEAD)
        self.assertEqual(len(record.log), 4)
        self.assertEqual(len(notifier.sent), 4)

    def test_our_own_faults_use_up_nothing(self) -> None:
        ours = Outcome(OutcomeKind.OURS)
        notifier, message, subscription = self.run_with(*[ours] * 8, DELIVERED)
        self.wait_state(message, subscription, State.DELIVERED)
        self.assertEqual([delivery.attempt for delivery in notifier.sent], [1] * 9)

    def test_refused_and_rejected_end_it(self) -> None:
        for kind, state in ((OutcomeKind.REFUSED, State.REFUSED), (OutcomeKind.REJECTED, State.DEAD)):
            notifier = self.notifier("x", Scripted(lambda _, kind=kind: Outcome(kind, "why")))
            subscription = self.subscribe(f"x://{kind.value}", queue=kind.value)
            (message,) = self.publish(queue=kind.value)
            self.worker()
            record = self.wait_state(message, subscription, state)
            self.assertEqual((len(record.log), record.log[0].detail, len(notifier.sent)), (1, "why", 1))

    def test_gone_disables_the_subscription_and_later_messages_are_suppressed(self) -> None:
        notifier, message, subscription = self.run_with(Outcome(OutcomeKind.GONE, "no such endpoint"))
        self.wait_state(message, subscription, State.GONE)
        disabled = self.storage.get_subscription("p", "q", subscription.id).disabled
        self.assertEqual((disabled.reason, disabled.enable_by), ("no such endpoint", "owner"))
        (later,) = self.publish()
        self.wait_state(later, subscription, State.SUPPRESSED)
        self.assertEqual(len(notifier.sent), 1)
        notifier.answer = lambda _: DELIVERED
        self.storage.update_subscription("p", "q", subscription.id, {"disabled": None})
        (last,) = self.publish()
        self.wait_state(last, subscription, State.DELIVERED)

    def test_an_outcome_can_disable_and_publish(self) -> None:
        outcome = Outcome(OutcomeKind.DELIVERED, disable="asked", publish=(("copies", Draft(b'"copy"', 60)),))
        _, message, subscription = self.run_with(outcome)
        self.wait_state(message, subscription, State.DELIVERED)
        self.assertEqual(self.storage.get_subscription("p", "q", subscription.id).disabled.reason, "asked")
        self.assertEqual([copy.body for copy in self.storage.list_messages("p", "copies", None, 10)], ["copy"])

    def test_nonsense_from_a_notifier_is_our_fault(self) -> None:
        for nonsense in (True, "delivered", Outcome("x"), Outcome(OutcomeKind.DELIVERED, publish=(("q", "no draft"),))):
            with self.subTest(nonsense):
                first = [nonsense]
                self.notifier("x", Scripted(lambda _, first=first: first.pop() if first else DELIVERED))
                subscription = self.subscribe("x://a")
                (message,) = self.publish()
                worker = self.worker()
                record = self.wait_state(message, subscription, State.DELIVERED)
                self.assertEqual(record.log[0].outcome, OutcomeKind.OURS)
                worker.stop_and_wait()

    def test_odd_values_of_an_outcome_are_stored_as_well_as_they_can_be(self) -> None:
        odd = Outcome(OutcomeKind.RETRY, detail="\udc80" * 9999, status=2**80, after=float("nan"))
        _, message, subscription = self.run_with(odd, Outcome(OutcomeKind.DELIVERED, detail=None), DELIVERED)
        record = self.wait_state(message, subscription, State.DELIVERED)
        self.assertEqual([(len(line.detail), line.status) for line in record.log], [(500, None), (4, None)])

    def test_the_subscription_that_asks_for_a_pause_gets_one_and_its_neighbour_does_not(self) -> None:
        throttled = Outcome(OutcomeKind.THROTTLED, after=600.0, scope=Scope.SUBSCRIPTION)
        notifier = self.notifier("x", Scripted(lambda one: throttled if "busy" in one.subscription.subscriber else DELIVERED))
        busy, other = self.subscribe("x://host/busy"), self.subscribe("x://host/other")
        (first,) = self.publish()
        self.worker()
        wait_for(lambda: self.record(first, busy).log)
        for message in self.publish(10):
            self.wait_state(message, other, State.DELIVERED)
            wait_for(lambda message=message: self.record(message, busy).state in (State.PENDING, State.PARKED))
            self.assertEqual(self.record(message, busy).log, ())
        self.assertEqual(sum("busy" in delivery.subscription.subscriber for delivery in notifier.sent), 1)

    def test_a_lane_that_asks_for_a_pause_gets_one_for_all_its_subscriptions(self) -> None:
        throttled = Outcome(OutcomeKind.THROTTLED, after=600.0, scope=Scope.LANE)
        notifier = self.notifier("x", Scripted(lambda _: throttled))
        first, second = self.subscribe("x://host/a"), self.subscribe("x://host/b")
        (message,) = self.publish()
        self.worker()
        wait_for(lambda: self.record(message, first).log)
        wait_for(lambda: self.record(message, second).log)
        sent = len(notifier.sent)
        for message in self.publish(10):
            for subscription in (first, second):
                self.wait_state(message, subscription, State.PARKED)
        self.assertEqual(len(notifier.sent), sent)

    def test_what_ends_without_being_sent_is_bounded_too(self) -> None:
        self.settings = dataclasses.replace(self.settings, max_active=50, micro_batch=50)
        self.notifier("x", Scripted())
        subscriptions = [self.subscribe(f"x://{n}") for n in range(40)]
        for subscription in subscriptions:
            self.storage.update_subscription("p", "q", subscription.id, {"disabled": Disabled("test", 0.0)})
        messages = self.publish(50)
        worker = self.worker(start=False)
        worker.start()
        worker._step()
        self.assertLessEqual(worker._settling.outstanding, 120)
        while worker._more or worker._settling.outstanding:
            worker._step()
        for message in messages:
            self.assertIs(self.record(message, subscriptions[0]).state, State.SUPPRESSED)
        worker.stop()
        worker.run()

    def test_parked_deliveries_of_a_deleted_subscription_end_in_growing_strides(self) -> None:
        self.notifier("x", Scripted(lambda _: None))
        subscription = self.subscribe("x://a")
        messages = self.publish(300)
        self.worker()
        self.wait_state(messages[-1], subscription, State.PARKED)
        taken = []
        self.storage.take = lambda *args, take=self.storage.take, **kwargs: taken.append(take(*args, **kwargs)) or taken[-1]
        self.storage.delete_subscription("p", "q", subscription.id)
        self.notifiers["x"].let_go()
        wait_for(lambda: sum(len(one.rows) for one in taken) >= 298)
        self.assertLess(sum(bool(one.rows) for one in taken), 30)

    def test_a_timeout_beyond_the_lease_is_cut(self) -> None:
        notifier = self.notifier("x", Scripted())
        notifier.timeout = lambda subscription: 1e6
        subscription = self.subscribe("x://a")
        (message,) = self.publish()
        self.worker()
        self.wait_state(message, subscription, State.DELIVERED)

    def test_a_secret_that_cannot_be_opened_holds_up_its_own_deliveries_only(self) -> None:
        self.notifier("x", Scripted())
        healthy = self.subscribe("x://healthy")
        closed = self.subscribe("x://closed")
        loaded = self.storage.list_subscriptions
        self.storage.list_subscriptions = lambda *args: [
            dataclasses.replace(one, sealed=one.id == closed.id) for one in loaded(*args)
        ]
        (message,) = self.publish()
        self.worker()
        self.wait_state(message, healthy, State.DELIVERED)
        wait_for(lambda: self.record(message, closed).log)
        self.assertIs(self.record(message, closed).log[0].outcome, OutcomeKind.OURS)

    def test_a_scheme_that_nobody_serves_any_more_waits(self) -> None:
        subscription = self.subscribe("x://a")
        (message,) = self.publish()
        self.worker()
        wait_for(lambda: len(self.record(message, subscription).log) > 2)
        record = self.record(message, subscription)
        self.assertEqual((record.state, record.log[0].outcome), (State.PENDING, OutcomeKind.OURS))
        self.notifier("x", Scripted())
        self.wait_state(message, subscription, State.DELIVERED)


class Ends(FlowCase):
    """Expired, deleted: never sent, always recorded."""

    def test_an_expired_message_is_recorded_and_not_sent(self) -> None:
        notifier = self.notifier("x", Scripted())
        subscription = self.subscribe("x://a")
        (message,) = self.publish(ttl=0)
        self.worker()
        self.wait_state(message, subscription, State.EXPIRED)
        self.assertEqual(notifier.sent, [])

    def test_a_retry_beyond_the_expiry_ends_as_expired(self) -> None:
        self.policy = dataclasses.replace(self.policy, schedule=(0.0, 3600.0))
        notifier = self.notifier("x", Scripted(lambda _: Outcome(OutcomeKind.RETRY)))
        subscription = self.subscribe("x://a")
        (message,) = self.publish(ttl=1)
        self.worker()
        record = self.wait_state(message, subscription, State.EXPIRED)
        wait_for(lambda: len(self.record(message, subscription).log) == 2)
        record = self.record(message, subscription)
        self.assertEqual([line.outcome for line in record.log], [OutcomeKind.RETRY, None])
        self.assertEqual(len(notifier.sent), 1)

    def test_deleting_the_subscription_cancels_what_waits(self) -> None:
        self.policy = dataclasses.replace(self.policy, schedule=(0.0, 0.3, 0.3))
        notifier = self.notifier("x", Scripted(lambda _: Outcome(OutcomeKind.RETRY)))
        subscription = self.subscribe("x://a")
        (message,) = self.publish()
        self.worker()
        wait_for(lambda: self.record(message, subscription).log)
        self.storage.delete_subscription("p", "q", subscription.id)
        self.wait_state(message, subscription, State.CANCELLED)
        wait_for(lambda: len(self.record(message, subscription).log) == 2)
        self.assertEqual(len(notifier.sent), 1)

    def test_deleting_the_message_does_not_cancel_its_deliveries(self) -> None:
        self.policy = dataclasses.replace(self.policy, schedule=(0.0, 0.2))
        answers = [Outcome(OutcomeKind.RETRY)]
        self.notifier("x", Scripted(lambda _: answers.pop() if answers else DELIVERED))
        subscription = self.subscribe("x://a")
        (message,) = self.publish()
        self.worker()
        wait_for(lambda: self.record(message, subscription).log)
        self.storage.delete_message("p", "q", message)
        self.assertIsNone(self.storage.get_message("p", "q", message))
        self.wait_state(message, subscription, State.DELIVERED)

    def test_deleting_the_queue_cancels(self) -> None:
        self.policy = dataclasses.replace(self.policy, schedule=(0.0, 0.2, 0.2))
        notifier = self.notifier("x", Scripted(lambda _: Outcome(OutcomeKind.RETRY)))
        subscription = self.subscribe("x://a")
        (message,) = self.publish()
        worker = self.worker()
        wait_for(lambda: self.record(message, subscription).log)
        self.storage.delete_queue("p", "q")
        time.sleep(0.5)
        worker.stop_and_wait()
        self.assertEqual(len(notifier.sent), 1)


class Waiting(FlowCase):
    def test_what_waits_for_its_lane_is_parked_and_sent_later(self) -> None:
        notifier = self.notifier("x", Scripted(lambda _: None))
        subscription = self.subscribe("x://a")
        messages = self.publish(10)
        self.worker()
        wait_for(lambda: len(notifier.held) == 2)
        for message in messages[2:]:
            self.wait_state(message, subscription, State.PARKED)
        for message in messages[:2]:
            self.wait_state(message, subscription, State.IN_FLIGHT)
        notifier.answer = lambda _: DELIVERED
        notifier.let_go()
        for message in messages:
            self.wait_state(message, subscription, State.DELIVERED)
        self.assertEqual(set(collections.Counter(delivery.id for delivery in notifier.sent).values()), {1})

    def test_an_outbox_entry_closes_although_one_endpoint_hangs(self) -> None:
        self.notifier("x", Scripted(lambda delivery: None if delivery.subscription.subscriber == "x://hangs" else DELIVERED))
        hanging = self.subscribe("x://hangs")
        healthy = self.subscribe("x://healthy")
        (message,) = self.publish()
        self.worker()
        self.wait_state(message, healthy, State.DELIVERED)
        self.wait_state(message, hanging, State.IN_FLIGHT)
        wait_for(lambda: (message, hanging.id) in self.known())

    def known(self) -> set[tuple[str, str]]:
        return {
            (message.id, subscription)
            for message in self.storage.list_messages("p", "q", None, 100)
            for subscription in self.storage.known(message.id, None)
        }

    def test_parked_deliveries_survive_a_stop(self) -> None:
        notifier = self.notifier("x", Scripted(lambda _: None))
        subscription = self.subscribe("x://a")
        messages = self.publish(6)
        worker = self.worker()
        self.wait_state(messages[-1], subscription, State.PARKED)
        notifier.answer = lambda _: DELIVERED
        notifier.let_go()
        worker.stop_and_wait()
        self.worker()
        for message in messages:
            self.wait_state(message, subscription, State.DELIVERED)
        self.assertEqual(set(collections.Counter(delivery.id for delivery in notifier.sent).values()), {1})


class BadDrivers(FlowCase):
    def test_a_driver_that_never_reports_costs_its_own_deliveries(self) -> None:
        self.policy = dataclasses.replace(self.policy, schedule=(0.0, 0.01))
        silent = self.notifier("silent", Scripted(lambda _: None))
        silent.timeout = lambda subscription: 0.3
        self.notifier("x", Scripted())
        lost, healthy = self.subscribe("silent://a"), self.subscribe("x://a")
        messages = self.publish(4)
        self.worker()
        for message in messages:
            self.wait_state(message, healthy, State.DELIVERED)
        for message in messages:
            record = self.wait_state(message, lost, State.DEAD)
            self.assertEqual([line.outcome for line in record.log], [OutcomeKind.RETRY] * 2)

    def test_a_late_report_changes_nothing(self) -> None:
        self.policy = dataclasses.replace(self.policy, schedule=(0.0,))
        silent = self.notifier("silent", Scripted(lambda _: None))
        silent.timeout = lambda subscription: 0.3
        subscription = self.subscribe("silent://a")
        (message,) = self.publish()
        worker = self.worker()
        self.wait_state(message, subscription, State.DEAD)
        silent.let_go()
        silent.let_go()
        worker.stop_and_wait()
        self.assertIs(self.record(message, subscription).state, State.DEAD)

    def test_reporting_twice_or_something_else_changes_nothing(self) -> None:
        class Twice(Scripted):
            def send_many(self, deliveries: Sequence[Delivery], report) -> None:
                for delivery in deliveries:
                    report(delivery, DELIVERED)
                    report(delivery, Outcome(OutcomeKind.GONE))
                    report("something else", DELIVERED)

        self.notifier("x", Twice())
        subscription = self.subscribe("x://a")
        messages = self.publish(3)
        worker = self.worker()
        for message in messages:
            self.wait_state(message, subscription, State.DELIVERED)
        worker.stop_and_wait()
        self.assertEqual([len(self.record(message, subscription).log) for message in messages], [1, 1, 1])

    def test_a_copy_of_a_delivery_is_not_it(self) -> None:
        class Copying(Scripted):
            def send_many(self, deliveries: Sequence[Delivery], report) -> None:
                for delivery in deliveries:
                    report(copy.copy(delivery), DELIVERED)
                    report(Delivery(delivery.id, 1, delivery.deadline, delivery.message, delivery.subscription), DELIVERED)
                super().send_many(deliveries, report)

        self.notifier("x", Copying(lambda delivery: Outcome(OutcomeKind.RETRY if delivery.attempt == 1 else OutcomeKind.GONE)))
        subscription = self.subscribe("x://a")
        (message,) = self.publish()
        worker = self.worker()
        record = self.wait_state(message, subscription, State.GONE)
        self.assertEqual([OutcomeKind.RETRY, OutcomeKind.GONE], [line.outcome for line in record.log])
        self.assertEqual(0, worker._lanes.in_flight)

    def test_hanging_threads_stop_their_driver_and_nobody_else(self) -> None:
        go = threading.Event()
        self.addCleanup(go.set)
        hanging = self.notifier("hang", OneByOne(lambda _: go.wait(WAIT) and DELIVERED))
        hanging.timeout = lambda subscription: 0.3
        self.notifier("x", OneByOne(lambda _: DELIVERED))
        stuck = [self.subscribe(f"hang://{n}") for n in range(2)]
        healthy = self.subscribe("x://a")
        (first,) = self.publish()
        self.worker()
        for subscription in stuck:
            wait_for(lambda subscription=subscription: self.record(first, subscription).log)
        (second,) = self.publish()
        self.wait_state(second, healthy, State.DELIVERED)
        for subscription in stuck:
            self.wait_state(second, subscription, State.PARKED)
        go.set()  # the threads come back, and so does the driver
        for subscription in stuck:
            self.wait_state(second, subscription, State.DELIVERED)

    def test_a_driver_that_raises(self) -> None:
        def raise_(_: Delivery) -> Outcome:
            raise ZeroDivisionError

        self.notifier("bad", OneByOne(raise_))
        self.notifier("x", Scripted())
        bad, healthy = self.subscribe("bad://a"), self.subscribe("x://a")
        (message,) = self.publish()
        self.worker()
        self.wait_state(message, healthy, State.DELIVERED)
        wait_for(lambda: len(self.record(message, bad).log) > 1)
        self.assertEqual(self.record(message, bad).state, State.PENDING)


class Failing(MemoryStorage):
    """Out of reach while it is told so."""

    down: frozenset[str] = frozenset()

    def settle(
        self, settlements: Sequence[Settlement], closings: Sequence[Closing] = (), breakers: Sequence[Breaker] = ()
    ) -> int:
        self._check("settle")
        return super().settle(settlements, closings, breakers)

    def take(self, *args, **kwargs):
        self._check("take")
        return super().take(*args, **kwargs)

    def load(self, *args):
        self._check("load")
        return super().load(*args)

    def list_subscriptions(self, *args):
        self._check("list_subscriptions")
        return super().list_subscriptions(*args)

    def prune(self, limit: int) -> int:
        self._check("prune")
        return super().prune(limit)

    def _check(self, name: str) -> None:
        if name in self.down:
            raise StorageUnavailable("locked")


class WithoutStorage(FlowCase):
    # What waits while the storage is away must not be parked: parking needs it.
    limits = dataclasses.replace(FlowCase.limits, park_after=60.0)

    def make_storage(self) -> Failing:
        from tests.flow.case import KEY

        return Failing(keyring=Keyring([KEY]), retention=604800.0, body_retention=None)

    def setUp(self) -> None:
        super().setUp()
        self.sender = self.notifier("x", Scripted())
        self.subscription = self.subscribe("x://a")

    def assert_delivered_once(self, messages: list[str]) -> None:
        for message in messages:
            self.wait_state(message, self.subscription, State.DELIVERED)
        self.assertEqual(set(collections.Counter(delivery.id for delivery in self.sender.sent).values()), {1})

    def test_settling_waits_for_the_database_and_sends_nothing_again(self) -> None:
        self.worker()
        self.storage.down = frozenset({"settle"})
        messages = self.publish(20)
        wait_for(lambda: len(self.sender.sent) == 20)
        time.sleep(3.5)  # longer than the retry controller's patience
        self.storage.down = frozenset()
        self.assert_delivered_once(messages)

    def test_taking_and_matching_wait_for_the_database(self) -> None:
        for what in ("take", "load", "list_subscriptions", "prune"):
            with self.subTest(what):
                self.sender.sent.clear()
                worker = self.worker()
                self.storage.down = frozenset({what})
                messages = self.publish(5)
                time.sleep(0.3)
                self.storage.down = frozenset()
                self.assert_delivered_once(messages)
                worker.stop_and_wait()

    def test_a_stop_gives_up_on_a_database_that_stays_away(self) -> None:
        worker = self.worker()
        self.storage.down = frozenset({"settle"})
        self.publish(3)
        wait_for(lambda: len(self.sender.sent) == 3)
        worker.stop_and_wait()


class Stopping(FlowCase):
    def test_what_is_under_way_is_waited_for(self) -> None:
        notifier = self.notifier("x", Scripted(lambda _: None))
        subscription = self.subscribe("x://a")
        (message,) = self.publish()
        worker = self.worker()
        wait_for(lambda: notifier.held)
        threading.Timer(0.3, notifier.let_go).start()
        worker.stop_and_wait()
        self.assertIs(self.record(message, subscription).state, State.DELIVERED)

    def test_what_does_not_end_in_time_is_given_back(self) -> None:
        self.settings = dataclasses.replace(self.settings, stop_timeout=0.3)
        notifier = self.notifier("x", Scripted(lambda _: None))
        subscription = self.subscribe("x://a")
        (message,) = self.publish()
        worker = self.worker()
        wait_for(lambda: notifier.held)
        worker.stop_and_wait()
        notifier.answer = lambda _: DELIVERED
        self.worker()
        self.wait_state(message, subscription, State.DELIVERED)
        self.assertEqual([delivery.attempt for delivery in notifier.sent], [1, 1])

    def test_what_waits_is_given_back_at_once(self) -> None:
        self.limits = dataclasses.replace(self.limits, park_after=60.0)
        notifier = self.notifier("x", Scripted(lambda _: None))
        subscription = self.subscribe("x://a")
        messages = self.publish(5)
        worker = self.worker()
        wait_for(lambda: len(notifier.held) == 2)
        threading.Timer(0.3, notifier.let_go).start()
        worker.stop_and_wait()
        notifier.answer = lambda _: DELIVERED
        self.worker()
        for message in messages:
            self.wait_state(message, subscription, State.DELIVERED)
        self.assertEqual(set(collections.Counter(delivery.id for delivery in notifier.sent).values()), {1})


class Fencing(FlowCase):
    def test_an_entry_leased_again_skips_what_the_log_knows(self) -> None:
        notifier = self.notifier(
            "x", Scripted(lambda delivery: DELIVERED if "quick" in delivery.subscription.subscriber else None)
        )
        self.limits = dataclasses.replace(self.limits, slow_after=60.0)
        self.settings = dataclasses.replace(self.settings, stop_timeout=0.2)
        quick, slow = self.subscribe("x://quick"), self.subscribe("x://slow")
        (message,) = self.publish()
        worker = self.worker()
        self.wait_state(message, quick, State.DELIVERED)
        worker.stop_and_wait()  # gives the entry back: half of it is settled
        notifier.answer = lambda _: DELIVERED
        self.worker()
        self.wait_state(message, slow, State.DELIVERED)
        counts = collections.Counter(delivery.subscription.subscriber for delivery in notifier.sent)
        self.assertEqual(counts, {"x://quick": 1, "x://slow": 2})


if __name__ == "__main__":
    unittest.main()


class PolicyTest(FlowCase):
    def test_the_schedule_of_the_queue_and_of_the_subscription(self) -> None:
        """One of the queue ends after two attempts, the subscription's own after one."""
        self.notifier("bad", Scripted(lambda _: Outcome(OutcomeKind.RETRY)))
        self.storage.put_queue("p", "q", {"_retry_policy": {"schedule": [0, 0.01]}})
        queue_s = self.subscribe("bad:1")
        own = self.subscribe("bad:2", options={"max_attempts": 1})
        self.worker()
        (message,) = self.publish()
        for subscription, attempts in ((queue_s, 2), (own, 1)):
            record = self.wait_state(message, subscription, State.DEAD)
            self.assertEqual([line.state for line in record.log][-1], State.DEAD)
            self.assertEqual(len(record.log), attempts)
