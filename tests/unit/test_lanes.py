"""Who may be sent to now."""

import unittest

from zaqar_notify.lanes import Lanes, Limits, OpenEntry, Send
from zaqar_notify.model import LaneKey, Message, Outcome, OutcomeKind, Scope, Subscription

DELIVERED = Outcome(OutcomeKind.DELIVERED)
FAILED = Outcome(OutcomeKind.RETRY)


class Unlimited:
    full = False
    stopped = False

    def send_many(self, deliveries, report):  # pragma: no cover - lanes do not send
        raise AssertionError

    give_up = send_many


class LanesCase(unittest.TestCase):
    limits = Limits(max_in_flight=30, lane_min=2, lane_max=8, slow_share=1 / 3)

    def setUp(self) -> None:
        self.lanes = Lanes(self.limits)
        self.sender = Unlimited()
        self.number = 0

    def send(self, endpoint: str = "a", project: str = "p", sender=None, **kwargs) -> Send:
        self.number += 1
        message = Message(str(self.number), project, "q", b"{}", 60, 0.0, 60.0)
        subscription = Subscription("s", project, "q", endpoint, None, {}, 0.0, None)
        send = Send(
            id=str(self.number),
            attempt=1,
            deadline=0.0,
            message=message,
            subscription=subscription,
            token=1,
            lease_until=1e9,
            entry=OpenEntry(message.id, 1),
            **kwargs,
        )
        send.sender, send.timeout = sender or self.sender, 15.0
        send.lane = self.lanes.lane(LaneKey(project, endpoint), 1.0)
        return send

    def submit(self, count: int, endpoint: str = "a", project: str = "p", now: float = 1.0, **kwargs) -> list[Send]:
        sends = [self.send(endpoint, project, **kwargs) for _ in range(count)]
        for send in sends:
            self.assertTrue(self.lanes.submit(send, now))
        return sends

    def start(self, now: float = 1.0, places: int = 10**6) -> list[Send]:
        return list(self.lanes.start(places, now))

    def finish(self, sends, outcome=DELIVERED, now: float = 1.1) -> None:
        for send in sends:
            self.lanes.finish(send, outcome, now - send.started_at, now)

    def limit(self, endpoint: str = "a", project: str = "p") -> int:
        return self.lanes.lane(LaneKey(project, endpoint), 1.0).limit


class Adapting(LanesCase):
    def test_starts_small_and_grows_by_one_with_each_success_up_to_the_ceiling(self) -> None:
        self.submit(100)
        seen = []
        for _ in range(5):
            started = self.start()
            seen.append(len(started))
            self.finish(started)
        self.assertEqual(seen, [2, 4, 8, 8, 8])

    def test_a_failure_halves_and_never_goes_below_the_floor(self) -> None:
        self.submit(100)
        for _ in range(3):
            self.finish(self.start())
        self.assertEqual(self.limit(), 8)
        limits = []
        for _ in range(3):
            first, *rest = self.start()
            self.finish([first], FAILED)
            limits.append(self.limit())
            for send in rest:
                self.lanes.release(send)
        self.assertEqual(limits, [4, 2, 2])

    def test_what_is_about_one_subscription_leaves_the_lane_alone(self) -> None:
        self.submit(10)
        for outcome in (
            Outcome(OutcomeKind.RETRY, scope=Scope.SUBSCRIPTION),
            Outcome(OutcomeKind.THROTTLED),
            Outcome(OutcomeKind.REFUSED),
            Outcome(OutcomeKind.OURS),
            Outcome(OutcomeKind.GONE),
        ):
            self.finish(self.start()[:1], outcome)
            self.assertEqual(self.limit(), 2, outcome)

    def test_a_slow_success_undoes_the_halving_and_adds_one(self) -> None:
        self.submit(50)
        for _ in range(3):
            self.finish(self.start())
        self.assertEqual(self.limit(), 8)
        started = self.start(now=2.0)
        for send in started[1:]:
            self.lanes.release(send)
        self.assertEqual(self.lanes.under_way_too_long(3.0), started[:1])
        self.assertEqual(self.limit(), 4)
        self.finish(started[:1], now=3.5)
        self.assertEqual(self.limit(), 8)


