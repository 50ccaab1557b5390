"""What protects both sides: breakers, dead letters, alerts, disabling; over real workers and the memory storage."""

import dataclasses
import json
import threading
import time
from typing import Any

from tests.flow.case import FlowCase, Scripted, wait_for
from zaqar_notify.alerts import Alerts
from zaqar_notify.model import Delivery, Draft, LaneKey, Message, Outcome, OutcomeKind, Scope, State, Subscription
from zaqar_notify.settling import MOST_FAILING, Endurance
from zaqar_notify.storage.base import Closing, Settlement

DELIVERED = Outcome(OutcomeKind.DELIVERED)
FAILED = Outcome(OutcomeKind.RETRY, "connection refused")


class Endpoint(Scripted):
    """Fails while ``down``."""

    def __init__(self) -> None:
        super().__init__(lambda _: FAILED if self.down else DELIVERED)
        self.down = True


class BreakerTest(FlowCase):
    def setUp(self) -> None:
        super().setUp()
        self.limits = dataclasses.replace(self.limits, breaker_wait=0.3, breaker_wait_max=0.5, release_rate=200.0)
        self.policy = dataclasses.replace(self.policy, schedule=(0.0,) * 100)
        self.endpoint = self.notifier("x", Endpoint())
        self.subscription = self.subscribe("x://host/a")

    def open(self) -> list[Any]:
        return self.storage.breakers()

    def trip(self) -> list[str]:
        messages = self.publish(30)
        wait_for(self.open, "the breaker to open")
        return messages

    def test_a_dead_endpoint_is_left_alone_probed_and_served_again(self) -> None:
        self.worker()
        messages = self.trip()
        sent = len(self.endpoint.sent)
        later = self.publish(200)
        for message in later:
            self.wait_state(message, self.subscription, State.PARKED)
        self.assertLess(len(self.endpoint.sent) - sent, 10, "only probes")
        wait_for(lambda: self.open()[0].trips >= 2, "a probe that fails")
        self.endpoint.down = False
        for message in messages + later:
            self.wait_state(message, self.subscription, State.DELIVERED)
        wait_for(lambda: not self.open(), "the breaker to close")

    def test_parking_uses_up_no_attempts(self) -> None:
        self.worker()
        self.trip()
        (message,) = self.publish()
        self.wait_state(message, self.subscription, State.PARKED)
        time.sleep(0.6)
        self.assertEqual(self.record(message, self.subscription).log, ())

    def test_what_waits_for_a_subscription_that_is_deleted_ends_soon_and_without_probes(self) -> None:
        self.worker()
        messages = self.trip() + self.publish(1500)
        wait_for(lambda: not self.storage.depths().outbox and self.storage.depths().parked > 1500, "all to be parked")
        self.storage.delete_subscription("p", "q", self.subscription.id)
        sent = len(self.endpoint.sent)
        wait_for(lambda: not self.storage.depths().parked, "the lane to run empty")
        self.assertLess(len(self.endpoint.sent) - sent, 3)
        self.wait_state(messages[-1], self.subscription, State.CANCELLED)

    def test_parked_rows_that_another_worker_gave_back_although_it_keeps_the_lane(self) -> None:
        lane, other = LaneKey("p", "x://host"), self.storage.join()
        self.publish(2)
        taken = self.storage.take(other, 600.0, entries=2, rows=0)
        (message, _) = (entry.message_id for entry in taken.entries)
        self.storage.settle(
            [Settlement(entry.message_id, self.subscription.id, taken.token, False, park=lane) for entry in taken.entries],
            [Closing(entry.message_id, taken.token) for entry in taken.entries],
        )
        self.storage.take(other, 600.0, entries=0, rows=0, lanes=1)
        taken = self.storage.take(other, 600.0, entries=0, rows=0, parked={lane: 1})
        self.storage.give_back(taken.token, (), [(row.message_id, row.subscription_id) for row in taken.rows])
        self.storage.delete_subscription("p", "q", self.subscription.id)
        self.worker()
        self.wait_state(message, self.subscription, State.CANCELLED)
        self.endpoint.down = False
        subscription = self.subscribe("x://host/b")
        (message,) = self.publish()
        self.wait_state(message, subscription, State.DELIVERED)

    def test_all_workers_know_also_those_that_come_later(self) -> None:
        self.limits = dataclasses.replace(self.limits, breaker_wait=600.0, breaker_wait_max=600.0)
        first = self.worker()
        self.worker()
        self.trip()
        sent = -1
        while sent != len(self.endpoint.sent):  # until what was under way has ended
            sent = len(self.endpoint.sent)
            time.sleep(0.3)
        first.stop_and_wait()
        self.worker()
        for message in self.publish(50):
            self.wait_state(message, self.subscription, State.PARKED)
        self.assertEqual(len(self.endpoint.sent), sent)

    def test_very_many_breakers_take_little_of_the_workers_time(self) -> None:
        """However long it takes to read them: that is done the less often for it."""
        asked, breakers = [], self.storage.breakers

        def slow() -> list[Any]:
            asked.append(time.sleep(0.1))
            return breakers()

        self.storage.breakers = slow
        began = time.monotonic()
        self.worker()
        healthy = self.notifier("y", Scripted())
        subscription = self.subscribe("y://host/b")
        for _ in range(10):
            (message,) = self.publish()
            self.wait_state(message, subscription, State.DELIVERED)
            time.sleep(0.1)
        self.assertLessEqual(len(asked), 2 + (time.monotonic() - began) / 2, "a twentieth of it")
        self.assertEqual(len(healthy.sent), 10)

    def test_other_endpoints_do_not_notice(self) -> None:
        self.notifier("y", Scripted())
        other = self.subscribe("y://host/b")
        self.worker()
        self.trip()
        for message in self.publish(20):
            self.wait_state(message, other, State.DELIVERED)

    def test_mistakes_of_one_subscription_do_not_stop_its_host(self) -> None:
        wrong = Outcome(OutcomeKind.RETRY, "404", scope=Scope.SUBSCRIPTION)
        self.notifier("x", Scripted(lambda one: wrong if one.subscription.subscriber.endswith("wrong") else DELIVERED))
        self.subscribe("x://host/wrong")
        self.worker()
        for message in self.publish(100):
            self.wait_state(message, self.subscription, State.DELIVERED)
        self.assertEqual(self.open(), [])

    def test_a_pause_that_the_lane_asks_for_outlives_the_worker(self) -> None:
        self.notifier("x", Scripted(lambda _: Outcome(OutcomeKind.THROTTLED, after=600.0, scope=Scope.LANE)))
        first = self.worker()
        self.publish()
        wait_for(self.open, "the pause")
        first.stop_and_wait()
        healthy = self.notifier("x", Scripted())
        self.worker()
        (message,) = self.publish()
        self.wait_state(message, self.subscription, State.PARKED)
        self.assertEqual(healthy.sent, [])


