"""Notifiers that hang, raise, or answer nonsense cost their own deliveries only."""

import dataclasses
import logging
import queue
import threading
import time
import unittest
from unittest import mock

from zaqar_notify.errors import NotifierFailed, UnknownScheme
from zaqar_notify.model import (
    Delivery,
    Draft,
    Exchange,
    Message,
    Outcome,
    OutcomeKind,
    Priority,
    Receipt,
    ReceiptKind,
    Scope,
    Subscription,
)
from zaqar_notify.notifiers import sending
from zaqar_notify.notifiers.base import BatchNotifier, Notifier, SingleNotifier
from zaqar_notify.notifiers.sending import Aside, Complaints, Direct, Senders, Threads, sound, sound_receipt

WAIT = 10.0
LOG = logging.getLogger("tests.sending")


def subscription(uri: str = "x://host:1/path") -> Subscription:
    return Subscription("s", "p", "q", uri, None, {}, 0.0, None)


def delivery(number: int = 1) -> Delivery:
    message = Message(str(number), "p", "q", b"{}", 60, 0.0, 60.0)
    return Delivery(str(number), 1, 0.0, message, subscription())


class Blocking(SingleNotifier):
    """Each send waits until it is let go."""

    def __init__(self) -> None:
        super().__init__(None, None, LOG)
        self.go = threading.Semaphore(0)
        self.entered: queue.Queue[str] = queue.Queue()

    def send(self, delivery: Delivery) -> Outcome:
        self.entered.put(delivery.id)
        self.go.acquire(timeout=WAIT)
        return Outcome(OutcomeKind.DELIVERED)


class Raising(SingleNotifier):
    error: BaseException = ZeroDivisionError("secret")

    def send(self, delivery: Delivery) -> Outcome:
        raise self.error


class RaisingBatch(BatchNotifier):
    error: BaseException = ZeroDivisionError("secret")

    def send_many(self, deliveries, report) -> None:
        raise self.error


class Unhashable(SingleNotifier):
    __hash__ = None

    def __eq__(self, other: object) -> bool:
        return True

    def send(self, delivery: Delivery) -> Outcome:
        return Outcome(OutcomeKind.DELIVERED)


class BlockingBatch(BatchNotifier):
    """Does not return from `send_many` before it is let go."""

    def __init__(self) -> None:
        super().__init__(None, None, LOG)
        self.go = threading.Semaphore(0)
        self.entered: queue.Queue[int] = queue.Queue()

    def send_many(self, deliveries, report) -> None:
        self.entered.put(len(deliveries))
        self.go.acquire(timeout=WAIT)
        for one in deliveries:
            report(one, Outcome(OutcomeKind.DELIVERED))


class Strange(Notifier):
    pass


class BadLane(SingleNotifier):
    error: BaseException = KeyError("no")

    def send(self, delivery: Delivery) -> Outcome:
        return Outcome(OutcomeKind.DELIVERED)

    def lane(self, subscription: Subscription) -> str:
        raise self.error