class Order(LanesCase):
    def test_first_in_first_out_within_a_lane(self) -> None:
        sends = self.submit(10)
        order = []
        while started := self.start():
            order += started
            self.finish(started)
        self.assertEqual(order, sends)

    def test_round_robin_over_endpoints(self) -> None:
        self.submit(4, "a")
        self.submit(4, "b")
        self.assertEqual([send.lane.key.name for send in self.start()], ["a", "b", "a", "b"])

    def test_round_robin_over_projects_before_endpoints(self) -> None:
        for endpoint in "abcdefgh":
            self.submit(2, endpoint, "big")
        self.submit(2, "a", "small")
        self.assertEqual([send.lane.key.project for send in self.start()][:4], ["big", "small", "big", "small"])

    def test_the_same_endpoint_in_two_projects_is_two_lanes(self) -> None:
        self.submit(5, "a", "p")
        self.submit(5, "a", "q")
        self.assertEqual(len(self.start()), 4)

    def test_never_more_in_flight_than_allowed(self) -> None:
        for number in range(40):
            self.submit(2, f"e{number}")
        started = self.start()
        self.assertEqual(len(started), 30)
        self.assertEqual(self.start(), [])
        self.finish(started[:3])
        self.assertEqual(len(self.start()), 3)

    def test_places_are_a_bound_of_their_own(self) -> None:
        self.submit(2, "a")
        self.submit(2, "b")
        self.assertEqual(len(self.start(places=3)), 3)


class Slow(LanesCase):
    def test_all_slow_lanes_together_get_a_share_and_the_fast_ones_the_rest(self) -> None:
        for number in range(20):
            self.submit(4, f"hang{number}")
        hanging = self.start(now=1.0)
        self.assertEqual(len(hanging), 30)
        self.assertEqual(len(self.lanes.under_way_too_long(2.0)), 30)
        self.finish(hanging, FAILED, now=16.0)  # all time out
        again = self.start(now=16.0)
        self.assertEqual(len(again), 10, "a third of 30")
        self.submit(40, "healthy", now=16.0)
        for expected in (2, 4, 8, 8):
            started = self.start(now=16.0)
            self.assertEqual(len(started), expected)
            self.finish(started, now=16.1)

    def test_slow_lanes_are_served_behind_many_fast_ones(self) -> None:
        slow = self.submit(2, "slow")
        self.start(now=1.0)
        self.lanes.under_way_too_long(2.5)
        self.finish(slow, FAILED, now=3.0)
        for number in range(100):
            self.submit(2, f"fast{number}", now=3.0)
        self.submit(2, "slow", now=3.0)
        self.assertIn("slow", {send.lane.key.name for send in self.start(now=3.0)})

    def test_a_quick_success_makes_it_a_fast_one_again(self) -> None:
        (send,) = self.submit(1)
        self.start(now=1.0)
        self.lanes.under_way_too_long(2.5)
        self.assertTrue(send.lane.slow)
        self.finish([send], FAILED, now=3.0)
        (send,) = self.submit(1, now=3.0)
        self.start(now=3.0)
        self.finish([send], now=3.1)
        self.assertFalse(send.lane.slow)

    def test_each_send_is_reported_as_overdue_once(self) -> None:
        sends = self.submit(2)
        self.start(now=1.0)
        self.assertEqual(self.lanes.under_way_too_long(1.5), [])
        self.assertEqual(self.lanes.under_way_too_long(2.0), sends)
        self.assertEqual(self.lanes.under_way_too_long(9.0), [])

    def test_what_outstays_its_deadline_is_hung(self) -> None:
        sends = self.submit(2)
        for send in self.start(now=1.0):
            send.deadline = 16.0
        self.lanes.under_way_too_long(2.0)
        self.assertEqual(self.lanes.hung(20.9, 5.0), [])
        self.finish(sends[:1], now=20.9)
        self.assertEqual(self.lanes.hung(21.0, 5.0), sends[1:])