class Counting(Scripted):
    """Counts how many sends are under way at once; each takes ``delay`` seconds."""

    def __init__(self, delay: float) -> None:
        super().__init__()
        self.delay = delay
        self.under_way = self.most = 0
        self.lock = threading.Lock()

    def send_many(self, deliveries: Any, report: Any) -> None:
        for delivery in deliveries:
            threading.Thread(target=self.one, args=(delivery, report), daemon=True).start()

    def one(self, delivery: Delivery, report: Any) -> None:
        with self.lock:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        time.sleep(self.delay)
        with self.lock:
            self.under_way -= 1
        report(delivery, DELIVERED)


class PauseTest(FlowCase):
    """A subscription that asks to be left in peace (429 with Retry-After) is, by all workers and by those that come later."""

    def test_it_is_shared_outlives_the_worker_and_ends(self) -> None:
        answers = iter([Outcome(OutcomeKind.THROTTLED, after=1.0, scope=Scope.SUBSCRIPTION)])

        def answer(one: Delivery) -> Outcome:
            return next(answers, DELIVERED) if one.subscription.subscriber.endswith("busy") else DELIVERED

        endpoint = self.notifier("x", Scripted(answer))
        busy, other = self.subscribe("x://host/busy"), self.subscribe("x://host/other")
        first = self.worker()
        (asked,) = self.publish()
        wait_for(self.storage.breakers, "the pause to be stored")
        until = time.monotonic() + 0.8
        first.stop_and_wait()
        self.worker()
        messages = self.publish(10)
        for message in messages:
            self.wait_state(message, other, State.DELIVERED)
        if time.monotonic() < until:
            self.assertEqual(sum(one.subscription.id == busy.id for one in endpoint.sent), 1)
        for message in [asked, *messages]:
            self.wait_state(message, busy, State.DELIVERED)
        wait_for(lambda: not self.storage.breakers(), "its end")