class OnThreads(unittest.TestCase):
    def setUp(self) -> None:
        self.reports: queue.Queue[tuple[str, Outcome]] = queue.Queue()
        logging.disable(logging.CRITICAL)
        self.addCleanup(logging.disable, logging.NOTSET)

    def report(self, delivery: Delivery, outcome: Outcome) -> None:
        self.reports.put((delivery.id, outcome))

    def threads(self, notifier: SingleNotifier, size: int = 2) -> Threads:
        threads = Threads(notifier, "test", size, LOG)
        self.addCleanup(threads.close)
        return threads

    def test_sends_run_beside_each_other_up_to_the_size(self) -> None:
        notifier = Blocking()
        threads = self.threads(notifier)
        threads.send_many([delivery(1)], self.report)
        self.assertFalse(threads.full)
        threads.send_many([delivery(2)], self.report)
        self.assertEqual({notifier.entered.get(timeout=WAIT), notifier.entered.get(timeout=WAIT)}, {"1", "2"})
        self.assertTrue(threads.full)
        notifier.go.release(2)
        self.assertEqual({self.reports.get(timeout=WAIT)[0] for _ in range(2)}, {"1", "2"})
        self.assertFalse(threads.full)

    def test_lost_threads_stop_the_driver_until_they_come_back(self) -> None:
        notifier = Blocking()
        threads = self.threads(notifier)
        both = [delivery(1), delivery(2)]
        threads.send_many(both, self.report)
        threads.give_up(both[0])
        self.assertFalse(threads.stopped)
        threads.give_up(both[1])
        self.assertTrue(threads.stopped)
        notifier.go.release(2)
        for _ in both:
            self.reports.get(timeout=WAIT)
        self.assertFalse(threads.stopped)
        self.assertFalse(threads.full)

    def test_two_attempts_of_one_delivery_that_hang_are_two_lost_threads(self) -> None:
        notifier = Blocking()
        threads = self.threads(notifier)
        attempts = [delivery(1), delivery(1)]
        threads.send_many(attempts, self.report)
        for attempt in attempts:
            threads.give_up(attempt)
        self.assertTrue(threads.stopped)
        notifier.go.release(2)
        for _ in attempts:
            self.reports.get(timeout=WAIT)
        self.assertFalse(threads.stopped)

    def test_giving_up_a_send_that_has_just_returned_loses_nothing(self) -> None:
        notifier = Blocking()
        threads = self.threads(notifier, size=1)
        notifier.go.release()
        late = delivery(1)
        threads.send_many([late], self.report)
        self.reports.get(timeout=WAIT)
        threads.give_up(late)
        self.assertFalse(threads.stopped)

    def test_a_bug_is_our_fault_and_the_thread_goes_on(self) -> None:
        threads = self.threads(Raising(None, None, LOG), size=1)
        for number in (1, 2):
            threads.send_many([delivery(number)], self.report)
            self.assertEqual(self.reports.get(timeout=WAIT)[1].kind, OutcomeKind.OURS)

    def test_the_text_of_a_bug_is_not_shown_to_clients(self) -> None:
        threads = self.threads(Raising(None, None, LOG))
        threads.send_many([delivery(1)], self.report)
        self.assertEqual(self.reports.get(timeout=WAIT)[1].detail, "The notifier failed: ZeroDivisionError")

    def test_whatever_is_raised_ends_no_thread_and_no_worker(self) -> None:
        for error in (SystemExit(3), KeyboardInterrupt(), GeneratorExit(), BaseException("secret")):
            raising = Raising(None, None, LOG)
            raising.error = error
            threads = self.threads(raising, size=1)
            for number in (1, 2):
                threads.send_many([delivery(number)], self.report)
                outcome = self.reports.get(timeout=WAIT)[1]
                self.assertEqual((OutcomeKind.OURS, type(error).__name__), (outcome.kind, outcome.detail.rpartition(" ")[2]))
            batch = RaisingBatch(None, None, LOG)
            batch.error = error
            Direct(batch, "test", LOG).send_many([delivery()], self.report)
            self.assertIs(OutcomeKind.OURS, self.reports.get_nowait()[1].kind)

    def test_a_process_that_may_have_no_more_threads(self) -> None:
        def refuse(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        notifier = Blocking()
        threads = self.threads(notifier)
        with mock.patch.object(threading.Thread, "start", refuse):
            threads.send_many([delivery(1)], self.report)
            outcome = self.reports.get_nowait()[1]
            self.assertEqual((OutcomeKind.OURS, "No thread could be started"), (outcome.kind, outcome.detail))
        threads.send_many([delivery(2)], self.report)
        notifier.entered.get(timeout=WAIT)
        with mock.patch.object(threading.Thread, "start", refuse):
            threads.send_many([delivery(3)], self.report)
        notifier.go.release(2)
        self.assertEqual({"2", "3"}, {self.reports.get(timeout=WAIT)[0] for _ in range(2)}, "by the one that there is")

    def test_a_batch_that_does_not_return_holds_up_nobody_else(self) -> None:
        notifier = BlockingBatch()
        sender = Aside(notifier, "test", LOG)
        self.addCleanup(sender.close)
        first, late, last = (delivery(number) for number in range(3))
        first.deadline = last.deadline = time.monotonic() + WAIT
        sender.send_many([first], self.report)
        self.assertEqual(1, notifier.entered.get(timeout=WAIT))
        sender.give_up(first)
        self.assertFalse(sender.stopped, "it has not been long")
        with mock.patch.object(Aside, "LONG", 0.0):
            sender.give_up(first)
            sender.give_up(first)
        self.assertTrue(sender.stopped and sender.full)
        sender.send_many([late, last], self.report)
        notifier.go.release(2)
        found = dict(self.reports.get(timeout=WAIT) for _ in range(3))
        self.assertEqual(
            {"0": OutcomeKind.DELIVERED, "1": OutcomeKind.OURS, "2": OutcomeKind.DELIVERED},
            {name: outcome.kind for name, outcome in found.items()},
        )
        self.assertIn("busy for too long", found["1"].detail)
        self.assertEqual(1, notifier.entered.get(timeout=WAIT), "what is late is not sent")

    def test_a_bug_is_told_at_length_now_and_then(self) -> None:
        logging.disable(logging.NOTSET)
        complaints = Complaints("test", LOG)

        def complain(times: int) -> None:
            for _ in range(times):
                try:
                    int("x")
                except ValueError:
                    complaints.bug()

        with self.assertLogs(LOG, logging.ERROR) as logged:
            complain(5)
        self.assertEqual(1, len(logged.output))
        self.assertIn("ValueError", logged.output[0])
        complaints._next = 0.0
        with self.assertLogs(LOG, logging.ERROR) as logged:
            complain(2)
        self.assertEqual(1, len(logged.output))
        self.assertIn("a bug in the notifier (4 more since the last one)", logged.output[0])

    def test_a_bug_in_a_batch_costs_that_batch(self) -> None:
        Direct(RaisingBatch(None, None, LOG), "test", LOG).send_many([delivery(1), delivery(2)], self.report)
        self.assertEqual([self.reports.get_nowait()[1].kind for _ in range(2)], [OutcomeKind.OURS] * 2)


class Routing(unittest.TestCase):
    def setUp(self) -> None:
        logging.disable(logging.CRITICAL)
        self.addCleanup(logging.disable, logging.NOTSET)

    def senders(self, notifier: Notifier) -> Senders:
        senders = Senders(lambda _: notifier, threads=2, timeout=7.0, max_timeout=20.0)
        self.addCleanup(senders.close)
        return senders

    def test_one_sender_for_each_notifier(self) -> None:
        senders = self.senders(Blocking())
        self.assertIs(senders.route(subscription()).sender, senders.route(subscription("x://other")).sender)

    def test_the_lane_is_scheme_host_and_port_without_credentials(self) -> None:
        route = self.senders(Blocking()).route(subscription("x://user:secret@host:1/path?query"))
        self.assertEqual((route.lane, route.timeout), ("x://host:1", 7.0))

    def test_a_timeout_is_cut_to_what_a_lease_allows_and_nonsense_is_refused(self) -> None:
        notifier = Blocking()
        for timeout, expected in ((3, 3.0), (1e9, 20.0), (float("inf"), 20.0)):
            notifier.timeout = lambda _, timeout=timeout: timeout
            self.assertEqual(self.senders(notifier).route(subscription()).timeout, expected)
        for timeout in (0, -1, float("nan"), "soon"):
            notifier.timeout = lambda _, timeout=timeout: timeout
            with self.assertRaises(NotifierFailed):
                self.senders(notifier).route(subscription())

    def test_how_many_may_be_in_flight_is_the_notifiers_to_say_and_nonsense_is_refused(self) -> None:
        notifier = Blocking()
        for number in (None, 1, 500):
            notifier.in_flight = lambda _, number=number: number
            self.assertEqual(number, self.senders(notifier).route(subscription()).most)
        for number in (0, -1, 1.5, True, "many"):
            notifier.in_flight = lambda _, number=number: number
            with self.assertRaises(NotifierFailed):
                self.senders(notifier).route(subscription())

    def test_a_lane_is_cut_to_what_a_database_takes(self) -> None:
        notifier = Blocking()
        for lane, expected in (("\udc80" * 9999, "?" * 512), ("a\x00b", "a?b"), (None, "None")):
            notifier.lane = lambda _, lane=lane: lane
            self.assertEqual(self.senders(notifier).route(subscription()).lane, expected)

    def test_a_bug_while_routing_is_a_notify_error(self) -> None:
        notifier = BadLane(None, None, LOG)
        for error in (KeyError("no"), SystemExit(3)):
            notifier.error = error
            with self.assertRaises(NotifierFailed):
                self.senders(notifier).route(subscription())

    def test_one_that_does_not_say_where_it_sends_is_not_waited_for(self) -> None:
        go = threading.Event()
        self.addCleanup(go.set)
        notifier = Blocking()
        notifier.lane = lambda _: go.wait(WAIT) and "lane"
        senders = self.senders(notifier)
        with mock.patch.object(sending, "PATIENCE", 0.05):
            for _ in range(5):
                with self.assertRaisesRegex(NotifierFailed, "did not answer within|hangs"):
                    senders.route(subscription())

    def test_what_it_says_is_remembered_for_a_while(self) -> None:
        asked: list[str] = []
        notifier = Blocking()
        notifier.lane = lambda subscription: asked.append(subscription.subscriber) or f"lane {len(asked)}"
        senders = self.senders(notifier)
        one = subscription()
        self.assertEqual(["lane 1"] * 2, [senders.route(dataclasses.replace(one)).lane for _ in range(2)])
        self.assertEqual("lane 2", senders.route(dataclasses.replace(one, options={"a": 1})).lane)
        self.assertEqual("lane 3", senders.route(dataclasses.replace(one, subscriber="x://other")).lane)
        self.assertEqual("lane 4", senders.route(dataclasses.replace(one, id="t")).lane)
        with mock.patch.object(sending, "KNOWN_FOR", 0.0):
            senders.route(one)
        self.assertEqual("lane 6", senders.route(one).lane)
        with mock.patch.object(sending, "MOST_KNOWN", 1):
            self.assertEqual("lane 7", senders.route(dataclasses.replace(one, id="u")).lane)
        self.assertEqual("lane 8", senders.route(one).lane, "there is no room for all of them")

    def test_those_of_this_package_are_asked_at_once(self) -> None:
        threads: list[int] = []

        class Own(Blocking):
            __module__ = "zaqar_notify.notifiers.own"

            def lane(self, subscription: Subscription) -> str:
                threads.append(threading.get_ident())
                return "lane"

        class OwnBatch(RaisingBatch):
            __module__ = "zaqar_notify.notifiers.own"

        self.senders(Own()).route(subscription())
        self.assertEqual([threading.get_ident()], threads)
        self.assertIs(Direct, type(self.senders(OwnBatch(None, None, LOG)).route(subscription()).sender))
        self.assertIs(Aside, type(self.senders(RaisingBatch(None, None, LOG)).route(subscription()).sender))

    def test_a_notifier_that_cannot_be_hashed(self) -> None:
        one, other = Unhashable(None, None, LOG), Unhashable(None, None, LOG)
        senders = Senders({"x": one, "y": other}.get, threads=1, timeout=1.0, max_timeout=20.0)
        routes = [senders.route(subscription(uri)).sender for uri in ("x", "y", "x")]
        self.assertIs(routes[0], routes[2])
        self.assertIsNot(routes[0], routes[1])

    def test_neither_single_nor_batch(self) -> None:
        with self.assertRaises(NotifierFailed):
            self.senders(Strange(None, None, LOG)).route(subscription())

    def test_an_unknown_scheme_is_told_as_such(self) -> None:
        def pick(uri: str) -> Notifier:
            raise UnknownScheme("no")

        with self.assertRaises(UnknownScheme):
            Senders(pick, threads=1, timeout=1.0, max_timeout=20.0).route(subscription())


class Odd:
    """Can be made into nothing."""

    def __str__(self) -> str:
        raise ZeroDivisionError

    __repr__ = __bool__ = __str__


class SoundTest(unittest.TestCase):
    """What reaches the storage, whatever a notifier has reported."""

    def test_what_is_sound_stays_as_it_is(self) -> None:
        draft = Draft(b'{"a": [1.5, null]}', 60, {"b": ["c"]}, "m1", 5, "key", Priority.LOW, "sv")
        for outcome in (
            Outcome(OutcomeKind.DELIVERED, status=200),
            Outcome(OutcomeKind.THROTTLED, "slow", 429, 5.0, Scope.CREDENTIAL, "asked", True, "shop", "id-1", (("q", draft),)),
            Outcome(OutcomeKind.RETRY, exchange=Exchange({"a": 1}, None, {"end": 0.5})),
        ):
            self.assertEqual(outcome, sound(outcome))

    def test_what_is_no_outcome(self) -> None:
        for nonsense in (
            None,
            "delivered",
            OutcomeKind.DELIVERED,
            Odd(),
            Outcome,
            Outcome("delivered"),
            Outcome(OutcomeKind.RETRY, scope="lane"),
            Outcome(OutcomeKind.RETRY, detail=Odd()),
            Outcome(OutcomeKind.RETRY, publish=None),
            Outcome(OutcomeKind.RETRY, publish=5),
            Outcome(OutcomeKind.RETRY, disable=Odd()),
            Outcome(OutcomeKind.DELIVERED, provider_id=Odd(), status=200),
        ):
            outcome = sound(nonsense)
            self.assertEqual((OutcomeKind.OURS, "The notifier returned no outcome"), (outcome.kind, outcome.detail))

    def test_values_that_no_database_takes(self) -> None:
        outcome = sound(
            Outcome(
                OutcomeKind.RETRY,
                "a\x00\udc80" + "x" * 600,
                2**31,
                float("inf"),
                disable="a\x00",
                target="yes",
                credential="c" * 600,
                provider_id=7,
                exchange=Exchange({"a": {1, 2}}),
            )
        )
        self.assertEqual("a??" + "x" * 497, outcome.detail)
        self.assertEqual((None, None, "a?", True), (outcome.status, outcome.after, outcome.disable, outcome.target))
        self.assertEqual(("c" * 500, "7"), (outcome.credential, outcome.provider_id))
        self.assertEqual({"error": "what the notifier recorded is not JSON"}, outcome.exchange.request)
        self.assertEqual("7", sound(Outcome(OutcomeKind.DELIVERED, status=200, provider_id=7)).provider_id)

    def test_messages_that_no_database_takes(self) -> None:
        good = Draft(b"1", 60)
        for post in (
            None,
            "queue",
            ("queue", None),
            ("q" * 65, good),
            ("a/b", good),
            (None, good),
            ("q", dataclasses.replace(good, body_json="1")),
            ("q", dataclasses.replace(good, body_json="1".encode("utf-16"))),
            ("q", dataclasses.replace(good, body_json=b"{")),
            ("q", dataclasses.replace(good, ttl=0)),
            ("q", dataclasses.replace(good, ttl=2**31)),
            ("q", dataclasses.replace(good, ttl=1.5)),
            ("q", dataclasses.replace(good, delay=-1)),
            ("q", dataclasses.replace(good, delay=None)),
            ("q", dataclasses.replace(good, attributes=None)),
            ("q", dataclasses.replace(good, attributes={"a": float("nan")})),
            ("q", dataclasses.replace(good, attributes={"a": object()})),
            ("q", dataclasses.replace(good, parent_id=5)),
            ("q", dataclasses.replace(good, collapse_key="a\x00")),
            ("q", dataclasses.replace(good, language="\udc80")),
            ("q", dataclasses.replace(good, priority="high")),
        ):
            outcome = sound(Outcome(OutcomeKind.DELIVERED, publish=(("q", good), post)))
            self.assertIs(OutcomeKind.OURS, outcome.kind, post)
            self.assertEqual("The notifier returned a message that cannot be stored", outcome.detail)

    def test_receipts(self) -> None:
        good = Receipt(ReceiptKind.FAILED, 1.5, "no such mailbox", gone=True)
        self.assertEqual(good, sound_receipt(good))
        odd = sound_receipt(Receipt(ReceiptKind.DEVICE, 1, "a\x00" + "x" * 600, gone=5))
        self.assertEqual(Receipt(ReceiptKind.DEVICE, 1.0, "a?" + "x" * 498, gone=True), odd)
        for nonsense in (
            None,
            "delivered",
            Receipt("failed", 1.0),
            Receipt(ReceiptKind.DEVICE, None),
            Receipt(ReceiptKind.DEVICE, float("nan")),
            Receipt(ReceiptKind.DEVICE, -1.0),
            Receipt(ReceiptKind.DEVICE, 1e300),
            Receipt(ReceiptKind.DEVICE, 1.0, Odd()),
            Receipt(ReceiptKind.DEVICE, 1.0, gone=Odd()),
        ):
            self.assertIsNone(sound_receipt(nonsense))
