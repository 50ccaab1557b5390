"""What keeps deliveries, endpoints and projects from harming one another: breakers, strikes, alerts, fair taking, depths."""

from __future__ import annotations

import collections
import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from tests.storage.contract import LANE, LEASE, NOW, StorageCase
from zaqar_notify.model import Disabled, Draft, LaneKey, OutcomeKind, State, Subscription
from zaqar_notify.storage.base import Alert, Breaker, Closing, Entry, Failure, Settlement, Taken

PAUSE = 60.0


class BreakerConformance(StorageCase):
    def park_some(self, count: int = 3) -> None:
        self.mine = self.subscribe()
        self.worker = self.storage.join()
        self.parked = self.publish(count, ttl=5000)
        self.park(self.worker, self.parked, self.mine.id)

    def trip(self, trips: int = 1, lane: LaneKey = LANE, pause: float = PAUSE) -> Breaker:
        breaker = Breaker(lane, trips, self.clock.now + pause)
        self.assertEqual(0, self.storage.settle([], [], [breaker]))
        return breaker

    def mend(self, lane: LaneKey = LANE) -> None:
        self.assertEqual(0, self.storage.settle([], [], [Breaker(lane, 0, 0.0)]))

    def opened(self) -> list[tuple[LaneKey, int]]:
        """As another process sees it."""
        return [(one.lane, one.trips) for one in self.another().breakers()]

    def message_ids(self, taken: Taken) -> list[str]:
        return [row.message_id for row in taken.rows]

    def test_none_is_open_at_first(self) -> None:
        self.park_some()
        self.assertEqual([], self.storage.breakers())
        taken = self.take(self.worker, lanes=5)
        self.assertEqual(([LANE], {}), (list(taken.lanes), dict(taken.probes)))
        self.assertEqual([], self.storage.breakers())

    def test_an_open_one_shuts_the_lane_until_it_may_be_probed(self) -> None:
        self.park_some()
        other = self.storage.join()
        self.assertEqual([LANE], list(self.take(self.worker, lanes=5).lanes))
        breaker = self.trip(trips=3)
        for now in (self.clock.now, breaker.until - 0.1):
            self.clock.now = now
            nothing = self.take(self.worker, lanes=5, parked={LANE: 5})
            self.assertEqual(([], [], []), (self.message_ids(nothing), list(nothing.lanes), list(nothing.emptied)))
            self.assertEqual([], list(self.take(other, lanes=5).lanes))
            self.assertEqual(State.PARKED, self.state(self.parked[0], self.mine.id))
        self.assertEqual([breaker], self.storage.breakers())
        self.clock.now = breaker.until
        taken = self.take(other, lanes=5)
        self.assertEqual(([LANE], {LANE: 3}), (list(taken.lanes), dict(taken.probes)))
        self.assertEqual([(LANE, 3)], self.opened())
        self.assertEqual(self.parked[:1], self.message_ids(self.take(other, parked={LANE: 1})))
        self.assertEqual([], self.message_ids(self.take(self.worker, parked={LANE: 5})))

    def test_only_one_probes(self) -> None:
        self.park_some()
        self.clock.now = self.trip().until
        workers = [self.storage.join() for _ in range(3)]
        self.assertEqual([1, 0, 0], [len(self.take(worker, lanes=5).probes) for worker in workers])
        self.clock.now += LEASE
        self.assertEqual([1, 0, 0], [len(self.take(worker, lanes=5).probes) for worker in workers[::-1]])

    def test_closing_keeps_the_lease(self) -> None:
        self.park_some()
        self.clock.now = self.trip().until
        self.take(self.worker, lanes=5)
        self.take(self.worker, parked={LANE: 1})
        self.mend()
        self.assertEqual([], self.opened())
        self.assertEqual([], list(self.take(self.storage.join(), lanes=5).lanes))
        taken = self.take(self.worker, parked={LANE: 5})
        self.assertEqual((self.parked[1:], []), (self.message_ids(taken), list(taken.emptied)))
        self.assertEqual([LANE], list(self.take(self.worker, parked={LANE: 5}).emptied))
        self.assertEqual([], self.opened())

    def test_once_closed_a_lane_is_like_others(self) -> None:
        self.park_some()
        self.clock.now = self.trip().until
        self.take(self.worker, lanes=5)
        self.mend()
        self.clock.now += LEASE
        taken = self.take(self.storage.join(), lanes=5)
        self.assertEqual(([LANE], {}), (list(taken.lanes), dict(taken.probes)))

    def test_a_probe_that_fails_opens_it_for_longer(self) -> None:
        self.park_some()
        self.clock.now = self.trip(trips=1).until
        self.take(self.worker, lanes=5)
        taken = self.take(self.worker, parked={LANE: 1})
        again = Breaker(LANE, 2, self.clock.now + 2 * PAUSE)
        back = Settlement(self.parked[0], self.mine.id, taken.token, from_row=True, log=self.failed(), park=LANE, lines=1)
        self.assertEqual(0, self.storage.settle([back], [], [again]))
        self.assertEqual([again], self.storage.breakers())
        self.assertEqual([], self.message_ids(self.take(self.worker, lanes=5, parked={LANE: 5})))
        self.clock.now = again.until - 0.1
        self.assertEqual([], list(self.take(self.worker, lanes=5).lanes))
        self.clock.now = again.until
        self.assertEqual({LANE: 2}, dict(self.take(self.worker, lanes=5).probes))
        self.assertEqual(self.parked, self.message_ids(self.take(self.worker, parked={LANE: 5})))

    def test_it_is_set_after_all_else(self) -> None:
        mine = self.subscribe()
        message_id = self.publish(ttl=5000)[0]
        worker = self.storage.join()
        token = self.take(worker).token
        parks = Settlement(message_id, mine.id, token, from_row=False, log=self.failed(), park=LANE, lines=1)
        breaker = Breaker(LANE, 1, self.clock.now + PAUSE)
        self.assertEqual(0, self.storage.settle([parks], [Closing(message_id, token)], [breaker]))
        self.assertEqual([], list(self.take(worker, lanes=5).lanes))
        self.clock.now = breaker.until
        self.assertEqual({LANE: 1}, dict(self.take(worker, lanes=5).probes))
        self.assertEqual([message_id], self.message_ids(self.take(worker, parked={LANE: 5})))

    def test_it_is_set_also_when_settlements_have_lost_their_lease(self) -> None:
        self.park_some()
        late = Settlement(self.parked[0], self.mine.id, 12345, from_row=True, log=self.delivered())
        self.assertEqual(1, self.storage.settle([late], [], [Breaker(LANE, 1, self.clock.now + PAUSE)]))
        self.assertEqual([(LANE, 1)], self.opened())

    def test_what_is_parked_later_waits_too(self) -> None:
        breaker = self.trip()
        self.park_some()
        self.assertEqual([], list(self.take(self.worker, lanes=5).lanes))
        self.clock.now = breaker.until
        self.assertEqual({LANE: 1}, dict(self.take(self.worker, lanes=5).probes))
        self.assertEqual(self.parked, self.message_ids(self.take(self.worker, parked={LANE: 5})))

    def test_an_empty_lane_stays_until_its_breaker_closes(self) -> None:
        self.clock.now = self.trip(trips=2).until
        worker = self.storage.join()
        for _ in range(2):
            self.assertEqual({LANE: 2}, dict(self.take(worker, lanes=5).probes))
            taken = self.take(worker, parked={LANE: 5})
            self.assertEqual(([], [LANE]), (self.message_ids(taken), list(taken.emptied)), "it holds no parked row")
            self.assertEqual([(LANE, 2)], self.opened())
            self.clock.now += LEASE
        self.take(worker, lanes=5)
        self.mend()
        self.assertEqual([LANE], list(self.take(worker, parked={LANE: 5}).emptied))
        self.clock.now += LEASE
        self.assertEqual([], list(self.take(worker, lanes=5).lanes))

    def test_the_last_row_leaves_an_open_lane(self) -> None:
        self.park_some(1)
        self.clock.now = self.trip().until
        self.take(self.worker, lanes=5)
        self.assertEqual(self.parked, self.message_ids(self.take(self.worker, parked={LANE: 5})))
        self.assertEqual([(LANE, 1)], self.opened())
        self.clock.now += LEASE
        self.assertEqual({LANE: 1}, dict(self.take(self.worker, lanes=5).probes))

    def test_a_worker_that_leaves_hands_the_probe_on(self) -> None:
        self.park_some()
        self.clock.now = self.trip(trips=4).until
        self.take(self.worker, lanes=5)
        self.storage.leave(self.worker)
        other = self.storage.join()
        taken = self.take(other, lanes=5)
        self.assertEqual(([LANE], {LANE: 4}), (list(taken.lanes), dict(taken.probes)))

    def test_a_worker_that_leaves_opens_nothing(self) -> None:
        self.park_some()
        self.take(self.worker, lanes=5)
        breaker = self.trip()
        self.storage.leave(self.worker)
        other = self.storage.join()
        self.assertEqual([], list(self.take(other, lanes=5).lanes))
        self.assertEqual([breaker], self.storage.breakers())

    def test_rows_in_flight_when_it_opens_are_settled(self) -> None:
        self.park_some()
        self.take(self.worker, lanes=5)
        taken = self.take(self.worker, parked={LANE: 1})
        self.trip()
        done = Settlement(self.parked[0], self.mine.id, taken.token, from_row=True, log=self.delivered())
        self.assertEqual(0, self.storage.settle([done]))
        self.assertEqual(State.DELIVERED, self.state(self.parked[0], self.mine.id))

    def test_closing_what_is_not_open(self) -> None:
        self.mend()
        self.assertEqual([], self.opened())
        self.assertEqual([], list(self.take(self.storage.join(), lanes=5).lanes))
        self.park_some()
        self.mend()
        self.assertEqual([LANE], list(self.take(self.worker, lanes=5).lanes))

    def test_each_lane_has_its_own(self) -> None:
        lanes = [LANE, LaneKey("p", "http://other:80"), LaneKey("o", LANE.name)]
        for trips, lane in enumerate(lanes, 1):
            self.trip(trips, lane, pause=PAUSE * trips)
        self.assertEqual({lane: trips for trips, lane in enumerate(lanes, 1)}, dict(self.opened()))
        self.mend(lanes[1])
        self.assertEqual({lanes[0]: 1, lanes[2]: 3}, dict(self.opened()))
        self.clock.now += PAUSE
        worker = self.storage.join()
        taken = self.take(worker, lanes=5)
        self.assertEqual({lanes[0]: 1}, dict(taken.probes))
        self.assertNotIn(lanes[2], taken.lanes)