class LimitsOfItsOwnTest(FlowCase):
    def test_in_flight(self) -> None:
        endpoint = self.notifier("x", Counting(0.01))
        subscription = self.subscribe("x://host/a", options={"max_in_flight": 1})
        self.worker()
        self.worker()
        for message in self.publish(20):
            self.wait_state(message, subscription, State.DELIVERED)
        self.assertEqual(endpoint.most, 1, "of all workers together")

    def test_in_flight_also_where_one_message_comes_after_the_other(self) -> None:
        endpoint = self.notifier("x", Counting(0.2))
        subscription = self.subscribe("x://host/a", options={"max_in_flight": 1})
        for _ in range(3):
            self.worker()
        messages: list[str] = []
        for _ in range(6):
            messages += self.publish()
            time.sleep(0.1)
            messages += self.publish()
            time.sleep(0.35)
        for message in messages:
            self.wait_state(message, subscription, State.DELIVERED)
        self.assertEqual(endpoint.most, 1)

    def test_rate(self) -> None:
        endpoint = self.notifier("x", Scripted())
        subscription = self.subscribe("x://host/a", options={"rate": 20})
        self.worker()
        self.worker()
        began = time.monotonic()
        for message in self.publish(30):
            self.wait_state(message, subscription, State.DELIVERED)
        self.assertGreaterEqual(time.monotonic() - began, 30 / 20 - 0.5)
        self.assertEqual(len(endpoint.sent), 30)

    def test_its_neighbour_on_the_same_host_is_as_free_as_before(self) -> None:
        self.notifier("x", Scripted())
        self.subscribe("x://host/a", options={"rate": 0.1})
        other = self.subscribe("x://host/b")
        self.worker()
        for message in self.publish(50):
            self.wait_state(message, other, State.DELIVERED)


