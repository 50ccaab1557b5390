"""Who may be sent to now."""

import unittest

from zaqar_notify.lanes import MOST_IDLE, MOST_STRIDE, Chosen, Lanes, Limits, OpenEntry, Send
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


class Yielding(LanesCase):
    """Sends of huge fan-outs."""

    def test_others_go_first(self) -> None:
        huge = self.submit(4, "a", yields=True) + self.submit(4, "b", yields=True)
        others = self.submit(2, "c") + self.submit(1, "d", "another")
        started = self.start(places=5)
        self.assertEqual(set(others), set(started[:3]))
        self.assertTrue(set(started[3:]) <= set(huge))
        self.assertEqual(self.lanes.yielding, 2)

    def test_only_so_many_of_them_start_at_once(self) -> None:
        for number in range(6):
            self.submit(1, f"a{number}", yields=True)
        others = self.submit(2, "b")
        started = list(self.lanes.start(100, 1.0, 3))
        self.assertEqual((others, 5), (started[:2], len(started)))
        self.assertEqual([], list(self.lanes.start(100, 1.0, 0)))
        self.assertEqual(3, len(list(self.lanes.start(100, 1.0, 3))))

    def test_they_are_counted_while_they_are_under_way_and_not_slow(self) -> None:
        self.submit(3, "a", yields=True)
        self.submit(1, "b")
        started = self.start()
        self.assertEqual(self.lanes.yielding, 2)
        self.finish(started[-1:])
        self.assertEqual(self.lanes.yielding, 1)
        self.lanes.under_way_too_long(5.0)
        self.assertEqual(self.lanes.yielding, 0)
        self.finish(started[:-1], now=6.0)
        self.assertEqual(self.lanes.yielding, 0)


class Lost(LanesCase):
    def test_a_worker_that_was_taken_for_dead_holds_nothing(self) -> None:
        keys = [LaneKey("p", "a"), LaneKey("p", "shut")]
        self.lanes.hold(keys, 31.0, 1.0, {keys[1]: 1})
        self.lanes.emptied(keys[1:])
        self.assertEqual({keys[0]}, set(self.lanes.room(2.0, 100)))
        self.lanes.lose()
        self.assertEqual({}, self.lanes.room(2.0, 100))
        self.assertFalse(self.lanes.submit(self.send("shut"), 2.0), "it is another's to probe")
        self.lanes.hold(keys[:1], 31.0, 2.0)
        self.assertEqual({keys[0]}, set(self.lanes.room(2.0, 100)))


class VeryMany(LanesCase):
    def test_those_that_are_not_used_are_forgotten_soon_and_step_by_step(self) -> None:
        for number in range(MOST_IDLE + 1):
            self.lanes.lane(LaneKey("p", f"e{number}"), 1.0)
        waiting = self.submit(1, "e7", now=1.0)[0]
        later = 1.0 + self.limits.parked_for
        steps = 1
        while not self.lanes.forget_idle(later):
            steps += 1
        self.assertGreater(steps, 2)
        self.assertLessEqual(len(self.lanes._lanes), MOST_IDLE)
        self.assertIs(waiting.lane, self.lanes._lanes[waiting.lane.key])

    def test_a_few_are_remembered_longer(self) -> None:
        self.submit(1)
        self.finish(self.start())
        self.assertTrue(self.lanes.forget_idle(1.0 + self.limits.parked_for))
        self.assertEqual(3, self.limit())


class Adapting(LanesCase):
    def test_starts_small_and_grows_by_one_with_each_success_up_to_the_ceiling(self) -> None:
        self.submit(100)
        seen = []
        for _ in range(5):
            started = self.start()
            seen.append(len(started))
            self.finish(started)
        self.assertEqual(seen, [2, 4, 8, 8, 8])

    def test_a_notifier_may_raise_the_ceiling_and_a_subscription_has_the_last_word(self) -> None:
        self.lanes.lane(LaneKey("p", "a"), 1.0, None, 20)
        self.submit(100)
        while started := self.start():
            self.finish(started)
        self.assertEqual(20, self.limit())
        self.lanes.lane(LaneKey("p", "a"), 1.0, Chosen(3), 20)
        self.assertEqual(3, self.limit())

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
        ):
            self.finish(self.start()[:1], outcome)
            self.assertEqual(self.limit(), 2, outcome)

    def test_bad_targets_are_no_reason_to_go_slower(self) -> None:
        self.submit(10)
        for outcome in (Outcome(OutcomeKind.GONE), Outcome(OutcomeKind.REJECTED, target=True)):
            before = self.limit()
            self.finish(self.start()[:1], outcome)
            self.assertEqual(before + 1, self.limit(), outcome)

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
        self.lanes.unblock(driver)
        self.assertEqual(self.start(), [])
        driver.full = False
        self.assertEqual(self.start(), blocked, "although none of its sends has ended")

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