class SettlingCase(StorageCase):
    def settle_one(self, subscription: Subscription, **fields: Any) -> str:
        """A message of its own, whose delivery comes to this. Returns its id."""
        message_id = self.storage.publish(subscription.project, subscription.queue, [Draft(b"1", 100_000)])[0]
        token = self.take(self.storage.join()).token
        settlement = Settlement(message_id, subscription.id, token, from_row=False, **{"log": self.dead(), **fields})
        self.assertEqual(0, self.storage.settle([settlement], [Closing(message_id, token)]))
        return message_id

    def dead(self) -> Any:
        return self.attempt(1, State.DEAD, OutcomeKind.REJECTED, status=404)

    def posted(self, queue: str = "alerts", project: str = "p") -> list[Any]:
        return [message.body for message in self.storage.list_messages(project, queue, None, 100)]

    def alert(self, cause: str = "dead", body: bytes = b"1", **fields: Any) -> Alert:
        return Alert(cause, fields.pop("queue", "alerts"), Draft(body, 100_000), **fields)


class FailureConformance(SettlingCase):
    def failure(self, strike: bool = False, **fields: Any) -> Failure:
        values = {"at": self.clock.now, "most_strikes": 3, "longest": 1000.0, **fields}
        return Failure(strike=strike, reason_strikes="wrong", reason_longest="silent", **values)

    def fail_once(self, strike: bool = False, **fields: Any) -> None:
        self.settle_one(self.mine, failure=self.failure(strike, **fields))

    def now_is(self, of: Subscription | None = None) -> Subscription:
        """As everyone sees it."""
        asked = (of or self.mine).id
        found = self.another().get_subscription("p", "q", asked)
        assert found
        self.assertEqual({asked: found}, self.storage.load([], [asked]).subscriptions)
        self.assertIn(found, self.storage.list_subscriptions("p", "q", None, 10))
        return found

    def record(self) -> tuple[int, float | None]:
        return self.now_is().strikes, self.now_is().failing_since

    def test_a_new_subscription_has_none(self) -> None:
        self.mine = self.subscribe()
        self.assertEqual((0, None), self.record())
        self.settle_one(self.mine)
        self.assertEqual((0, None), self.record())

    def test_so_many_strikes_in_a_row_disable(self) -> None:
        self.mine = self.subscribe()
        since = self.clock.now
        for strikes in (1, 2):
            self.fail_once(strike=True)
            self.assertEqual((strikes, since, None), (*self.record(), self.now_is().disabled))
            self.clock.now += 10
        self.fail_once(strike=True)
        self.assertEqual((3, since), self.record())
        self.assertEqual(Disabled("wrong", self.clock.now, "owner"), self.now_is().disabled)

    def test_a_failure_that_is_no_strike_ends_the_row(self) -> None:
        self.mine = self.subscribe()
        since = self.clock.now
        for strike, strikes in ((True, 1), (True, 2), (False, 0), (True, 1), (True, 2)):
            self.fail_once(strike=strike)
            self.assertEqual((strikes, since, None), (*self.record(), self.now_is().disabled))
            self.clock.now += 10
        self.fail_once(strike=True)
        self.assertIsNotNone(self.now_is().disabled)

    def test_a_success_forgets(self) -> None:
        self.mine = self.subscribe()
        self.fail_once(strike=True)
        self.fail_once(strike=True)
        self.settle_one(self.mine, log=self.delivered(), recovered=True)
        self.assertEqual((0, None), self.record())
        self.clock.now += 5000
        since = self.clock.now
        self.fail_once(strike=True)
        self.assertEqual((1, since, None), (*self.record(), self.now_is().disabled))

    def test_what_says_nothing_changes_nothing(self) -> None:
        self.mine = self.subscribe()
        since = self.clock.now
        self.fail_once(strike=True)
        self.clock.now += 10
        self.settle_one(self.mine, log=self.attempt(1, State.DEAD, OutcomeKind.OURS))
        self.assertEqual((1, since), self.record())

    def test_nothing_but_failures_for_so_long_disables(self) -> None:
        self.mine = self.subscribe()
        since = self.clock.now
        for after in (0, 500, 999.9):
            self.clock.now = since + after
            self.fail_once()
            self.assertEqual((0, since, None), (*self.record(), self.now_is().disabled))
        self.clock.now = since + 1000
        self.fail_once()
        self.assertEqual(Disabled("silent", since + 1000, "owner"), self.now_is().disabled)

    def test_it_is_told_once(self) -> None:
        self.mine = self.subscribe()
        given = self.publish(6, ttl=5000)
        token = self.take(self.storage.join()).token
        settlements = []
        for number, message_id in enumerate(given):
            failure = self.failure(True, at=NOW + number, alert=self.alert(f"off {number}", b'"%d"' % number))
            one = Settlement(message_id, self.mine.id, token, from_row=False, log=self.dead(), failure=failure)
            settlements.append(one)
        self.assertEqual(0, self.storage.settle(settlements))
        self.assertEqual(Disabled("wrong", NOW + 2, "owner"), self.now_is().disabled)
        self.assertEqual(["2"], self.posted())
        self.clock.now += 5000
        self.fail_once(strike=True, alert=self.alert("off", b'"later"'))
        self.assertEqual(Disabled("wrong", NOW + 2, "owner"), self.now_is().disabled)
        self.assertEqual(["2"], self.posted())

    def test_order_counts_within_one_settle(self) -> None:
        self.mine = self.subscribe()
        given = self.publish(7, ttl=5000)
        token = self.take(self.storage.join()).token
        kinds: list[dict[str, Any]] = [{"failure": self.failure(True)}] * 2 + [{"recovered": True, "log": self.delivered()}]
        kinds += [{"failure": self.failure(True)}, {"failure": self.failure()}, {"failure": self.failure(True)}, {}]
        settlements = [
            Settlement(message_id, self.mine.id, token, from_row=False, **{"log": self.dead(), **kind})
            for message_id, kind in zip(given, kinds, strict=True)
        ]
        self.assertEqual(0, self.storage.settle(settlements))
        self.assertEqual((1, self.clock.now, None), (*self.record(), self.now_is().disabled))

    def test_who_was_disabled_before_stays_so(self) -> None:
        self.mine = self.subscribe()
        why = Disabled("by hand", self.clock.now, "operator")
        self.storage.update_subscription("p", "q", self.mine.id, {"disabled": why})
        for _ in range(4):
            self.fail_once(strike=True, alert=self.alert())
        self.assertEqual(why, self.now_is().disabled)
        self.assertEqual([], self.posted())

    def test_another_reason_of_the_same_attempt_comes_first(self) -> None:
        self.mine = self.subscribe()
        gone = Disabled("410 Gone", self.clock.now)
        failure = self.failure(True, most_strikes=1, alert=self.alert())
        self.settle_one(self.mine, disable=gone, failure=failure)
        self.assertEqual(gone, self.now_is().disabled)
        self.assertEqual([], self.posted())

    def test_enabling_resets(self) -> None:
        self.mine = self.subscribe()
        for _ in range(3):
            self.fail_once(strike=True)
        enabled = self.storage.update_subscription("p", "q", self.mine.id, {"disabled": None})
        self.assertEqual((0, None, None), (enabled.strikes, enabled.failing_since, enabled.disabled))
        self.assertEqual(enabled, self.now_is())
        self.clock.now += 5000
        since = self.clock.now
        for strikes in (1, 2):
            self.fail_once(strike=True)
            self.assertEqual((strikes, since, None), (*self.record(), self.now_is().disabled))

    def test_other_changes_reset_nothing(self) -> None:
        self.mine = self.subscribe()
        self.fail_once(strike=True)
        before = self.record()
        self.storage.update_subscription("p", "q", self.mine.id, {"ttl": 600, "options": {"a": 1}})
        self.assertEqual(before, self.record())

    def test_whoever_lost_its_lease_fails_nothing(self) -> None:
        self.mine = self.subscribe()
        message_id = self.publish(ttl=5000)[0]
        token = self.take(self.storage.join()).token
        self.clock.now += LEASE
        self.take(self.storage.join())
        fields = {"failure": self.failure(True, most_strikes=1, alert=self.alert()), "alerts": (self.alert("other"),)}
        late = Settlement(message_id, self.mine.id, token, from_row=False, log=self.dead(), **fields)
        self.assertEqual(1, self.storage.settle([late]))
        self.assertEqual((0, None, None), (*self.record(), self.now_is().disabled))
        self.assertEqual([], self.posted())

    def test_a_deleted_subscription_is_not_told_about(self) -> None:
        self.mine = self.subscribe()
        message_id = self.publish(ttl=5000)[0]
        token = self.take(self.storage.join()).token
        self.storage.delete_subscription("p", "q", self.mine.id)
        failure = self.failure(True, most_strikes=1, alert=self.alert())
        end = Settlement(message_id, self.mine.id, token, from_row=False, log=self.dead(), failure=failure)
        self.assertEqual(0, self.storage.settle([end]))
        self.assertEqual([], self.posted())
        again = self.subscribe()
        self.assertEqual((0, None), (again.strikes, again.failing_since))

    def test_each_subscription_has_its_own(self) -> None:
        self.mine = self.subscribe()
        other = self.subscribe("http://b/")
        for _ in range(2):
            self.fail_once(strike=True)
            self.settle_one(other, failure=self.failure(True))
        self.fail_once(strike=True)
        self.assertIsNotNone(self.now_is().disabled)
        self.assertEqual((2, None), (self.now_is(other).strikes, self.now_is(other).disabled))

    def test_a_failure_that_leaves_a_row(self) -> None:
        self.mine = self.subscribe()
        since = self.clock.now
        message_id = self.settle_one(
            self.mine, log=self.failed(), due_at=since + 9, attempts=1, lines=1, failure=self.failure(True)
        )
        worker = self.storage.join()
        for number in (2, 3):
            self.clock.now += 10
            token = self.take(worker).token
            again = Settlement(
                message_id,
                self.mine.id,
                token,
                from_row=True,
                log=self.failed(number),
                due_at=self.clock.now + 9,
                attempts=number,
                lines=number,
                failure=self.failure(True),
            )
            self.assertEqual(0, self.storage.settle([again]))
        self.assertEqual((3, since), self.record())
        self.assertEqual(Disabled("wrong", self.clock.now, "owner"), self.now_is().disabled)