class EndTest(FlowCase):
    """What dies is not silent."""

    alerts = Alerts("alerts")
    limits = dataclasses.replace(FlowCase.limits, breaker_attempts=1000)

    def read(self, queue: str, count: int = 1) -> list[Message]:
        return wait_for(
            lambda: len(found := self.storage.list_messages("p", queue, None, 100)) >= count and found, f"{count} in {queue}"
        )

    def alert(self) -> dict[str, Any]:
        return json.loads(self.read("alerts")[0].body_json)

    def test_dead_letters_and_the_alert(self) -> None:
        self.notifier("x", Scripted(lambda _: FAILED))
        subscription = self.subscribe("x://user:secret@host/a?token=1", options={"dead_letter_queue": "letters"})
        self.worker()
        (message,) = self.publish()
        (letter,) = self.read("letters")
        self.wait_state(message, subscription, State.DEAD)
        self.assertEqual((letter.body, letter.parent_id), ({"n": 1}, message))
        self.assertEqual(
            dict(letter.attributes),
            {
                "dead_letter_state": "dead",
                "dead_letter_error": "connection refused",
                "dead_letter_attempts": 4,
                "dead_letter_source": "q",
                "dead_letter_message_id": message,
                "dead_letter_subscription_id": subscription.id,
                "dead_letter_hops": 1,
            },
        )
        alert = self.alert()
        self.assertEqual((alert["event"], alert["message_id"], alert["sample"]), ("delivery.dead", message, '{"n": 1}'))
        self.assertEqual((alert["subscriber"], alert["error"]), ("x://host", "connection refused"))

    def test_one_alert_for_many_deaths(self) -> None:
        self.notifier("x", Scripted(lambda _: FAILED))
        subscriptions = [self.subscribe(f"x://host/{number}") for number in range(2)]
        self.worker()
        for message in self.publish(20):
            for subscription in subscriptions:
                self.wait_state(message, subscription, State.DEAD)
        alerts = [json.loads(alert.body_json)["subscription_id"] for alert in self.read("alerts")]
        self.assertCountEqual(alerts, [subscription.id for subscription in subscriptions])

    def test_alerts_are_delivered_and_never_about_themselves(self) -> None:
        received = self.notifier("y", Scripted(lambda _: FAILED))
        self.notifier("x", Scripted(lambda _: FAILED))
        subscription = self.subscribe("x://host")
        owner = self.subscribe("y://owner", queue="alerts")
        self.worker()
        (message,) = self.publish()
        self.wait_state(message, subscription, State.DEAD)
        (alert,) = self.read("alerts")
        self.wait_state(alert.id, owner, State.DEAD)
        self.assertEqual({json.loads(one.message.body_json)["event"] for one in received.sent}, {"delivery.dead"})
        self.assertEqual(len(self.read("alerts")), 1)

    def test_dead_letters_in_a_circle_end(self) -> None:
        self.notifier("x", Scripted(lambda _: FAILED))
        self.subscribe("x://one", options={"dead_letter_queue": "other"})
        self.subscribe("x://two", queue="other", options={"dead_letter_queue": "q"})
        self.worker()
        self.publish()
        wait_for(lambda: len(self.storage.list_messages("p", "other", None, 100)) == 3, "the circle")
        time.sleep(0.3)
        found = [self.storage.list_messages("p", queue, None, 100) for queue in ("q", "other")]
        self.assertEqual([len(messages) for messages in found], [3, 3])

    def test_what_expires_after_it_was_tried_is_a_dead_letter_too_and_what_was_never_tried_is_not(self) -> None:
        self.notifier("x", Scripted(lambda _: Outcome(OutcomeKind.OURS, "no network")))
        subscription = self.subscribe("x://host", options={"dead_letter_queue": "letters"})
        (tried,) = self.publish(ttl=1)
        self.worker()
        self.wait_state(tried, subscription, State.EXPIRED)
        (letter,) = self.read("letters")
        self.assertEqual(letter.attributes["dead_letter_state"], "expired")
        self.assertEqual(self.alert()["state"], "expired")

    def test_what_is_parked_for_a_dead_endpoint_until_it_expires_is_a_dead_letter_and_all_of_it_is_one_alert(self) -> None:
        self.limits = dataclasses.replace(self.limits, breaker_attempts=10, breaker_wait=600.0, breaker_wait_max=600.0)
        self.policy = dataclasses.replace(self.policy, schedule=(0.0,) * 100)
        endpoint = self.notifier("x", Endpoint())
        subscription = self.subscribe("x://host", options={"dead_letter_queue": "letters"})
        self.worker()
        self.publish(20)
        wait_for(self.storage.breakers, "the breaker to open")
        parked = self.publish(30, ttl=2)
        for message in parked:
            self.wait_state(message, subscription, State.PARKED)
        sent = len(endpoint.sent)
        letters = {letter.parent_id: letter for letter in self.read("letters", 30)}
        self.assertCountEqual(letters, parked)
        for message in parked:
            letter = letters[message].attributes
            self.assertEqual((letter["dead_letter_state"], letter["dead_letter_attempts"]), ("expired", 0))
            self.assertEqual([line.state for line in self.record(message, subscription).log], [State.EXPIRED])
        alert = self.alert()
        self.assertEqual((alert["event"], alert["state"]), ("delivery.dead", "expired"))
        self.assertEqual((len(self.read("alerts")), len(endpoint.sent)), (1, sent))
        self.assertEqual(len(self.storage.breakers()), 1)

    def test_gone_disables_and_is_said(self) -> None:
        self.notifier("x", Scripted(lambda _: Outcome(OutcomeKind.GONE, "410")))
        subscription = self.subscribe("x://host", options={"dead_letter_queue": "letters"})
        self.worker()
        (message,) = self.publish()
        self.wait_state(message, subscription, State.GONE)
        events = {json.loads(alert.body_json)["event"] for alert in self.read("alerts", 2)}
        self.assertEqual(events, {"delivery.dead", "subscription.disabled"})
        self.assertEqual(len(self.read("letters")), 1)

    def test_a_refused_credential_is_said_once(self) -> None:
        self.notifier("x", Scripted(lambda _: Outcome(OutcomeKind.AUTH, "401 from the gateway", credential="main")))
        self.subscribe("x://host")
        self.worker()
        self.publish(5)
        alert = self.alert()
        self.assertEqual((alert["event"], alert["credential"]), ("credential.paused", "main"))
        time.sleep(0.3)
        self.assertEqual(len(self.read("alerts")), 1)

    def test_a_request_to_confirm_is_shown_to_nobody_but_the_subscriber(self) -> None:
        """Whoever can read the project's queues could confirm in its place."""
        self.notifier("x", Scripted(lambda _: Outcome(OutcomeKind.GONE, "410", disable="gone")))
        now = time.time()
        asked = Subscription("", "p", "q", "x://host/a", None, {"dead_letter_queue": "letters"}, now, None)
        self.storage.subscribe(asked, lambda _: Draft(b'{"URL-Signature": "a secret"}', 3600))
        self.worker()
        alerts = self.read("alerts", 2)
        self.assertEqual([alert.body["sample"] for alert in alerts], ["", ""])
        self.assertEqual(self.storage.list_messages("p", "letters", None, 10), [])

    def test_a_test_notification_is_no_dead_letter(self) -> None:
        self.notifier("x", Scripted(lambda _: Outcome(OutcomeKind.REJECTED)))
        subscription = self.subscribe("x://host/a", options={"dead_letter_queue": "letters"})
        message = self.storage.ping("p", "q", subscription.id, Draft(b'{"test": true}', 600))
        self.worker()
        self.wait_state(message, subscription, State.DEAD)
        self.assertEqual(self.read("alerts")[0].body["event"], "delivery.dead")
        self.assertEqual(self.storage.list_messages("p", "letters", None, 10), [])

    def test_without_an_alert_queue_nothing_is_posted(self) -> None:
        self.alerts = Alerts(None)
        self.notifier("x", Scripted(lambda _: FAILED))
        subscription = self.subscribe("x://host")
        self.worker()
        (message,) = self.publish()
        self.wait_state(message, subscription, State.DEAD)
        self.assertEqual([queue.name for queue in self.storage.list_queues("p", None, 10)], ["q"])