class BreakerTest(LanesCase):
    limits = Limits(max_in_flight=100, lane_min=2, lane_max=20, breaker_wait=30.0, breaker_wait_max=100.0)
    key = LaneKey("p", "a")

    def attempt(self, outcome=FAILED, now: float = 1.0, **kwargs):
        (send,) = self.submit(1, now=now, **kwargs)
        self.assertEqual(self.start(now), [send])
        return self.lanes.finish(send, outcome, 0.1, now)

    def trip(self, now: float = 1.0):
        for _ in range(9):
            self.assertIsNone(self.attempt(now=now))
        turn = self.attempt(now=now)
        self.assertEqual((turn.key, turn.trips, turn.wait), (self.key, 1, 30.0))

    def hold(self, now: float, trips: int = 1) -> None:
        self.lanes.hold([self.key], now + 30, now, {self.key: trips})

    def test_ten_failures_shut_it_and_nothing_is_sent_there_any_more(self) -> None:
        self.trip()
        self.assertFalse(self.lanes.submit(self.send(), 1.0))
        self.assertFalse(self.lanes.submit(self.send(from_parking=True), 1.0))
        self.assertTrue(self.lanes.submit(self.send("b"), 1.0), "others go on")

    def test_seven_of_ten_shut_it_and_six_do_not(self) -> None:
        for outcomes, shut in (([DELIVERED] * 3 + [FAILED] * 7, True), ([DELIVERED] * 4 + [FAILED] * 6, False)):
            with self.subTest(shut=shut):
                self.setUp()
                turns = [self.attempt(outcome) for outcome in outcomes]
                self.assertEqual(turns[-1] is not None, shut)

    def test_only_the_last_five_minutes_count(self) -> None:
        for _ in range(9):
            self.attempt(now=1.0)
        self.assertIsNone(self.attempt(now=400.0))
        for _ in range(90):
            self.attempt(DELIVERED, now=800.0)
        for _ in range(9):
            self.assertIsNone(self.attempt(now=1200.0))
        self.assertIsNotNone(self.attempt(now=1200.0))

    def test_what_is_about_the_subscription_alone_does_not_count(self) -> None:
        for outcome in (
            Outcome(OutcomeKind.RETRY, scope=Scope.SUBSCRIPTION),
            Outcome(OutcomeKind.THROTTLED, after=1.0),
            Outcome(OutcomeKind.OURS),
            Outcome(OutcomeKind.AUTH),
            Outcome(OutcomeKind.REFUSED),
            Outcome(OutcomeKind.REJECTED),
            Outcome(OutcomeKind.GONE),
        ):
            with self.subTest(outcome.kind):
                self.setUp()
                self.assertEqual([self.attempt(outcome) for _ in range(30)], [None] * 30)

    def test_the_holder_sends_one_probe_and_an_answer_opens_it(self) -> None:
        self.trip()
        self.hold(31.0)
        self.assertEqual(self.lanes.room(31.0, 100), {self.key: 1})
        (probe,) = self.submit(1, now=31.0, from_parking=True)
        self.assertFalse(self.lanes.submit(self.send(from_parking=True), 31.0), "one at a time")
        self.assertEqual(self.start(31.0), [probe])
        self.assertFalse(self.lanes.submit(self.send(from_parking=True), 31.0), "one at a time")
        turn = self.lanes.finish(probe, Outcome(OutcomeKind.RETRY, scope=Scope.SUBSCRIPTION), 0.1, 31.1)
        self.assertEqual((turn.trips, turn.key), (0, self.key), "who says 404 is there")
        self.assertEqual(len(self.submit(2, now=31.2, from_parking=True)), 2)

    def test_what_says_nothing_about_the_endpoint_leaves_it_shut_for_the_next_probe(self) -> None:
        self.trip()
        self.hold(31.0)
        self.assertIsNone(self.attempt(Outcome(OutcomeKind.OURS), now=31.0, from_parking=True))
        self.assertEqual(self.attempt(DELIVERED, now=32.0, from_parking=True).trips, 0)

    def test_what_only_ends_is_taken_in_strides_also_while_it_is_shut(self) -> None:
        self.trip()
        self.hold(31.0)
        taken = []
        for _ in range(12):
            taken.append(self.lanes.room(31.0, 10_000)[self.key])
            self.lanes.pulled([self.key], [])
        self.assertEqual((taken[0], taken[-1]), (1, MOST_STRIDE))
        self.lanes.pulled([self.key], [self.key])
        self.assertEqual(self.lanes.room(31.0, 10_000), {self.key: 1}, "one of what can be sent: the probe")

    def test_parked_rows_that_another_worker_had_taken(self) -> None:
        self.lanes.pulled([self.key], [])
        self.assertEqual(self.lanes.room(31.0, 100), {})

    def test_each_probe_that_fails_doubles_the_wait_up_to_the_longest(self) -> None:
        self.trip()
        waits, now = [], 31.0
        for trips in (1, 2, 3, 4):
            self.hold(now, trips)
            turn = self.attempt(now=now, from_parking=True)
            self.assertEqual(turn.trips, trips + 1)
            waits.append(turn.wait)
            now += 200.0
        self.assertEqual(waits, [60.0, 100.0, 100.0, 100.0])

    def test_who_refuses_a_message_is_there(self) -> None:
        self.trip()
        self.hold(31.0)
        self.assertIsNone(self.attempt(Outcome(OutcomeKind.REFUSED), now=31.0, from_parking=True), "our guard says so")
        turn = self.attempt(Outcome(OutcomeKind.REFUSED, status=200), now=31.0, from_parking=True)
        self.assertEqual(turn.trips, 0)

    def test_an_empty_shut_lane_takes_no_place_and_is_probed_with_what_comes(self) -> None:
        self.trip()
        self.hold(31.0)
        before = self.lanes.holdable()
        self.lanes.emptied([self.key])
        self.assertEqual(self.lanes.holdable(), before + 1)
        self.assertEqual(self.attempt(DELIVERED, now=32.0).trips, 0)

    def test_a_refused_credential_pauses_its_lane_for_longer_each_time(self) -> None:
        sends = self.submit(2)
        self.start()
        lane = sends[0].lane
        first = self.lanes.refused(lane, 5.0, 300.0, 1.0)
        self.assertEqual((first.trips, first.wait), (1, 5.0))
        self.assertIsNone(self.lanes.refused(lane, 5.0, 300.0, 1.0), "one of those that were under way")
        self.assertFalse(self.lanes.submit(self.send(), 1.0))
        self.hold(6.0)
        again = self.lanes.refused(lane, 5.0, 300.0, 6.0)
        self.assertEqual((again.trips, again.wait), (2, 10.0))

    def test_sends_of_before_the_trip_change_nothing(self) -> None:
        late = self.submit(2)
        self.start()
        for _ in range(8):
            self.lanes._lanes[self.key].count(True, 0)
        turns = [self.lanes.finish(send, FAILED, 0.1, 1.0) for send in late]
        self.assertEqual([turn and turn.trips for turn in turns], [None, 1])
        more = self.send()
        self.lanes._lanes[self.key].in_flight += 1
        self.lanes.in_flight += 1
        self.assertIsNone(self.lanes.finish(more, FAILED, 0.1, 1.1))
        self.assertFalse(self.lanes.submit(self.send(), 2.0))

    def test_what_waits_when_it_is_shut_is_taken_out(self) -> None:
        waiting = self.submit(5)
        self.lanes.pause(self.lanes._lanes[self.key], 10.0)
        self.assertEqual(self.lanes.evict(self.key), waiting)
        self.assertEqual((self.lanes.waiting, self.start(2.0), self.lanes.waited_too_long(100.0)), (0, [], []))
        self.assertEqual(self.lanes.withdraw(), [])

    def test_the_other_workers_breakers(self) -> None:
        self.lanes.shut({self.key: 2}, 1.0)
        self.assertFalse(self.lanes.submit(self.send(), 1.0))
        self.lanes.forget_idle(1e6)
        self.assertFalse(self.lanes.submit(self.send(), 1e6), "it stays shut, however long nothing goes there")
        self.lanes.shut({}, 1e6)
        self.assertTrue(self.lanes.submit(self.send(), 1e6))

    def test_breakers_of_lanes_that_nothing_goes_to_cost_no_memory_here(self) -> None:
        breakers = {LaneKey("p", f"dead-{number}"): 1 for number in range(1000)}
        self.lanes.shut(breakers, 1.0)
        self.assertEqual(len(self.lanes._lanes), 0)
        self.assertFalse(self.lanes.submit(self.send("dead-7"), 1.0))
        self.assertTrue(self.lanes.submit(self.send("other"), 1.0))
        self.lanes.forget_idle(1e6)
        self.assertNotIn(LaneKey("p", "dead-7"), self.lanes._lanes)
        self.assertFalse(self.lanes.submit(self.send("dead-7"), 1e6))

    def test_a_breaker_of_its_own_that_the_list_does_not_have_yet_is_not_forgotten(self) -> None:
        self.trip()
        self.lanes.forget_idle(1e6)
        self.assertFalse(self.lanes.submit(self.send(), 1e6))

    def test_an_old_list_does_not_shut_what_this_worker_probes(self) -> None:
        self.lanes.shut({self.key: 1}, 1.0)
        self.hold(31.0)
        self.assertEqual(self.attempt(DELIVERED, now=31.0, from_parking=True).trips, 0)
        self.lanes.shut({self.key: 1}, 31.5)
        self.assertTrue(self.lanes.submit(self.send(from_parking=True), 31.5))

    def test_it_is_opened_slowly(self) -> None:
        """10 sends in the first second, doubling every 10 s, and as it likes after a minute."""
        self.trip()
        self.hold(31.0)
        self.attempt(DELIVERED, now=31.0, from_parking=True)
        lane = self.lanes._lanes[self.key]
        for since, least, most in ((0.0, 9, 12), (10.0, 19, 24), (30.0, 75, 95), (61.0, 1000, 1000)):
            started = 0
            lane.limit = 20
            for step in range(1000):
                now = 31.1 + since + step / 1000
                if not lane.waiting:
                    self.submit(1, now=now, from_parking=True)
                for send in self.start(now):
                    started += 1
                    self.lanes.finish(send, DELIVERED, 0.0, now)
            self.assertTrue(least <= started <= most, (since, started))