class AlertConformance(SettlingCase):
    def tell(self, *alerts: Alert, of: Subscription | None = None) -> None:
        self.settle_one(of or self.mine, alerts=alerts)

    def test_it_is_a_message_like_others(self) -> None:
        self.mine = self.subscribe()
        draft = Draft(b'{"event": "dead"}', 60, {"kind": "alert"})
        self.tell(Alert("dead", "new", draft))
        self.assertIsNotNone(self.storage.get_queue("p", "new"))
        message = self.storage.list_messages("p", "new", None, 10)[0]
        self.assertEqual(({"event": "dead"}, 60, {"kind": "alert"}), (message.body, message.ttl, message.attributes))
        entries = self.take(self.storage.join()).entries
        self.assertEqual([Entry(message.id, None, 1)], entries, "it is sent to who subscribes to the queue")

    def test_one_for_the_same_cause_in_a_while(self) -> None:
        self.mine = self.subscribe()
        self.tell(self.alert(body=b"1", every=600.0))
        told_at = self.clock.now
        for after in (0, 1, 599.9):
            self.clock.now = told_at + after
            self.tell(self.alert(body=b"2", every=600.0))
            self.assertEqual([1], self.posted())
        self.clock.now = told_at + 600
        self.tell(self.alert(body=b"3", every=600.0))
        self.assertEqual([1, 3], self.posted())
        self.clock.now += 599
        self.tell(self.alert(body=b"4", every=600.0))
        self.assertEqual([1, 3], self.posted(), "it counts from the last one")

    def test_one_within_one_settle(self) -> None:
        self.mine = self.subscribe()
        self.tell(self.alert(body=b"1"), self.alert(body=b"2"), self.alert("other", body=b"3"))
        self.assertEqual([1, 3], self.posted())

    def test_other_causes_and_projects_have_their_own(self) -> None:
        self.mine = self.subscribe()
        theirs = self.subscribe(project="o")
        self.tell(self.alert("a", body=b"1"))
        self.tell(self.alert("b", body=b"2"))
        self.tell(self.alert("a", body=b"3"), of=theirs)
        self.assertEqual(([1, 2], [3]), (self.posted(), self.posted(project="o")))

    def test_another_queue_is_no_other_cause(self) -> None:
        self.mine = self.subscribe()
        self.tell(self.alert("a", body=b"1"))
        self.tell(self.alert("a", body=b"2", queue="elsewhere"))
        self.assertEqual(([1], []), (self.posted(), self.posted("elsewhere")))

    def test_one_that_comes_of_a_failure_counts_too(self) -> None:
        self.mine = self.subscribe()
        self.tell(self.alert("off", body=b"1"))
        failure = Failure(self.clock.now, True, 1, 1000.0, "wrong", "silent", self.alert("off", body=b"2"))
        self.settle_one(self.mine, failure=failure)
        self.assertIsNotNone(self.storage.get_subscription("p", "q", self.mine.id).disabled)
        self.assertEqual([1], self.posted())

    def test_everyone_knows_what_was_told(self) -> None:
        self.mine = self.subscribe()
        self.tell(self.alert(body=b"1"))
        self.storage = self.another()
        self.tell(self.alert(body=b"2"))
        self.assertEqual([1], self.posted())