class EnduranceTest(FlowCase):
    alerts = Alerts("alerts")
    endurance = Endurance(strikes=3, failing=0.3)

    def disabled(self, subscription: Any) -> Any:
        return wait_for(lambda: self.storage.get_subscription("p", "q", subscription.id).disabled, "it to be disabled")

    def test_three_strikes_in_a_row(self) -> None:
        answers = {1: True, 2: True, 3: False, 4: True, 5: True, 6: True}
        number = [0]

        def answer(_: Delivery) -> Outcome:
            number[0] += 1
            wrong = answers.get(number[0], False)
            return Outcome(OutcomeKind.REJECTED, "no such number", target=True) if wrong else DELIVERED

        self.notifier("x", Scripted(answer))
        subscription = self.subscribe("x://host")
        self.worker()
        for _ in range(5):
            (message,) = self.publish()
            wait_for(lambda message=message: self.record(message, subscription).state.ended, "its end")
        self.assertIsNone(self.storage.get_subscription("p", "q", subscription.id).disabled)
        (message,) = self.publish()
        self.assertIn("3 attempts in a row", self.disabled(subscription).reason)
        (message,) = self.publish()
        self.wait_state(message, subscription, State.SUPPRESSED)
        events = [json.loads(alert.body_json)["event"] for alert in self.storage.list_messages("p", "alerts", None, 10)]
        self.assertEqual(events.count("subscription.disabled"), 1)

    def test_nothing_but_failures_for_too_long(self) -> None:
        self.policy = dataclasses.replace(self.policy, schedule=(0.0, *[0.05] * 50))
        self.notifier("x", Scripted(lambda _: Outcome(OutcomeKind.RETRY, "500", scope=Scope.SUBSCRIPTION)))
        subscription = self.subscribe("x://host")
        self.worker()
        self.publish()
        self.assertIn("nothing but failures", self.disabled(subscription).reason)

    def test_a_success_in_between_starts_it_anew(self) -> None:
        self.policy = dataclasses.replace(self.policy, schedule=(0.0, *[0.05] * 50))
        flaky = Outcome(OutcomeKind.RETRY, "500", scope=Scope.SUBSCRIPTION)
        self.notifier("x", Scripted(lambda one: DELIVERED if one.attempt > 3 else flaky))
        subscription = self.subscribe("x://host")
        self.worker()
        for _ in range(4):
            (message,) = self.publish()
            self.wait_state(message, subscription, State.DELIVERED)
        found = self.storage.get_subscription("p", "q", subscription.id)
        self.assertEqual((found.disabled, found.strikes, found.failing_since), (None, 0, None))

    def test_what_is_remembered_of_failures_is_bounded(self) -> None:
        answers = iter([FAILED])
        self.notifier("x", Scripted(lambda _: next(answers, DELIVERED)))
        subscription = self.subscribe("x://host")
        worker = self.worker(start=False)
        worker._settling._failing.update(map(str, range(MOST_FAILING)))
        self.run_worker(worker)
        (message,) = self.publish()
        self.wait_state(message, subscription, State.DELIVERED)
        self.assertLess(len(worker._settling._failing), 10)
        self.assertIsNone(self.storage.get_subscription("p", "q", subscription.id).failing_since)

    def test_our_own_faults_count_for_nothing(self) -> None:
        self.notifier("x", Scripted(lambda _: Outcome(OutcomeKind.OURS)))
        subscription = self.subscribe("x://host")
        self.worker()
        self.publish()
        time.sleep(0.6)
        found = self.storage.get_subscription("p", "q", subscription.id)
        self.assertEqual((found.disabled, found.failing_since), (None, None))