class ChosenTest(LanesCase):
    def choose(self, **limits) -> Send:
        send = self.send(from_parking=True)
        send.lane = self.lanes.lane(LaneKey("p", "a#1"), 1.0, Chosen(**limits))
        if not send.lane.held_until:
            self.lanes.hold([send.lane.key], 1000.0, 1.0)
        return send

    def test_only_who_holds_the_lane_sends(self) -> None:
        send = self.choose(in_flight=1)
        send.from_parking = False
        self.assertFalse(self.lanes.submit(send, 1.0))
        send.from_parking = True
        self.assertFalse(self.lanes.submit(send, 1001.0), "what another worker has given back")
        self.assertTrue(self.lanes.submit(send, 999.0))

    def test_it_is_not_let_go_while_it_is_busy_or_has_to_wait(self) -> None:
        send = self.choose(in_flight=5, rate=0.1)
        key = send.lane.key
        self.assertEqual(self.lanes.room(1.0, 100), {key: 1})
        self.lanes.submit(send, 1.0)
        self.assertEqual(self.lanes.room(1.0, 100), {})
        self.finish(self.start(1.0), now=2.0)
        self.assertEqual(self.lanes.room(5.0, 100), {}, "the next may go after 10 s")
        self.assertEqual(self.lanes.room(12.0, 100), {key: 1})
        send.lane.next_at = 2000.0
        self.assertEqual(self.lanes.room(991.0, 100), {key: 0}, "the lease is renewed")
        self.lanes.renew([key], 2000.0)
        self.assertEqual(self.lanes.room(1500.0, 100), {})

    def test_in_flight(self) -> None:
        sends = [self.choose(in_flight=1) for _ in range(3)]
        for send in sends:
            self.assertTrue(self.lanes.submit(send, 1.0))
        for send in sends:
            self.assertEqual(self.start(), [send])
            self.finish([send], FAILED if send is sends[0] else DELIVERED)

    def test_rate(self) -> None:
        started = 0
        for step in range(2000):
            now = 100.0 + step / 1000
            send = self.choose(rate=50.0)
            if not send.lane.waiting:
                self.lanes.submit(send, now)
            for one in self.start(now):
                started += 1
                self.lanes.finish(one, DELIVERED, 0.0, now)
        self.assertTrue(98 <= started <= 106, started)

    def test_no_more_is_taken_than_can_be_sent_soon(self) -> None:
        send = self.choose(rate=4.0)
        self.lanes.hold([send.lane.key], 100.0, 1.0)
        self.assertEqual(self.lanes.room(1.0, 100), {send.lane.key: 2})

    def test_lanes_without_rows_are_not_asked_all_the_time(self) -> None:
        self.lanes.hold([LaneKey("p", "a")], 100.0, 1.0)
        self.lanes.bare([LaneKey("p", "a")], 2.0)
        self.assertEqual(self.lanes.room(1.5, 100), {})
        self.assertEqual(set(self.lanes.room(2.5, 100)), {LaneKey("p", "a")})

    def test_who_was_served_stands_behind(self) -> None:
        keys = [LaneKey("p", name) for name in "abc"]
        self.lanes.hold(keys, 100.0, 1.0)
        self.assertEqual([next(iter(self.lanes.room(1.0, 1))) for _ in range(4)], [keys[0], keys[1], keys[2], keys[0]])
