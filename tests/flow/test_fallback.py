"""Fallback addresses, and deliveries that are reported as failed after all; over real workers and the memory storage."""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from typing import Any

from tests.flow.case import DELIVERED, FlowCase, Scripted, wait_for
from zaqar_notify import addresses
from zaqar_notify.alerts import Alerts
from zaqar_notify.errors import StorageUnavailable
from zaqar_notify.feedback import RECEIPT, Links, Tokens, Use
from zaqar_notify.model import (
    DeliveryRecord,
    Disabled,
    Draft,
    Outcome,
    OutcomeKind,
    Receipt,
    ReceiptKind,
    Scope,
    State,
    Subscription,
)
from zaqar_notify.settling import Endurance

FAILED = Outcome(OutcomeKind.RETRY, "no answer")
GONE = Outcome(OutcomeKind.GONE, "no such endpoint")
REJECTED = Outcome(OutcomeKind.REJECTED, "too long")
FALLBACK = ["mail://secret@second/box?token=secret", "sms://third"]


class FallbackCase(FlowCase):
    alerts = Alerts("alerts")
    endurance = Endurance(strikes=3)

    def setUp(self) -> None:
        super().setUp()
        self.answers = {"x": DELIVERED, "mail": DELIVERED, "sms": DELIVERED}
        self.sent = {
            scheme: self.notifier(scheme, Scripted(functools.partial(self.answer, scheme))).sent for scheme in self.answers
        }
        self.subscription = self.subscribe("x://first", options=self.options())

    @staticmethod
    def options() -> dict[str, Any]:
        return {"fallback": FALLBACK, "dead_letter_queue": "dead"}

    def answer(self, scheme: str, _: Any) -> Outcome:
        return self.answers[scheme]

    def counts(self) -> dict[str, int]:
        return {scheme: len(sent) for scheme, sent in self.sent.items()}

    def deliver(self, state: State, **answers: Outcome) -> DeliveryRecord:
        self.answers |= answers
        self.worker()
        (message,) = self.publish()
        return self.wait_state(message, self.subscription, state)

    def now(self) -> Subscription:
        return self.storage.get_subscription("p", "q", self.subscription.id)

    def posted(self, queue: str) -> list[Any]:
        return [message.body for message in self.storage.list_messages("p", queue, None, 100)]