class AgainTest(FlowCase):
    def ended(self, message: str, subscription: Any) -> bool:
        return self.record(message, subscription).log[-1].state is State.EXPIRED

    def test_a_delivered_one_is_delivered_again(self) -> None:
        endpoint = self.notifier("x", Scripted())
        subscription = self.subscribe("x://host")
        self.worker()
        (message,) = self.publish()
        self.wait_state(message, subscription, State.DELIVERED)
        self.storage.redeliver("p", "q", message, subscription.id, 60.0)
        wait_for(lambda: len(endpoint.sent) == 2, "the second delivery")
        record = self.wait_state(message, subscription, State.DELIVERED)
        wait_for(lambda: len(self.record(message, subscription).log) == 2, f"two lines: {record}")
        self.assertEqual(endpoint.sent[0].id, endpoint.sent[1].id)

    def test_a_redelivery_begins_its_schedule_anew(self) -> None:
        """Also for what uses up no attempt: its former life has many lines."""
        self.policy = dataclasses.replace(self.policy, schedule=(0.0, 0.02, 0.02, 600.0))
        busy = Outcome(OutcomeKind.THROTTLED, after=0.01, scope=Scope.SUBSCRIPTION)
        answers = iter([*[FAILED] * 4, busy])
        self.notifier("x", Scripted(lambda _: next(answers, DELIVERED)))
        subscription = self.subscribe("x://host")
        self.worker()
        (message,) = self.publish()
        wait_for(
            lambda: self.record(message, subscription).state is State.PENDING and len(self.log(message, subscription)) == 3, "3"
        )
        self.storage.cancel("p", "q", message, subscription.id)
        next(answers)
        self.storage.redeliver("p", "q", message, subscription.id, 60.0)
        self.wait_state(message, subscription, State.DELIVERED)

    def log(self, message: str, subscription: Any) -> Any:
        return self.record(message, subscription).log

    def test_an_expired_message_is_redelivered_within_an_expiry_of_its_own(self) -> None:
        endpoint = self.notifier("x", Scripted(lambda _: Outcome(OutcomeKind.OURS) if self.down else DELIVERED))
        self.down = True
        subscription = self.subscribe("x://host")
        self.worker()
        (message,) = self.publish(ttl=1)
        wait_for(lambda: self.record(message, subscription).log[-1:] and self.ended(message, subscription), "its end")
        self.down = False
        self.storage.redeliver("p", "q", message, subscription.id, 60.0)
        self.wait_state(message, subscription, State.DELIVERED)
        self.assertGreater(len(endpoint.sent), 1)
        self.assertGreater(endpoint.sent[-1].message.expires_at, endpoint.sent[0].message.expires_at + 30)

    def test_a_redelivery_that_is_over_is_not_sent_although_its_message_lives(self) -> None:
        endpoint = self.notifier("x", Scripted(lambda _: Outcome(OutcomeKind.OURS) if self.down else DELIVERED))
        self.down = False
        subscription = self.subscribe("x://host", options={"dead_letter_queue": "letters"})
        self.worker()
        (message,) = self.publish(ttl=3600)
        self.wait_state(message, subscription, State.DELIVERED)
        self.down = True
        self.storage.redeliver("p", "q", message, subscription.id, 0.2)
        wait_for(lambda: self.ended(message, subscription), "its end")
        sent = len(endpoint.sent)
        self.down = False
        time.sleep(0.3)
        self.assertEqual(len(endpoint.sent), sent)
        self.assertEqual(len(self.storage.list_messages("p", "letters", None, 10)), 1)

    def test_a_test_notification_reaches_its_subscriber_alone(self) -> None:
        endpoint = self.notifier("x", Scripted())
        subscription = self.subscribe("x://host/a")
        self.subscribe("x://host/b")
        self.worker()
        message = self.storage.ping("p", "q", subscription.id, Draft(b"{}", 60))
        self.wait_state(message, subscription, State.DELIVERED)
        self.assertEqual([one.subscription.id for one in endpoint.sent], [subscription.id])


class FairnessTest(FlowCase):
    def test_a_project_with_a_long_row_does_not_delay_another(self) -> None:
        """The big one has far more than may be held, on an endpoint that answers one at a time."""
        self.settings = dataclasses.replace(self.settings, max_active=50, micro_batch=50)
        order: list[str] = []

        def answer(delivery: Delivery) -> Outcome:
            order.append(delivery.message.project)
            return DELIVERED

        self.notifier("x", Scripted(answer))
        self.subscribe("x://host", project="big")
        small = self.subscribe("x://host", project="small")
        self.publish(3000, project="big")
        self.worker()
        wait_for(lambda: len(order) > 100, "the big one to be under way")
        (message,) = self.publish(project="small")
        posted_behind = len(order)
        self.wait_state(message, small, State.DELIVERED)
        self.assertLess(order.index("small") - posted_behind, 500)
