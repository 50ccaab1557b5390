"""What the owner of a subscription is told at its callback URL; over real workers and the memory storage."""

from __future__ import annotations

import dataclasses
from typing import Any

from tests.flow.case import DELIVERED, FlowCase, Scripted, wait_for
from zaqar_notify import payload
from zaqar_notify.alerts import Alerts
from zaqar_notify.model import Delivery, Disabled, MessageKind, Outcome, OutcomeKind, Scope, State, Subscription
from zaqar_notify.settling import Endurance

URL = "http://owner.example.org/trouble"
FAILED = Outcome(OutcomeKind.RETRY, "no answer")
REJECTED = Outcome(OutcomeKind.REJECTED, "too long")
GONE = Outcome(OutcomeKind.GONE, "no such endpoint")
OPTIONS = {"callback": URL, "dead_letter_queue": "dead", "post_data": "x", "post_headers": {"a": "b"}, "timeout": 1}


class CallbackTest(FlowCase):
    endurance = Endurance(strikes=3)

    def setUp(self) -> None:
        super().setUp()
        self.answer = REJECTED
        self.owner = self.notifier("http", Scripted())
        self.endpoint = self.notifier("x", Scripted(lambda _: self.answer))
        self.subscription = self.subscribe("x://a", options={"callback": URL})

    def fail(self, answer: Outcome, state: State = State.DEAD) -> str:
        self.answer = answer
        (message,) = self.publish()
        self.wait_state(message, self.subscription, state)
        return message

    def told(self, count: int = 1) -> list[dict[str, Any]]:
        wait_for(lambda: len(self.owner.sent) >= count, "the owner to be told")
        return [delivery.message.body for delivery in self.owner.sent]

    def now(self) -> Subscription:
        return self.storage.get_subscription("p", "q", self.subscription.id)

    def callback_message(self) -> str:
        return self.owner.sent[0].message.id

    def test_the_owner_is_told_of_a_delivery_that_died_where_there_is_no_alert_queue(self) -> None:
        self.worker()
        message = self.fail(REJECTED)
        (event,) = self.told()
        self.assertEqual(("delivery.dead", message, "too long"), (event["event"], event["message_id"], event["error"]))
        self.assertEqual([], [queue.name for queue in self.storage.list_queues("p", None, 10) if queue.name != "q"])

    def test_and_of_a_subscription_that_was_disabled(self) -> None:
        self.worker()
        self.fail(GONE, State.GONE)
        events = self.told(2)
        self.assertEqual({"delivery.dead", "subscription.disabled"}, {event["event"] for event in events})

    def test_and_of_one_that_was_disabled_by_strikes(self) -> None:
        self.worker()
        for _ in range(3):
            self.fail(Outcome(OutcomeKind.REJECTED, "no such box", target=True))
        events = self.told(2)
        self.assertEqual(["delivery.dead", "subscription.disabled"], [event["event"] for event in events])
        wait_for(lambda: self.record(self.callback_message(), self.subscription).state is State.DELIVERED)

    def test_what_is_sent(self) -> None:
        self.alerts = Alerts("alerts")
        self.storage.update_subscription("p", "q", self.subscription.id, {"options": OPTIONS, "secret": "whsec_x"})
        self.worker()
        self.fail(REJECTED)
        self.told()
        (delivery,) = self.owner.sent
        (alert,) = self.storage.list_messages("p", "alerts", None, 10)
        self.assertIs(MessageKind.CALLBACK, delivery.message.kind)
        self.assertEqual(alert.body_json, payload.zaqar(delivery.message))
        seen = (delivery.subscription.subscriber, dict(delivery.subscription.options), delivery.subscription.secret)
        self.assertEqual((URL, {}, "whsec_x"), seen)
        self.assertEqual(self.subscription.id, delivery.subscription.id)
        self.assertEqual([], [one for one in self.storage.list_messages("p", "q", None, 10) if one.id == delivery.message.id])

    def test_once_in_the_interval_for_the_same_cause(self) -> None:
        self.worker()
        for _ in range(3):
            self.fail(REJECTED)
        other = self.subscription = self.subscribe("x://b", options={"callback": URL})
        self.fail(REJECTED)
        events = self.told(2)
        self.assertEqual(2, len(events))
        self.assertEqual(other.id, events[1]["subscription_id"])

    def test_also_about_what_is_in_the_alert_queue_itself(self) -> None:
        self.alerts = Alerts("q")
        self.worker()
        self.fail(REJECTED)
        self.assertEqual(1, len(self.told()))
        self.assertEqual(1, len(self.storage.list_messages("p", "q", None, 10)))

    def test_a_credential_is_no_matter_of_the_owner(self) -> None:
        self.alerts = Alerts("alerts")
        self.worker()
        self.answer = Outcome(OutcomeKind.AUTH, "wrong password")
        self.publish()
        wait_for(lambda: self.storage.list_messages("p", "alerts", None, 10))
        self.answer = DELIVERED
        wait_for(lambda: self.storage.depths().parked + self.storage.depths().pending == 0)
        self.assertEqual([], self.owner.sent)

    def test_who_has_none_is_not_told(self) -> None:
        self.worker()
        for callback in (None, 7, "x://a", "ftp://a"):
            self.storage.update_subscription("p", "q", self.subscription.id, {"options": {"callback": callback}})
            self.fail(REJECTED)
        self.assertEqual(([], 4), (self.owner.sent, len(self.endpoint.sent)))

    def test_it_comes_through_although_the_subscription_is_disabled_and_not_confirmed(self) -> None:
        self.storage.confirm("p", "q", self.subscription.id, True)
        self.policy = dataclasses.replace(self.policy, schedule=(0.0, 0.5))
        self.owner.answer = lambda _: FAILED
        self.worker(confirmed_only=True)
        self.fail(REJECTED)
        self.told()
        self.storage.update_subscription("p", "q", self.subscription.id, {"disabled": Disabled("gone", 1.0)})
        self.storage.confirm("p", "q", self.subscription.id, False)
        self.owner.answer = lambda _: DELIVERED
        self.wait_state(self.callback_message(), self.subscription, State.DELIVERED)

    def test_what_comes_of_it_is_not_held_against_the_subscription(self) -> None:
        self.alerts = Alerts("alerts")
        wrong = Outcome(OutcomeKind.REJECTED, "401", target=True)
        for number, answer in enumerate((FAILED, wrong, GONE, Outcome(OutcomeKind.REFUSED, "stop", disable="asked"))):
            with self.subTest(answer=answer):
                self.owner.answer = lambda _, answer=answer: answer
                self.owner.sent.clear()
                options = {"callback": URL, "dead_letter_queue": "dead"}
                self.subscription = self.subscribe(f"x://{number}", queue=str(number), options=options)
                worker = self.worker()
                self.answer = REJECTED
                (message,) = self.publish(queue=str(number))
                self.wait_state(message, self.subscription, State.DEAD)
                self.told()
                wait_for(lambda: self.record(self.callback_message(), self.subscription).state.ended)
                now = self.storage.get_subscription("p", str(number), self.subscription.id)
                self.assertEqual((None, 0, None), (now.disabled, now.strikes, now.failing_since))
                self.assertEqual(1, len({delivery.message.id for delivery in self.owner.sent}), "and no callback about it")
                worker.stop_and_wait()
        self.assertEqual(4, len(self.storage.list_messages("p", "dead", None, 10)), "of what clients posted")
        self.assertEqual(4, len(self.storage.list_messages("p", "alerts", None, 10)))

    def test_its_success_does_not_clear_the_subscriber(self) -> None:
        self.worker()
        self.fail(Outcome(OutcomeKind.REJECTED, "no such box", target=True))
        self.told()
        self.wait_state(self.callback_message(), self.subscription, State.DELIVERED)
        self.assertEqual(1, self.now().strikes)

    def test_an_owner_that_asks_for_a_pause_does_not_stop_the_subscriber(self) -> None:
        self.notifiers["x"] = self.owner
        throttled = Outcome(OutcomeKind.THROTTLED, after=600.0, scope=Scope.SUBSCRIPTION)

        def answer(delivery: Delivery) -> Outcome:
            return throttled if delivery.message.kind is MessageKind.CALLBACK else self.answer

        self.owner.answer = answer
        self.worker()
        self.fail(REJECTED)
        wait_for(lambda: [one for one in self.owner.sent if one.message.kind is MessageKind.CALLBACK])
        self.fail(DELIVERED, State.DELIVERED)

    def test_a_callback_that_was_taken_away_meanwhile(self) -> None:
        self.owner.answer = lambda _: Outcome(OutcomeKind.OURS)
        self.worker()
        self.fail(REJECTED)
        self.told()
        self.storage.update_subscription("p", "q", self.subscription.id, {"options": {}})
        self.wait_state(self.callback_message(), self.subscription, State.DEAD)
