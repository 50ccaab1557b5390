"""Windows and digests, over real workers and the memory storage."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

from tests.flow.case import DELIVERED, WAIT, FlowCase, Scripted, wait_for
from zaqar_notify.alerts import Alerts
from zaqar_notify.flow import _shuffled
from zaqar_notify.lanes import Send
from zaqar_notify.model import Delivery, Draft, Outcome, OutcomeKind, State, Subscription
from zaqar_notify.notifiers.base import Report
from zaqar_notify.settling import Endurance
from zaqar_notify.storage.base import Row, Settlement, Window

SHORT = {"seconds": 0.3}
FAILED = Outcome(OutcomeKind.RETRY, "no answer")


class WindowCase(FlowCase):
    def setUp(self) -> None:
        super().setUp()
        self.endpoint = self.notifier("x", Scripted())
        self.settled: list[Settlement] = []
        settle = self.storage.settle

        def noted(settlements: Sequence[Settlement], *more: Any) -> int:
            self.settled += settlements
            return settle(settlements, *more)

        self.storage.settle = noted

    def windows(self) -> list[Window]:
        return [one.window for one in self.settled if one.window is not None]

    def post(self, *bodies: Any, ttl: int = 3600, queue: str = "q", **more: Any) -> list[str]:
        drafts = [Draft(str(body).encode(), ttl, **more) for body in bodies]
        return self.storage.publish("p", queue, drafts)

    def bodies(self) -> list[Any]:
        return [delivery.message.body for delivery in self.endpoint.sent]


class WindowTest(WindowCase):
    def test_a_message_waits_for_the_end_of_the_window(self) -> None:
        subscription = self.subscribe("x://a", options={"window": SHORT})
        self.worker()
        began = time.monotonic()
        (message,) = self.post(1)
        self.wait_state(message, subscription, State.PARKED)
        record = self.wait_state(message, subscription, State.DELIVERED)
        self.assertGreaterEqual(time.monotonic() - began, 0.3)
        self.assertEqual([(1, State.DELIVERED)], [(line.number, line.state) for line in record.log])
        self.assertEqual(1, self.endpoint.sent[0].attempt)

    def test_who_asked_for_none_is_not_kept_waiting(self) -> None:
        waiting, other = self.subscribe("x://a", options={"window": {"seconds": 600}}), self.subscribe("x://b")
        self.worker()
        (message,) = self.post(1)
        self.wait_state(message, other, State.DELIVERED)
        self.wait_state(message, waiting, State.PARKED)

    def test_a_later_message_of_the_same_body_takes_the_place_of_an_earlier_one(self) -> None:
        subscription = self.subscribe("x://a", options={"window": SHORT})
        self.worker()
        first, other, last = self.post(1, 2, 1)
        for message in (other, last):
            self.wait_state(message, subscription, State.DELIVERED)
        self.wait_state(first, subscription, State.SUPERSEDED)
        self.assertEqual([1, 2], sorted(self.bodies()))

    def test_or_one_of_the_same_collapse_key(self) -> None:
        subscription = self.subscribe("x://a", options={"window": SHORT})
        self.worker()
        first, last = self.post(1, 2, collapse_key="score")
        self.wait_state(last, subscription, State.DELIVERED)
        self.wait_state(first, subscription, State.SUPERSEDED)
        self.assertEqual([2], self.bodies())

    def test_what_is_asked_of_the_storage(self) -> None:
        self.endpoint.window = lambda one: ("shop", 5.0, 9.0) if one.subscriber == "x://b" else None
        own = self.subscribe("x://a", options={"window": {"min": 1.0, "max": 3.0}})
        self.subscribe("x://b")
        self.worker()
        self.post(1)
        wait_for(lambda: len(self.windows()) == 2)
        by_scope = {window.scope: window for window in self.windows()}
        self.assertEqual({f"subscription:{own.id}", "credential:shop"}, set(by_scope))
        self.assertTrue(1.0 <= by_scope[f"subscription:{own.id}"].seconds <= 3.0)
        self.assertTrue(5.0 <= by_scope["credential:shop"].seconds <= 9.0)
        self.assertEqual({1.0}, {window.spread for window in self.windows()})
        self.assertEqual(1, len({window.key for window in self.windows()}))
        self.assertEqual([], self.endpoint.sent)

    def test_a_retry_does_not_wait_for_another_one(self) -> None:
        answers = [FAILED, FAILED, DELIVERED]
        self.endpoint.answer = lambda _: answers.pop(0)
        subscription = self.subscribe("x://a", options={"window": SHORT})
        self.worker()
        (message,) = self.post(1)
        self.wait_state(message, subscription, State.DELIVERED)
        self.assertEqual(1, len(self.windows()))

    def test_nor_do_a_ping_and_what_is_asked_for_again(self) -> None:
        subscription = self.subscribe("x://a", options={"window": SHORT})
        self.worker()
        (message,) = self.post(1)
        self.wait_state(message, subscription, State.DELIVERED)
        self.settled.clear()
        ping = self.storage.ping("p", "q", subscription.id, Draft(b"2", 60))
        self.storage.redeliver("p", "q", message, subscription.id, 60.0)
        self.wait_state(ping, subscription, State.DELIVERED)
        wait_for(lambda: len(self.record(message, subscription).log) == 2)
        self.assertEqual([], self.windows())

    def test_nor_does_a_fallback_address(self) -> None:
        self.endpoint.answer = lambda one: DELIVERED if one.target else Outcome(OutcomeKind.REJECTED)
        subscription = self.subscribe("x://a", options={"window": SHORT, "fallback": ["x://b"]})
        self.worker()
        (message,) = self.post(1)
        self.wait_state(message, subscription, State.DELIVERED)
        self.assertEqual(1, len(self.windows()))

    def test_it_ends_when_the_subscription_is_deleted(self) -> None:
        subscription = self.subscribe("x://a", options={"window": SHORT})
        self.worker()
        (message,) = self.post(1)
        self.wait_state(message, subscription, State.PARKED)
        self.storage.delete_subscription("p", "q", subscription.id)
        self.wait_state(message, subscription, State.CANCELLED)
        self.assertEqual([], self.endpoint.sent)

    def test_it_is_not_kept_beyond_its_expiry(self) -> None:
        subscription = self.subscribe("x://a", options={"window": {"seconds": 600}})
        self.worker()
        (message,) = self.post(1, ttl=1)
        self.wait_state(message, subscription, State.PARKED)
        self.wait_state(message, subscription, State.EXPIRED)

    def test_another_worker_releases_what_one_has_held_back(self) -> None:
        subscription = self.subscribe("x://a", options={"window": SHORT})
        worker = self.worker()
        (message,) = self.post(1)
        self.wait_state(message, subscription, State.PARKED)
        worker.stop_and_wait()
        self.worker()
        self.wait_state(message, subscription, State.DELIVERED)

    def test_what_is_released_is_sent_in_random_order_and_so_much_at_once(self) -> None:
        self.settings = dataclasses.replace(self.settings, window_batch=50)
        self.limits = dataclasses.replace(self.limits, lane_min=1000, lane_max=1000, park_after=20.0)
        handed: list[list[Delivery]] = []
        send_many = self.endpoint.send_many

        def noted(deliveries: Sequence[Delivery], report: Report) -> None:
            handed.append(list(deliveries))
            send_many(deliveries, report)

        self.endpoint.send_many = noted
        subscription = self.subscribe("x://a", options={"window": {"seconds": 0.5}})
        messages = self.post(*range(300))
        self.worker()
        for message in messages:
            self.wait_state(message, subscription, State.DELIVERED)
        self.assertEqual(set(range(300)), set(self.bodies()))
        self.assertNotEqual(sorted(self.bodies()), self.bodies())
        self.assertLessEqual(max(map(len, handed)), 50)

    def test_a_huge_fan_out_waits_too(self) -> None:
        self.settings = dataclasses.replace(self.settings, page=2, cut_after=4)
        subscriptions = [self.subscribe(f"x://{n}", options={"window": SHORT}) for n in range(9)]
        (message,) = self.post(1)
        self.worker()
        for subscription in subscriptions[:4]:
            self.wait_state(message, subscription, State.DELIVERED)
        self.assertEqual(4, len(self.windows()))

    def test_a_notifier_that_names_nonsense_holds_up_its_own_deliveries_only(self) -> None:
        for nonsense in (
            7,
            ("name",),
            ("name", 5.0, 1.0),
            ("name", -1.0, 1.0),
            ("name", 1.0, float("nan")),
            ("name", "a", "b"),
        ):
            with self.subTest(nonsense=nonsense):
                self.endpoint.window = lambda _, nonsense=nonsense: nonsense
                subscription = self.subscribe(f"x://{nonsense}")
                worker = self.worker()
                (message,) = self.post(1)
                wait_for(lambda message=message, one=subscription: self.record(message, one).log)
                self.assertIs(OutcomeKind.OURS, self.record(message, subscription).log[0].outcome)
                self.endpoint.window = lambda _: None
                self.wait_state(message, subscription, State.DELIVERED)
                worker.stop_and_wait()


class ShuffledTest(FlowCase):
    def test_only_what_is_released(self) -> None:
        plain = [Row(f"m{n}", "s", 0, 0) for n in range(50)]
        self.assertEqual(plain, _shuffled(plain))
        released = [Row(f"w{n}", "s", 0, 0, window_id="1") for n in range(50)]
        mixed = [row for pair in zip(plain, released, strict=True) for row in pair]
        found = list(_shuffled(mixed))
        self.assertEqual(plain, found[:50])
        self.assertNotEqual(released, found[50:])
        self.assertEqual({row.message_id for row in released}, {row.message_id for row in found[50:]})


class Mails(Scripted):
    digests = True


class DigestCase(WindowCase):
    alerts = Alerts("alerts")
    endurance = Endurance(strikes=3)

    def setUp(self) -> None:
        super().setUp()
        self.endpoint = self.notifier("x", Mails())
        self.subscription = self.subscribe("x://a", options={"window": SHORT, "dead_letter_queue": "dead"})

    def digests(self) -> list[list[int]]:
        """The bodies of each."""
        return [[one.message.body for one in (delivery, *delivery.others)] for delivery in self.endpoint.sent]

    def wait_all(self, messages: Sequence[str], state: State, subscription: Subscription | None = None) -> None:
        for message in messages:
            self.wait_state(message, subscription or self.subscription, state)

    def step(self, worker: Any, done: Callable[[], Any]) -> None:
        end = time.monotonic() + WAIT
        while not done():
            self.assertLess(time.monotonic(), end)
            worker._step()

    def released(self, *bodies: Any, ttl: int = 3600) -> list[str]:
        """Messages that are released from one window, all at once, as soon as there is a worker."""
        worker = self.worker()
        messages = self.post(*bodies, ttl=ttl)
        self.wait_all(messages, State.PARKED)
        worker.stop_and_wait()
        time.sleep(0.4)
        return messages


class DigestTest(DigestCase):
    def test_what_is_released_together_is_sent_at_once(self) -> None:
        self.worker()
        messages = self.post(1, 2, 3, 4)
        self.wait_all(messages, State.DELIVERED)
        self.assertEqual([[1, 2, 3, 4]], self.digests())
        self.assertEqual({0.0}, {window.spread for window in self.windows()})
        for message in messages:
            self.assertEqual(1, len(self.record(message, self.subscription).log))

    def test_the_others_are_whole_deliveries(self) -> None:
        messages = self.released(1, 2)
        self.worker()
        self.wait_all(messages, State.DELIVERED)
        (delivery,) = self.endpoint.sent
        (other,) = delivery.others
        self.assertEqual(f"{messages[1]}-{self.subscription.id}", other.id)
        self.assertEqual((self.subscription, 1, ()), (other.subscription, other.attempt, other.others))

    def test_each_subscription_has_one_of_its_own(self) -> None:
        self.endpoint.window = lambda _: ("smtp", 0.3, 0.3)
        second = self.subscribe("x://b")
        third = self.subscribe("x://c")
        self.worker()
        messages = self.post(1, 2)
        for subscription in (self.subscription, second, third):
            self.wait_all(messages, State.DELIVERED, subscription)
        self.assertEqual([[1, 2]] * 3, self.digests())

    def test_what_was_in_no_window_is_sent_by_itself(self) -> None:
        plain = self.subscribe("x://b")
        self.worker()
        messages = self.post(1, 2)
        self.wait_all(messages, State.DELIVERED, plain)
        self.wait_all(messages, State.DELIVERED)
        self.assertEqual([[1], [1, 2], [2]], sorted(self.digests()))

    def test_one_digest_has_so_many_at_most(self) -> None:
        self.settings = dataclasses.replace(self.settings, window_batch=3)
        messages = self.released(*range(8))
        self.worker()
        self.wait_all(messages, State.DELIVERED)
        self.assertEqual([[0, 1, 2], [3, 4, 5], [6, 7]], sorted(self.digests()))

    def test_nor_more_text_than_a_mail_shows(self) -> None:
        long = ['"' + letter * 70_000 + '"' for letter in "abc"]
        messages = self.released(long[0], 1, 2, long[1], long[2], 3)
        self.worker()
        self.wait_all(messages, State.DELIVERED)
        self.assertEqual([2, 4], sorted(len(bodies) for bodies in self.digests()))
        self.assertEqual(["a" * 70_000, 1, 2, "b" * 70_000], max(self.digests(), key=len))

    def test_its_failure_is_everyones_and_all_are_tried_again_together(self) -> None:
        answers = [FAILED, Outcome(OutcomeKind.OURS), FAILED, DELIVERED]
        self.endpoint.answer = lambda _: answers.pop(0)
        self.policy = dataclasses.replace(self.policy, jitter=1.0, schedule=(0.0, 0.2, 0.2, 0.2))
        messages = self.released(1, 2, 3)
        self.worker()
        self.wait_all(messages, State.DELIVERED)
        self.assertEqual([[1, 2, 3]] * 4, self.digests())
        kinds = [OutcomeKind.RETRY, OutcomeKind.OURS, OutcomeKind.RETRY, OutcomeKind.DELIVERED]
        for message in messages:
            log = self.record(message, self.subscription).log
            self.assertEqual([1, 2, 3, 4], [line.number for line in log])
            self.assertEqual(kinds, [line.outcome for line in log])

    def test_each_that_dies_is_a_dead_letter_and_all_of_them_one_strike(self) -> None:
        copies = (("copies", Draft(b"1", 60)),)
        self.endpoint.answer = lambda _: Outcome(OutcomeKind.REJECTED, "no such box", target=True, publish=copies)
        messages = self.released(1, 2, 3, 4)
        self.worker()
        self.wait_all(messages, State.DEAD)
        self.assertEqual([1, 2, 3, 4], [one.body for one in self.storage.list_messages("p", "dead", None, 10)])
        self.assertEqual(1, len(self.storage.list_messages("p", "alerts", None, 10)))
        self.assertEqual(1, len(self.storage.list_messages("p", "copies", None, 10)))
        self.assertEqual(1, self.storage.get_subscription("p", "q", self.subscription.id).strikes)

    def test_gone_is_everyones_too(self) -> None:
        self.endpoint.answer = lambda _: Outcome(OutcomeKind.GONE, "no such box")
        messages = self.released(1, 2)
        self.worker()
        self.wait_all(messages, State.GONE)
        self.assertIsNotNone(self.storage.get_subscription("p", "q", self.subscription.id).disabled)

    def test_gone_disables_although_the_first_of_it_was_cancelled_meanwhile(self) -> None:
        self.endpoint.answer = lambda _: None
        self.endpoint.timeout = lambda _: 20.0
        first, second = self.released(1, 2)
        self.worker()
        wait_for(lambda: self.endpoint.held)
        self.storage.cancel("p", "q", first, self.subscription.id)
        self.endpoint.let_go(Outcome(OutcomeKind.GONE, "no such box"))
        self.wait_state(second, self.subscription, State.GONE)
        self.wait_state(first, self.subscription, State.CANCELLED)
        self.assertIsNotNone(self.storage.get_subscription("p", "q", self.subscription.id).disabled)

    def test_all_go_on_with_the_next_address_together(self) -> None:
        self.endpoint.answer = lambda one: DELIVERED if one.target else Outcome(OutcomeKind.REJECTED)
        options = {"window": SHORT, "fallback": ["x://b"]}
        self.storage.update_subscription("p", "q", self.subscription.id, {"options": options})
        messages = self.released(1, 2)
        self.worker()
        self.wait_all(messages, State.DELIVERED)
        self.assertEqual([[1, 2], [1, 2]], self.digests())
        self.assertEqual([0, 1], [delivery.target for delivery in self.endpoint.sent])

    def test_or_each_by_itself_where_that_makes_no_digests(self) -> None:
        other = self.notifier("y", Scripted())
        self.endpoint.answer = lambda _: Outcome(OutcomeKind.REJECTED)
        options = {"window": SHORT, "fallback": ["y://b"]}
        self.storage.update_subscription("p", "q", self.subscription.id, {"options": options})
        messages = self.released(1, 2)
        self.worker()
        self.wait_all(messages, State.DELIVERED)
        self.assertEqual([((), 1), ((), 1)], [(delivery.others, delivery.target) for delivery in other.sent])

    def test_one_that_is_given_up_counts_for_all(self) -> None:
        self.policy = dataclasses.replace(self.policy, schedule=(0.0,))
        self.endpoint.timeout = lambda _: 0.2
        self.endpoint.answer = lambda _: None
        messages = self.released(1, 2)
        self.worker()
        self.wait_all(messages, State.DEAD)

    def test_what_waits_for_its_lane_and_is_parked_comes_together_again(self) -> None:
        self.limits = dataclasses.replace(self.limits, lane_min=1, lane_max=1, park_after=0.1)
        blocking = self.subscribe("x://a/blocks", queue="other")
        self.endpoint.timeout = lambda _: 20.0
        self.endpoint.answer = lambda one: None if one.subscription.id == blocking.id else DELIVERED
        messages = self.released(*range(60))
        self.worker()
        self.post(1, queue="other")
        wait_for(lambda: self.endpoint.held)
        for message in messages:
            wait_for(lambda message=message: self.record(message, self.subscription).state in (State.PARKED, State.DELIVERED))
        self.endpoint.let_go()
        self.wait_all(messages, State.DELIVERED)
        self.assertEqual([list(range(60))], [bodies for bodies in self.digests() if len(bodies) > 1 or bodies == [0]])

    def test_what_is_parked_behind_a_breaker_comes_together_again(self) -> None:
        self.limits = dataclasses.replace(self.limits, breaker_attempts=1, breaker_wait=0.3, breaker_wait_max=0.3)
        answers = [FAILED, FAILED, DELIVERED]
        self.endpoint.answer = lambda _: answers.pop(0)
        messages = self.released(*range(40))
        self.worker()
        self.wait_all(messages, State.DELIVERED)
        self.assertEqual([list(range(40))] * 3, self.digests())

    def test_what_was_parked_before_this_worker_came(self) -> None:
        """It does not know yet what is in the lane."""
        self.limits = dataclasses.replace(self.limits, breaker_attempts=1, breaker_wait=0.5, breaker_wait_max=0.5)
        answers = [FAILED, DELIVERED]
        self.endpoint.answer = lambda _: answers.pop(0)
        messages = self.released(*range(40))
        first = self.worker()
        self.wait_all(messages, State.PARKED)
        first.stop_and_wait()
        self.worker()
        self.wait_all(messages, State.DELIVERED)
        self.assertEqual([list(range(40))] * 2, self.digests())

    def test_what_a_worker_that_stops_had_not_begun_comes_together_again(self) -> None:
        self.limits = dataclasses.replace(self.limits, lane_min=1, lane_max=1, park_after=20.0)
        blocking = self.subscribe("x://a/blocks", queue="other")
        self.endpoint.answer = lambda one: None if one.subscription.id == blocking.id else DELIVERED
        (first,) = self.post(1, queue="other")
        worker = self.worker(start=False)
        worker.start()
        self.step(worker, lambda: self.endpoint.held)
        messages = self.post(1, 2, 3)
        self.step(worker, lambda: worker._lanes.waiting)
        worker.stop()
        self.endpoint.let_go()
        worker.run()
        self.worker()
        self.wait_all(messages, State.DELIVERED)
        self.wait_state(first, blocking, State.DELIVERED)
        self.assertIn([1, 2, 3], self.digests())
        self.assertEqual(2, len(self.digests()))


class ExpiredTest(DigestCase):
    """Parts of a digest that expire before it is sent: the worker is stepped through by hand."""

    def start(self, ttls: Sequence[int]) -> tuple[list[str], Any, list[Send]]:
        """Messages of one digest, which waits in its lane."""
        messages = self.storage.publish("p", "q", [Draft(str(number).encode(), 3600) for number, _ in enumerate(ttls)])
        worker = self.worker(start=False)
        worker.start()
        self.addCleanup(worker.run)
        self.addCleanup(worker.stop)
        worker._start_sends, start = lambda *_: None, worker._start_sends
        self.step(worker, lambda: worker._lanes.waiting)
        (send,) = worker._lanes._arrived
        sends = [send, *send.others]
        for one, ttl in zip(sends, ttls, strict=True):
            one.expires_at = self.storage.now() + ttl
        worker._start_sends = start
        return messages, worker, sends

    def ended(self, messages: Sequence[str]) -> bool:
        return all(self.record(message, self.subscription).state.ended for message in messages)

    def test_what_has_expired_is_left_out(self) -> None:
        messages, worker, _ = self.start((60, -1, 60, -1))
        self.step(worker, lambda: self.ended(messages))
        self.assertEqual([[0, 2]], self.digests())
        states = [self.record(message, self.subscription).state for message in messages]
        self.assertEqual([State.DELIVERED, State.EXPIRED] * 2, states)

    def test_also_where_it_is_the_first(self) -> None:
        messages, worker, _ = self.start((-1, 60, 60))
        self.step(worker, lambda: self.ended(messages))
        self.assertEqual([[1, 2]], self.digests())
        states = [self.record(message, self.subscription).state for message in messages]
        self.assertEqual([State.EXPIRED, State.DELIVERED, State.DELIVERED], states)
        self.assertEqual(0, worker._lanes.in_flight)

    def test_and_where_it_is_all_of_it(self) -> None:
        messages, worker, _ = self.start((-1, -1))
        self.step(worker, lambda: self.ended(messages))
        self.assertEqual([], self.digests())
        self.assertEqual({State.EXPIRED}, {self.record(message, self.subscription).state for message in messages})
        self.assertEqual(2, len(self.storage.list_messages("p", "dead", None, 10)))

    def test_expired_before_it_is_put_together(self) -> None:
        worker = self.worker()
        lasting, ending = *self.post(1), *self.post(2, ttl=1)
        self.wait_all([lasting, ending], State.PARKED)
        worker.stop_and_wait()
        time.sleep(1.1)
        self.worker()
        self.wait_state(lasting, self.subscription, State.DELIVERED)
        self.wait_state(ending, self.subscription, State.EXPIRED)
        self.assertEqual([[1]], self.digests())