class FairnessConformance(StorageCase):
    """A project with much to do delays no other."""

    @functools.cached_property
    def taker(self) -> int:
        return self.storage.join()

    @functools.cached_property
    def project_of(self) -> dict[str, str]:
        """By message id."""
        return {}

    def post_to(self, project: str, count: int) -> list[str]:
        given = self.publish(count, project=project, ttl=100_000)
        self.project_of.update(dict.fromkeys(given, project))
        return given

    def leave_rows(self, project: str, count: int, *, park: bool = False) -> list[str]:
        """Rows that come due one after the other, the first one now; or one in each of ``count`` lanes."""
        mine = self.subscribe(project=project)
        given = self.post_to(project, count)
        token = self.take(self.taker, entries=count, rows=0).token
        kinds: Iterable[dict[str, Any]] = ({"due_at": self.clock.now + number / 1000} for number in range(count))
        if park:
            kinds = ({"park": LaneKey(project, f"http://{number}:80")} for number in range(count))
        rows = [Settlement(one, mine.id, token, from_row=False, **kind) for one, kind in zip(given, kinds, strict=False)]
        self.assertEqual(0, self.storage.settle(rows, [Closing(one, token) for one in given]))
        return given

    def take_entries(self, most: int) -> list[str]:
        return [entry.message_id for entry in self.take(self.taker, entries=most, rows=0).entries]

    def take_rows(self, most: int) -> list[str]:
        return [row.message_id for row in self.take(self.taker, entries=0, rows=most).rows]

    def shares(self, taken: Iterable[str]) -> dict[str, int]:
        return dict(collections.Counter(self.project_of[one] for one in taken))

    def drain(self, take: Any, most: int) -> list[str]:
        found: list[str] = []
        while some := take(most):
            self.assertTrue(len(some) <= most)
            found += some
        self.assertEqual(len(set(found)), len(found), "each once")
        return found

    def in_order(self, project: str, found: Sequence[str]) -> list[str]:
        return [one for one in found if self.project_of[one] == project]

    def test_one_entry_behind_many(self) -> None:
        many, one = self.post_to("big", 500), self.post_to("small", 1)
        first = self.take_entries(10)
        self.assertEqual({"big": 9, "small": 1}, self.shares(first))
        self.assertEqual(many[:9] + one, first)
        self.assertEqual(many[9:], self.in_order("big", self.drain(self.take_entries, 100)), "oldest first")

    def test_one_row_behind_many(self) -> None:
        many, one = self.leave_rows("big", 500), self.leave_rows("small", 1)
        self.clock.now += 10
        first = self.take_rows(10)
        self.assertEqual({"big": 9, "small": 1}, self.shares(first))
        self.assertEqual(sorted(many[:9] + one), sorted(first))
        rest = self.drain(self.take_rows, 50)
        self.assertEqual(many[9:], rest, "what was due first comes first")

    def test_one_lane_behind_many(self) -> None:
        self.leave_rows("big", 40, park=True)
        self.leave_rows("small", 1, park=True)
        first = self.take(self.taker, lanes=5).lanes
        self.assertEqual({"big": 4, "small": 1}, dict(collections.Counter(lane.project for lane in first)))
        rest = [self.take(self.taker, lanes=10).lanes for _ in range(5)]
        self.assertEqual([10, 10, 10, 6, 0], [len(lanes) for lanes in rest])
        self.assertEqual(41, len({*first, *itertools.chain(*rest)}), "each once")

    def test_one_that_comes_later(self) -> None:
        self.post_to("big", 100)
        self.take_entries(10)
        late = self.post_to("small", 1)
        self.assertIn(late[0], self.take_entries(10))

    def test_equal_shares(self) -> None:
        for project in "abc":
            self.post_to(project, 30)
        for _ in range(4):
            shares = self.shares(self.take_entries(10))
            self.assertEqual((10, {3, 4}), (sum(shares.values()), set(shares.values())))
        self.assertEqual({"a": 30, "b": 30, "c": 30}, self.shares(self.project_of))
        self.assertEqual(50, len(self.drain(self.take_entries, 10)))

    def test_what_others_leave_is_shared(self) -> None:
        for project, count in (("a", 50), ("b", 3), ("c", 1), ("d", 50)):
            self.post_to(project, count)
        shares = self.shares(self.take_entries(20))
        self.assertEqual((3, 1, 8, 8), (shares["b"], shares["c"], shares["a"], shares["d"]))
        self.assertEqual({"a": 10, "d": 10}, self.shares(self.take_entries(20)))

    def test_without_some_projects(self) -> None:
        theirs = self.post_to("p", 3) + self.post_to("q", 3)
        newcomers = self.post_to("newcomer", 2)

        def take(*without: str) -> list[str]:
            taken = self.take(self.taker, entries=50, rows=0, without=without)
            return [entry.message_id for entry in taken.entries]

        self.assertEqual([], take("p", "q", "newcomer", "nobody"))
        self.assertEqual(newcomers, take("p", "q", "nobody"))
        self.assertEqual([], take("p", "q"))
        self.assertEqual(theirs, take())

    def test_alone_a_project_has_it_all(self) -> None:
        given = self.post_to("a", 30)
        self.assertEqual(given[:20], self.take_entries(20))

    def test_more_projects_than_places(self) -> None:
        given = [one for number in range(25) for one in self.post_to(f"p{number:02}", 4)]
        first = [self.take_entries(10) for _ in range(3)]
        self.assertEqual([10, 10, 10], [len(some) for some in first])
        self.assertEqual(25, len(self.shares(itertools.chain(*first))), "everyone had its turn")
        rest = self.drain(self.take_entries, 10)
        self.assertEqual(sorted(given), sorted([*itertools.chain(*first), *rest]))

    def test_more_projects_with_rows_than_places(self) -> None:
        given = [one for number in range(12) for one in self.leave_rows(f"p{number:02}", 3)]
        self.clock.now += 10
        first = [self.take_rows(5) for _ in range(3)]
        self.assertEqual(12, len(self.shares(itertools.chain(*first))), "everyone had its turn")
        rest = self.drain(self.take_rows, 5)
        self.assertEqual(sorted(given), sorted([*itertools.chain(*first), *rest]))

    def test_one_place_goes_round(self) -> None:
        for project in "abc":
            self.post_to(project, 3)
        turns = [self.project_of[self.take_entries(1)[0]] for _ in range(9)]
        self.assertEqual([{"a", "b", "c"}] * 3, [set(turns[start : start + 3]) for start in (0, 3, 6)])

    def test_ended_leases_first_within_a_project(self) -> None:
        lost = self.post_to("a", 3)
        self.take_entries(3)
        self.clock.now += LEASE
        self.post_to("a", 5)
        other = self.post_to("b", 5)
        self.assertEqual([*lost[:2], *other[:2]], self.take_entries(4))

    def test_nothing_is_due_twice(self) -> None:
        self.post_to("a", 5)
        self.post_to("b", 5)
        self.assertEqual(10, len(self.take_entries(100)))
        self.assertEqual([], self.take_entries(100))