class Parking(LanesCase):
    def test_what_waits_too_long_is_taken_out_and_later_ones_are_parked_at_once(self) -> None:
        sends = self.submit(5)
        started = self.start()
        self.assertEqual(self.lanes.waited_too_long(1.9), [])
        self.assertEqual(self.lanes.waited_too_long(2.0), sends[2:])
        self.assertEqual(self.lanes.waiting, 0)
        self.assertFalse(self.lanes.submit(self.send(), 2.1))
        self.finish(started)
        self.assertEqual(self.start(), [])

    def test_other_lanes_are_not_touched(self) -> None:
        self.submit(5, "a")
        self.start()
        self.submit(1, "b", now=1.5)
        self.lanes.waited_too_long(2.0)
        self.assertEqual([send.lane.key.name for send in self.start(now=2.0)], ["b"])

    def test_parked_rows_come_first_while_there_are_any(self) -> None:
        key = LaneKey("p", "a")
        self.lanes.hold([key], until=30.0, now=1.0)
        self.assertFalse(self.lanes.submit(self.send(), 1.0))
        self.assertTrue(self.lanes.submit(self.send(from_parking=True), 1.0))
        self.lanes.emptied([key])
        self.assertTrue(self.lanes.submit(self.send(), 1.0))

    def test_room_is_asked_for_while_the_lane_could_send_more(self) -> None:
        key = LaneKey("p", "a")
        self.assertEqual(self.lanes.room(1.0, 100), {})
        self.lanes.hold([key], until=30.0, now=1.0)
        self.assertEqual(self.lanes.room(1.0, 100), {key: 4})
        self.assertEqual(self.lanes.room(1.0, 3), {key: 3})
        self.submit(2, from_parking=True)
        self.start()
        self.assertEqual(self.lanes.room(1.0, 100), {}, "full")
        self.assertEqual(self.lanes.room(30.0, 100), {}, "the lease of the lane has ended")

    def test_no_room_in_a_slow_lane_while_the_slow_share_is_used_up(self) -> None:
        for number in range(15):
            self.submit(2, f"hang{number}")
        hanging = self.start(now=1.0)
        self.lanes.under_way_too_long(2.0)
        key = LaneKey("p", "hang0")
        self.lanes.hold([key], until=30.0, now=2.0)
        self.finish(hanging[:1], FAILED, now=3.0)
        self.assertEqual(self.lanes.room(3.0, 100), {})

    def test_how_many_lanes_are_held_is_bounded(self) -> None:
        lanes = Lanes(Limits(max_lanes=3))
        lanes.hold([LaneKey("p", str(n)) for n in range(2)], until=30.0, now=1.0)
        self.assertEqual(lanes.holdable(), 1)

    def test_withdraw_takes_out_all_that_waits(self) -> None:
        sends = self.submit(5)
        started = self.start()
        self.assertEqual(self.lanes.withdraw(), sends[2:])
        self.finish(started)
        self.assertEqual(self.start(), [])
        self.assertEqual((self.lanes.waiting, self.lanes.in_flight), (0, 0))


class Full:
    full = True
    stopped = False
    send_many = give_up = None


class Senders(LanesCase):
    def test_a_full_sender_holds_up_its_own_lanes_only(self) -> None:
        driver = Full()
        blocked = self.submit(1, "driver", sender=driver)
        self.submit(1, "other")
        self.assertEqual([send.lane.key.name for send in self.start()], ["other"])
        driver.full = False
        self.assertEqual(self.start(), [], "it is looked at again when one of its sends has ended")
        self.lanes.unblock(driver)
        self.assertEqual(self.start(), blocked)

    def test_a_stopped_sender_gets_nothing(self) -> None:
        driver = Full()
        driver.stopped = True
        self.assertFalse(self.lanes.submit(self.send(sender=driver), 1.0))

    def test_idle_lanes_are_forgotten_and_busy_ones_kept(self) -> None:
        self.submit(1, "busy")
        self.start()
        lane = self.send("idle").lane
        lane.limit = 7
        self.lanes.forget_idle(400.0)
        self.assertEqual(self.limit("idle"), 2)
        self.assertEqual(self.lanes.lane(LaneKey("p", "busy"), 400.0).in_flight, 1)
