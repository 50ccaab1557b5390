"""Schemes that workers of their own serve; over real workers and the memory storage."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from tests.flow.case import DELIVERED, FlowCase, Scripted, wait_for
from zaqar_notify.model import Delivery, Draft, LaneKey, Outcome, OutcomeKind, Scope, State
from zaqar_notify.schemes import Schemes

APART = Schemes(apart={"x", "z"})
X = dataclasses.replace(APART, pools=("x",))
FAILED = Outcome(OutcomeKind.RETRY, "no answer")


class PoolsCase(FlowCase):
    def setUp(self) -> None:
        super().setUp()
        self.limits = dataclasses.replace(self.limits, release_rate=1000.0)
        self.notifiers_of: dict[str, dict[str, Scripted]] = {}
        self.answers: dict[str, Outcome | None] = {}
        self.mine, self.other = self.subscribe("x://a"), self.subscribe("y://a")

    def start(self, name: str, schemes: Schemes, **options: Any) -> Any:
        """A worker with notifiers of its own, as in a process of its own."""
        self.notifiers = self.notifiers_of[name] = {scheme: Scripted(self.answer) for scheme in ("x", "y", "z")}
        notifiers = self.notifiers

        def pick(uri: str, notifiers: dict[str, Scripted] = notifiers) -> Scripted:
            return notifiers[uri.partition(":")[0]]

        self.pick = pick
        return self.worker(schemes=schemes, **options)

    def answer(self, delivery: Delivery) -> Outcome | None:
        return self.answers.get(delivery.subscription.subscriber.partition(":")[0], DELIVERED)

    def sent(self, name: str, scheme: str) -> list[Delivery]:
        return self.notifiers_of[name][scheme].sent

    def wait_all(self, messages: Sequence[str], state: State, subscription: Any) -> None:
        for message in messages:
            self.wait_state(message, subscription, state)


class PoolsTest(PoolsCase):
    def test_each_worker_sends_what_is_its_own(self) -> None:
        self.start("general", APART)
        self.start("x", X)
        messages = self.publish(50)
        self.wait_all(messages, State.DELIVERED, self.mine)
        self.wait_all(messages, State.DELIVERED, self.other)
        self.assertEqual((0, 50), (len(self.sent("general", "x")), len(self.sent("general", "y"))))
        self.assertEqual((50, 0), (len(self.sent("x", "x")), len(self.sent("x", "y"))))
        self.assertEqual({1}, {len(self.record(message, self.mine).log) for message in messages})

    def test_it_waits_until_there_is_one(self) -> None:
        general = self.start("general", APART)
        messages = self.publish(20)
        self.wait_all(messages, State.DELIVERED, self.other)
        self.wait_all(messages, State.PARKED, self.mine)
        self.assertEqual((), self.record(messages[0], self.mine).log)
        self.assertEqual({}, {key: lane for key, lane in general._lanes._lanes.items() if key.name == "x://a"})
        self.start("x", X)
        self.wait_all(messages, State.DELIVERED, self.mine)

    def test_one_alone_takes_nothing_else(self) -> None:
        self.start("x", X)
        ping = self.storage.ping("p", "q", self.other.id, Draft(b"1", 60))
        messages = self.publish(3)
        taken = []
        take = self.storage.take
        self.storage.take = lambda *args, **more: taken.append(take(*args, **more)) or taken[-1]
        wait_for(lambda: len(taken) > 5)
        self.assertEqual(set(), {entry.message_id for one in taken for entry in one.entries})
        self.assertEqual(set(), {row.message_id for one in taken for row in one.rows})
        for message in (*messages, ping):
            self.assertIs(State.PENDING, self.record(message, self.other).state)

    def test_several_schemes_in_one_worker(self) -> None:
        third = self.subscribe("z://a")
        self.start("general", APART)
        self.start("both", dataclasses.replace(APART, pools=("x", "z")))
        messages = self.publish(30)
        for subscription in (self.mine, third, self.other):
            self.wait_all(messages, State.DELIVERED, subscription)
        self.assertEqual((30, 30), (len(self.sent("both", "x")), len(self.sent("both", "z"))))

    def test_retries_come_back_to_it(self) -> None:
        self.answers["x"] = FAILED
        self.start("general", APART)
        self.start("x", X)
        (message,) = self.publish()
        record = self.wait_state(message, self.mine, State.DEAD)
        self.assertEqual([OutcomeKind.RETRY] * 4, [line.outcome for line in record.log])
        self.assertEqual([1, 2, 3, 4], [delivery.attempt for delivery in self.sent("x", "x")])
        self.assertEqual([], self.sent("general", "x"))

    def test_its_breaker_is_its_own_to_probe(self) -> None:
        self.limits = dataclasses.replace(self.limits, breaker_attempts=2, breaker_wait=0.2, breaker_wait_max=0.2)
        self.policy = dataclasses.replace(self.policy, schedule=(0.0,) * 50)
        self.answers["x"] = FAILED
        self.start("general", APART)
        self.start("x", X)
        messages = self.publish(10)
        (breaker,) = wait_for(self.storage.breakers)
        self.assertEqual("x", breaker.lane.pool)
        self.answers["x"] = DELIVERED
        self.wait_all(messages, State.DELIVERED, self.mine)
        self.assertEqual([], self.sent("general", "x"))

    def test_who_asks_for_a_pause_gets_it_there(self) -> None:
        self.answers["x"] = Outcome(OutcomeKind.THROTTLED, after=600.0, scope=Scope.SUBSCRIPTION)
        self.start("general", APART)
        self.start("x", X)
        (message,) = self.publish()
        wait_for(lambda: self.record(message, self.mine).log)
        (later,) = self.publish()
        self.wait_state(later, self.mine, State.PARKED)
        wait_for(lambda: self.record(message, self.mine).state in (State.PENDING, State.PARKED))
        self.assertEqual(1, len(self.sent("x", "x")))
        self.assertEqual([], self.sent("general", "x"))

    def test_a_window_is_held_by_whoever_matches_it(self) -> None:
        self.storage.update_subscription("p", "q", self.mine.id, {"options": {"window": {"seconds": 0.2}}})
        self.start("general", APART)
        self.start("x", X)
        (message,) = self.publish()
        self.wait_state(message, self.mine, State.DELIVERED)
        self.assertEqual(1, len(self.sent("x", "x")))

    def test_a_fallback_address_is_served_by_its_own(self) -> None:
        self.answers["y"] = Outcome(OutcomeKind.REJECTED)
        self.storage.update_subscription("p", "q", self.other.id, {"options": {"fallback": ["x://b"]}})
        self.start("general", APART)
        self.start("x", X)
        (message,) = self.publish()
        self.wait_state(message, self.other, State.DELIVERED)
        self.assertEqual({0, 1}, {delivery.target for delivery in self.sent("x", "x")})

    def test_a_subscriber_that_has_moved_on_meanwhile(self) -> None:
        general = self.start("general", APART)
        messages = self.publish(20)
        self.wait_all(messages, State.PARKED, self.mine)
        general.stop_and_wait()
        self.storage.update_subscription("p", "q", self.mine.id, {"subscriber": "y://moved"})
        self.start("x", X)
        wait_for(lambda: not [lane for lane in self.storage._lanes if lane.name == "x://a"], "the lane to run empty")
        self.start("new", APART)
        self.wait_all(messages, State.DELIVERED, self.mine)
        self.assertEqual([], self.sent("x", "y"))

    def test_a_scheme_that_is_no_longer_apart(self) -> None:
        first = self.start("general", APART)
        messages = self.publish(20)
        self.wait_all(messages, State.PARKED, self.mine)
        first.stop_and_wait()
        self.start("all", Schemes())
        self.wait_all(messages, State.DELIVERED, self.mine)

    def test_a_scheme_that_is_apart_from_now_on(self) -> None:
        """What was parked before, for all workers, changes over."""
        self.answers["x"] = None
        self.limits = dataclasses.replace(self.limits, lane_min=1, lane_max=1)
        first = self.start("all", Schemes())
        messages = self.publish(20)
        wait_for(lambda: self.storage.depths().parked == 19)
        self.notifiers["x"].let_go()
        first.stop_and_wait()
        self.answers["x"] = DELIVERED
        self.settings = dataclasses.replace(self.settings, lease=3.0)
        self.start("general", APART)
        self.start("x", X)
        self.wait_all(messages, State.DELIVERED, self.mine)
        self.assertEqual([], self.sent("general", "x"))

    def test_what_is_switched_off_waits_with_it(self) -> None:
        off = {"disabled": {"x"}, "recheck": 0.2}
        general = self.start("general", dataclasses.replace(APART, **off))
        own = self.start("x", dataclasses.replace(X, **off))
        messages = self.publish(10)
        self.wait_all(messages, State.PARKED, self.mine)
        (breaker,) = wait_for(self.storage.breakers)
        self.assertEqual(LaneKey("p", "x://a"), breaker.lane)
        for worker in (general, own):
            worker.stop_and_wait()
        self.start("general", APART)
        self.start("x", X)
        self.wait_all(messages, State.DELIVERED, self.mine)

    def test_the_others_are_told(self) -> None:
        """Or what waits for them would wait until they look the next time."""
        self.settings = dataclasses.replace(self.settings, poll_interval=15.0)
        own = self.start("x", X)
        wait_for(lambda: own._asleep)
        general = self.start("general", APART, tell_others=own.wake)
        (message,) = self.publish()
        general.wake()
        self.wait_state(message, self.mine, State.DELIVERED)