class FallbackTest(FallbackCase):
    def test_what_is_dead_goes_to_the_next_address(self) -> None:
        record = self.deliver(State.DELIVERED, x=FAILED)
        self.assertEqual({"x": 4, "mail": 1, "sms": 0}, self.counts())
        self.assertEqual([0, 0, 0, 0, 1], [line.target for line in record.log])
        self.assertEqual([State.PENDING] * 4 + [State.DELIVERED], [line.state for line in record.log])
        self.assertEqual("no answer", record.log[2].detail)
        self.assertEqual("no answer; goes on with fallback address 1 (mail:)", record.log[3].detail)
        self.assertIs(OutcomeKind.RETRY, record.log[3].outcome)

    def test_the_record_says_so_also_where_the_outcome_says_nothing(self) -> None:
        record = self.deliver(State.DELIVERED, x=Outcome(OutcomeKind.REJECTED))
        self.assertEqual("goes on with fallback address 1 (mail:)", record.log[0].detail)

    def test_what_the_notifier_of_the_address_sees(self) -> None:
        self.answers["x"] = self.answers["mail"] = REJECTED
        self.worker(links=functools.partial(Links, tokens := Tokens("key"), "https://notify.example.org"))
        (message,) = self.publish()
        self.wait_state(message, self.subscription, State.DELIVERED)
        (first,), (second,), (third,) = self.sent.values()
        self.assertEqual([0, 1, 2], [one.target for one in (first, second, third)])
        self.assertEqual([1, 1, 1], [one.attempt for one in (first, second, third)])
        self.assertEqual(1, len({one.id for one in (first, second, third)}))
        self.assertEqual(FALLBACK, [one.subscription.subscriber for one in (second, third)])
        self.assertEqual(self.subscription, dataclasses.replace(third.subscription, subscriber="x://first"))
        token = third.links[RECEIPT].rpartition("/")[2]
        self.assertEqual((message, self.subscription.id, 2), tokens.read(Use.RECEIPT, token))

    def test_each_address_has_all_attempts(self) -> None:
        record = self.deliver(State.DEAD, x=FAILED, mail=FAILED, sms=FAILED)
        self.assertEqual({"x": 4, "mail": 4, "sms": 4}, self.counts())
        self.assertEqual([1, 2, 3, 4], [one.attempt for one in self.sent["sms"]])
        self.assertEqual("no answer", record.log[-1].detail)

    def test_dead_letter_and_alert_come_when_the_last_address_has_failed(self) -> None:
        self.answers["sms"] = None
        self.deliver(State.IN_FLIGHT, x=REJECTED, mail=REJECTED)
        wait_for(lambda: self.sent["sms"])
        self.assertEqual(([], []), (self.posted("dead"), self.posted("alerts")))
        self.notifiers["sms"].let_go(REJECTED)
        (letter,) = wait_for(lambda: self.posted("dead"))
        (alert,) = self.posted("alerts")
        self.assertEqual(({"n": 1}, "delivery.dead"), (letter, alert["event"]))
        self.assertNotIn("secret", json.dumps(alert))

    def test_what_ends_otherwise_does_not_fall_back(self) -> None:
        self.deliver(State.REFUSED, x=Outcome(OutcomeKind.REFUSED))
        (message,) = self.publish(ttl=0)
        self.wait_state(message, self.subscription, State.EXPIRED)
        self.answers["x"] = Outcome(OutcomeKind.OURS)
        (message,) = self.publish()
        wait_for(lambda: self.record(message, self.subscription).log)
        self.storage.cancel("p", "q", message, self.subscription.id)
        self.wait_state(message, self.subscription, State.CANCELLED)
        self.assertEqual((0, 0), (len(self.sent["mail"]), len(self.sent["sms"])))

    def test_what_is_past_its_time_does_not_fall_back(self) -> None:
        self.policy = dataclasses.replace(self.policy, schedule=(0.0,))
        self.notifiers["x"].timeout = lambda _: 20.0
        self.answers["x"] = None
        self.worker()
        (message,) = self.publish(ttl=1)
        wait_for(lambda: self.sent["x"])
        time.sleep(1.1)
        self.notifiers["x"].let_go(FAILED)
        self.wait_state(message, self.subscription, State.DEAD)
        self.assertEqual([{"n": 1}], self.posted("dead"))

    def test_a_ping_and_a_request_to_confirm_are_for_the_subscriber_alone(self) -> None:
        self.answers["x"] = REJECTED
        self.worker()
        message = self.storage.ping("p", "q", self.subscription.id, Draft(b'{"test": true}', 3600))
        self.wait_state(message, self.subscription, State.DEAD)
        self.assertEqual({"x": 1, "mail": 0, "sms": 0}, self.counts())

    def test_a_subscriber_that_is_gone_is_disabled_and_its_deliveries_go_on(self) -> None:
        self.policy = dataclasses.replace(self.policy, schedule=(0.0, 0.3, 0.02))
        self.deliver(State.DELIVERED, x=GONE)
        self.assertEqual("no such endpoint", self.now().disabled.reason)
        self.assertEqual(["subscription.disabled"], [alert["event"] for alert in self.posted("alerts")])
        (message,) = self.publish()
        self.wait_state(message, self.subscription, State.SUPPRESSED)
        self.assertEqual({"x": 1, "mail": 1, "sms": 0}, self.counts())

    def test_what_waits_for_its_fallback_goes_on_although_the_subscription_was_disabled(self) -> None:
        self.policy = dataclasses.replace(self.policy, schedule=(0.0, 0.5))
        answers = [FAILED, DELIVERED]
        self.notifiers["mail"].answer = lambda _: answers.pop(0)
        self.answers["x"] = REJECTED
        self.worker()
        (message,) = self.publish()
        wait_for(lambda: self.sent["mail"])
        self.storage.update_subscription("p", "q", self.subscription.id, {"disabled": Disabled("gone", 1.0)})
        self.wait_state(message, self.subscription, State.DELIVERED)

    def test_what_waits_for_its_fallback_ends_when_the_subscription_is_deleted(self) -> None:
        self.policy = dataclasses.replace(self.policy, schedule=(0.0, 0.3, 0.3))
        self.answers |= {"x": REJECTED, "mail": FAILED}
        self.worker()
        (message,) = self.publish()
        wait_for(lambda: self.sent["mail"])
        self.storage.delete_subscription("p", "q", self.subscription.id)
        self.wait_state(message, self.subscription, State.CANCELLED)

    def test_nothing_that_comes_of_a_fallback_address_is_held_against_the_subscription(self) -> None:
        wrong = Outcome(OutcomeKind.REJECTED, "no such box", target=True)
        gone = Outcome(OutcomeKind.GONE, "no such number", disable="asked")
        self.answers |= {"x": REJECTED, "mail": wrong, "sms": gone}
        self.worker()
        for message in self.publish(5):
            self.wait_state(message, self.subscription, State.GONE)
        self.assertEqual((None, 0, None), (self.now().disabled, self.now().strikes, self.now().failing_since))

    def test_a_success_of_a_fallback_address_does_not_clear_the_subscriber(self) -> None:
        self.deliver(State.DELIVERED, x=Outcome(OutcomeKind.REJECTED, target=True))
        self.assertEqual(1, self.now().strikes)

    def test_strikes_of_the_subscriber_count_although_its_deliveries_arrive_elsewhere(self) -> None:
        self.answers["x"] = Outcome(OutcomeKind.REJECTED, target=True)
        self.worker()
        for _ in range(3):
            (message,) = self.publish()
            self.wait_state(message, self.subscription, State.DELIVERED)
        wait_for(lambda: self.now().disabled)

    def test_a_fallback_address_that_asks_for_a_pause_does_not_stop_the_subscriber(self) -> None:
        self.answers |= {"x": REJECTED, "mail": Outcome(OutcomeKind.THROTTLED, after=600.0, scope=Scope.SUBSCRIPTION)}
        self.worker()
        (message,) = self.publish()
        wait_for(lambda: len(self.record(message, self.subscription).log) == 2)
        self.answers["x"] = DELIVERED
        (message,) = self.publish()
        self.wait_state(message, self.subscription, State.DELIVERED)
        self.answers["x"] = REJECTED
        (message,) = self.publish()
        self.wait_state(message, self.subscription, State.PARKED)
        self.assertEqual(1, len(self.sent["mail"]))

    def test_our_own_faults_on_the_way_to_an_address_are_counted_for_it_alone(self) -> None:
        """Or the first of them would wait as long as the last one of the address before."""
        self.policy = dataclasses.replace(self.policy, fault_delay=0.01, fault_delay_max=3600.0)
        faults = [Outcome(OutcomeKind.OURS)] * 4
        self.notifiers["x"].answer = lambda _: faults.pop() if faults else REJECTED
        self.answers["mail"] = Outcome(OutcomeKind.OURS)
        self.worker()
        (message,) = self.publish()
        record = wait_for(
            lambda: record if len((record := self.record(message, self.subscription)).log) >= 9 else None,
            "four faults of each address",
        )
        self.assertEqual([0] * 5 + [1] * 4, [line.target for line in record.log[:9]])

    def test_an_address_that_was_taken_away_meanwhile(self) -> None:
        self.policy = dataclasses.replace(self.policy, schedule=(0.0, 0.3))
        self.answers |= {"x": REJECTED, "mail": FAILED}
        self.worker()
        (message,) = self.publish()
        wait_for(lambda: self.sent["mail"])
        self.storage.update_subscription("p", "q", self.subscription.id, {"options": {}})
        record = self.wait_state(message, self.subscription, State.DEAD)
        self.assertEqual("The subscription does not have this address any more", record.log[-1].detail)

    def test_an_address_that_cannot_be_sent_to_any_more_waits_like_any_other(self) -> None:
        del self.notifiers["mail"]
        self.answers["x"] = REJECTED
        self.worker()
        (message,) = self.publish()
        record = wait_for(
            lambda: record if len((record := self.record(message, self.subscription)).log) > 2 else None, "a second look"
        )
        self.assertIs(OutcomeKind.OURS, record.log[1].outcome)

    def test_a_storage_that_is_away_when_faults_are_counted(self) -> None:
        self.answers |= {"x": REJECTED, "mail": Outcome(OutcomeKind.OURS)}

        def away(*_: Any, **__: Any) -> None:
            raise StorageUnavailable("away")

        self.storage.get_delivery = away
        self.worker()
        self.publish()
        wait_for(lambda: len(self.sent["mail"]) > 1, "the next attempt")