class DepthsConformance(StorageCase):
    def depths(self) -> dict[str, int]:
        found = self.storage.depths()
        counted = {name: getattr(found, name) for name in ("outbox", "pending", "parked", "in_flight", "breakers")}
        return {name: count for name, count in counted.items() if count}

    def oldest(self) -> float | None:
        at = self.storage.depths().oldest_at
        return None if at is None else round(at, 2)

    def test_nothing(self) -> None:
        self.subscribe()
        self.assertEqual(({}, None), (self.depths(), self.oldest()))

    def test_the_outbox(self) -> None:
        self.publish(3)
        self.clock.now += 50
        self.publish(2, project="o")
        self.assertEqual(({"outbox": 5}, NOW), (self.depths(), self.oldest()))
        worker = self.storage.join()
        taken = self.take(worker, entries=3)
        self.assertEqual(({"outbox": 5}, NOW), (self.depths(), self.oldest()), "it is not settled yet")
        closings = [Closing(entry.message_id, taken.token) for entry in taken.entries]
        self.storage.settle([], closings)
        closed = [entry for entry in taken.entries if self.storage.load([entry.message_id], []).messages]
        self.assertEqual(2 + 3 - len(closed), self.depths()["outbox"])
        self.close_entries()
        self.assertEqual(({}, None), (self.depths(), self.oldest()))

    def test_a_delayed_one_is_as_old_as_the_end_of_its_delay(self) -> None:
        self.publish(delay=60, ttl=1000)
        self.clock.now += 100
        self.assertEqual(({"outbox": 1}, NOW + 60), (self.depths(), self.oldest()))

    def test_rows(self) -> None:
        mine = self.subscribe()
        given = self.publish(6)
        worker = self.storage.join()
        token = self.take(worker).token
        kinds: list[dict[str, Any]] = [{"due_at": NOW + 500}] * 2 + [{"park": LANE}] * 3
        kinds.append({"due_at": NOW + LEASE, "hold": True})
        rows = [Settlement(one, mine.id, token, from_row=False, **kind) for one, kind in zip(given, kinds, strict=True)]
        self.storage.settle(rows, [Closing(one, token) for one in given])
        self.assertEqual({"pending": 2, "parked": 3, "in_flight": 1}, self.depths())
        self.take(worker, lanes=5)
        self.take(worker, parked={LANE: 2})
        self.assertEqual({"pending": 2, "parked": 1, "in_flight": 3}, self.depths())

    def test_breakers(self) -> None:
        lanes = [LANE, LaneKey("o", LANE.name)]
        self.storage.settle([], [], [Breaker(lane, 1, NOW + 60) for lane in lanes])
        self.assertEqual({"breakers": 2}, self.depths())
        self.storage.settle([], [], [Breaker(LANE, 0, 0.0)])
        self.assertEqual({"breakers": 1}, self.depths())