class AddressesTest(FlowCase):
    def test_what_an_older_version_took_without_looking(self) -> None:
        for bad in ("x://a", {"a": 1}, 7, None, [], True):
            with self.subTest(bad=bad):
                subscription = Subscription("1", "p", "q", "x://a", None, {"fallback": bad, "callback": bad}, 0.0, None)
                self.assertEqual(0, addresses.further(subscription, 0))
                self.assertIsNone(addresses.at(subscription, 1))
                self.assertIsNone(addresses.callback(subscription))

    def test_what_is_no_uri_is_no_address(self) -> None:
        subscription = Subscription("1", "p", "q", "x://a", None, {"fallback": [7, "x://b"]}, 0.0, None)
        self.assertIsNone(addresses.at(subscription, 1))
        self.assertEqual("x://b", addresses.at(subscription, 2).subscriber)
        self.assertEqual((2, 1, 0), tuple(addresses.further(subscription, target) for target in range(3)))
        self.assertEqual(("x", "", "x"), tuple(addresses.scheme(subscription, target) for target in range(3)))


class ReportTest(FallbackCase):
    """A FAILED that comes in after a delivery."""

    @staticmethod
    def options() -> dict[str, Any]:
        return {"dead_letter_queue": "dead"}

    def report(self, state: State, gone: bool = False, detail: str = "550 no such user") -> DeliveryRecord:
        record = self.deliver(State.DELIVERED)
        self.storage.receive(record.message_id, self.subscription.id, Receipt(ReceiptKind.FAILED, 1.0, detail, gone))
        return self.wait_state(record.message_id, self.subscription, state)

    def test_it_ends_the_delivery_and_nothing_is_sent(self) -> None:
        record = self.report(State.DEAD)
        self.assertEqual([State.DELIVERED, State.DEAD], [line.state for line in record.log])
        self.assertEqual(("550 no such user", OutcomeKind.REJECTED), (record.log[1].detail, record.log[1].outcome))
        self.assertIsNone(record.log[1].duration)
        self.assertEqual(1, len(self.sent["x"]))

    def test_owner_and_dead_letter_queue_learn_of_it(self) -> None:
        self.report(State.DEAD)
        self.assertEqual([{"n": 1}], self.posted("dead"))
        (alert,) = self.posted("alerts")
        self.assertEqual(("delivery.dead", "550 no such user"), (alert["event"], alert["error"]))
        self.assertEqual(0, self.now().strikes)

    def test_without_a_detail_the_log_says_what_it_was(self) -> None:
        self.assertEqual("reported as not delivered", self.report(State.DEAD, detail="").log[1].detail)

    def test_that_the_target_does_not_exist_is_a_strike(self) -> None:
        self.report(State.DEAD, gone=True)
        self.assertEqual((1, None), (self.now().strikes, self.now().disabled))

    def test_the_next_address_is_tried(self) -> None:
        self.storage.update_subscription("p", "q", self.subscription.id, {"options": {"fallback": FALLBACK}})
        record = self.deliver(State.DELIVERED)
        for target, scheme in ((0, "mail"), (1, "sms")):
            self.storage.receive(record.message_id, self.subscription.id, Receipt(ReceiptKind.FAILED, 1.0, "no", True))
            wait_for(lambda scheme=scheme: self.sent[scheme])
            record = self.wait_state(record.message_id, self.subscription, State.DELIVERED)
            self.assertEqual(f"no; goes on with fallback address {target + 1} ({scheme}:)", record.log[-2].detail, record.log)
            self.assertEqual(target, record.log[-2].target)
        self.assertEqual(1, self.now().strikes, "that of the subscriber")

    def test_a_disabled_subscription_and_a_message_that_has_expired_change_nothing(self) -> None:
        self.storage.update_subscription("p", "q", self.subscription.id, {"options": {"fallback": FALLBACK}})
        self.worker()
        (message,) = self.publish(ttl=1)
        self.wait_state(message, self.subscription, State.DELIVERED)
        self.storage.update_subscription("p", "q", self.subscription.id, {"disabled": Disabled("gone", 1.0)})
        time.sleep(1.1)
        self.storage.receive(message, self.subscription.id, Receipt(ReceiptKind.FAILED, 1.0, "no"))
        self.wait_state(message, self.subscription, State.DEAD)
        self.assertEqual({"x": 1, "mail": 0, "sms": 0}, self.counts())

    def test_it_counts_although_the_subscription_is_deleted_before_it_is_settled(self) -> None:
        worker = self.worker()
        (message,) = self.publish()
        self.wait_state(message, self.subscription, State.DELIVERED)
        worker.stop_and_wait()
        self.storage.receive(message, self.subscription.id, Receipt(ReceiptKind.FAILED, 1.0, "no"))
        self.storage.delete_subscription("p", "q", self.subscription.id)
        self.worker()
        record = self.wait_state(message, self.subscription, State.DEAD)
        self.assertEqual("no", record.log[-1].detail)

    def test_without_its_body_there_is_nothing_to_send_or_to_move(self) -> None:
        self.storage.update_subscription(
            "p", "q", self.subscription.id, {"options": {"fallback": FALLBACK, "dead_letter_queue": "dead"}}
        )
        record = self.deliver(State.DELIVERED)
        load = self.storage.load

        def without_bodies(*args: Any) -> Any:
            loaded = load(*args)
            messages = {key: dataclasses.replace(one, body_json=b"") for key, one in loaded.messages.items()}
            return dataclasses.replace(loaded, messages=messages)

        self.storage.load = without_bodies
        self.storage.receive(record.message_id, self.subscription.id, Receipt(ReceiptKind.FAILED, 1.0, "no"))
        self.wait_state(record.message_id, self.subscription, State.DEAD)
        self.assertEqual(([], 1), (self.posted("dead"), len(self.posted("alerts"))))
