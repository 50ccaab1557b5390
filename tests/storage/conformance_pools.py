"""Lanes of schemes that workers of their own serve."""

from __future__ import annotations

from tests.storage.contract import LEASE, NOW, StorageCase
from zaqar_notify.model import LaneKey, Subscription
from zaqar_notify.storage.base import Breaker, Settlement, Taken

PLAIN, SMS, PUSH = LaneKey("p", "http"), LaneKey("p", "sms", "sms"), LaneKey("p", "push", "push")
ALL = (PLAIN, SMS, PUSH)


class PoolsConformance(StorageCase):
    def fill(self, *lanes: LaneKey) -> Subscription:
        mine = self.subscribe()
        self.worker = self.storage.join()
        for lane in lanes:
            self.park(self.worker, self.publish(), mine.id, lane)
        return mine

    def lanes(self, pool: str = "", most: int = 9, worker: int | None = None) -> list[tuple[str, str]]:
        """(name, pool) of the lanes that are due."""
        return self.named(self.take(worker or self.worker, lanes=most, pool=pool).lanes)

    def named(self, lanes: object) -> list[tuple[str, str]]:
        return sorted((lane.name, lane.pool) for lane in lanes)  # type: ignore[attr-defined]

    def test_each_pool_has_its_own(self) -> None:
        self.fill(*ALL)
        self.assertEqual([], self.lanes("other"))
        self.assertEqual([("sms", "sms")], self.lanes("sms"))
        self.assertEqual([("http", "")], self.lanes())
        self.assertEqual([("push", "push")], self.lanes("push"))
        self.assertEqual([], [*self.lanes(), *self.lanes("sms"), *self.lanes("push")], "they are leased")
        self.clock.now += LEASE
        self.assertEqual([("sms", "sms")], self.lanes("sms"))

    def test_those_of_others_take_no_room(self) -> None:
        self.fill(*(LaneKey("p", f"{number:03}", "sms") for number in range(30)), PLAIN)
        self.assertEqual([("http", "")], self.lanes(most=1))
        self.assertEqual(5, len(self.lanes("sms", 5)))

    def test_what_is_returned_says_whose_it_is(self) -> None:
        mine = self.fill(SMS, PUSH)
        self.storage.settle([], [], [Breaker(SMS, 2, NOW), Breaker(PUSH, 1, NOW + 900)])
        self.assertEqual(
            {("sms", "sms"), ("push", "push")}, {(one.lane.name, one.lane.pool) for one in self.storage.breakers()}
        )
        taken = self.take(self.worker, lanes=9, pool="sms")
        self.assertEqual([("sms", "sms")], self.named(taken.lanes))
        self.assertEqual([("sms", "sms", 2)], [(lane.name, lane.pool, trips) for lane, trips in taken.probes.items()])
        without = LaneKey("p", "sms")
        taken = self.take(self.worker, parked={without: 5})
        self.assertEqual(["sms"], [row.lane and row.lane.pool for row in taken.rows])
        left = Settlement(taken.rows[0].message_id, mine.id, taken.token, from_row=True, park=SMS)
        self.storage.settle([left], [], [Breaker(SMS, 0, 0.0)])
        row = self.take(self.worker, parked={without: 5}).rows[0]
        self.clock.now += LEASE
        again = self.take(self.worker)
        self.assertEqual([(row.message_id, "sms")], [(one.message_id, one.lane and one.lane.pool) for one in again.rows])
        self.storage.settle([Settlement(row.message_id, mine.id, again.token, from_row=True, log=self.delivered())])
        emptied = self.take(self.worker, parked={without: 5}).emptied
        self.assertEqual([("sms", "sms")], self.named(emptied))

    def test_what_is_parked_last_says_which(self) -> None:
        mine = self.fill(SMS)
        self.park(self.worker, self.publish(), mine.id, LaneKey("p", "sms", "other"))
        self.assertEqual(([], [("sms", "other")]), (self.lanes("sms"), self.lanes("other")))
        self.park(self.worker, self.publish(2), mine.id, LaneKey("p", "sms"))
        self.clock.now += LEASE
        self.assertEqual(([], [("sms", "")]), (self.lanes("other"), self.lanes()))

    def test_so_does_a_breaker_that_opens(self) -> None:
        self.fill(LaneKey("p", "sms"))
        self.storage.settle([], [], [Breaker(SMS, 1, NOW), Breaker(PUSH, 1, NOW)])
        self.assertEqual([("push", "push"), ("sms", "sms")], self.named(one.lane for one in self.storage.breakers()))
        self.assertEqual([], self.lanes())
        self.assertEqual(([("sms", "sms")], [("push", "push")]), (self.lanes("sms"), self.lanes("push")))
        self.storage.settle([], [], [Breaker(LaneKey("p", "sms"), 0, 0.0)])
        self.clock.now += LEASE
        self.assertEqual([("sms", "sms")], self.lanes("sms"), "one that closes says nothing")

    def test_who_holds_a_lane_keeps_it(self) -> None:
        mine = self.fill(SMS)
        held = LaneKey("p", "sms")
        self.assertEqual([("sms", "sms")], self.lanes("sms"))
        self.park(self.worker, self.publish(), mine.id, held)
        self.assertEqual([], self.lanes(worker=self.storage.join()))
        taken: Taken = self.take(self.worker, parked={held: 9}, pool="sms")
        self.assertEqual(2, len(taken.rows))

    def test_the_same_name_in_two_projects(self) -> None:
        mine, theirs = self.subscribe(), self.subscribe(project="o")
        worker = self.storage.join()
        for project, subscription, pool in (("p", mine, "sms"), ("o", theirs, "")):
            (message,) = self.publish(project=project)
            self.park(worker, [message], subscription.id, LaneKey(project, "x", pool))
        (lane,) = self.take(worker, lanes=5).lanes
        self.assertEqual(("o", "x", ""), (lane.project, lane.name, lane.pool))
        (lane,) = self.take(worker, lanes=5, pool="sms").lanes
        self.assertEqual(("p", "x", "sms"), (lane.project, lane.name, lane.pool))

    def test_pools_that_nobody_serves_are_merged(self) -> None:
        self.fill(*ALL)
        self.storage.merge_pools(["sms", "unused"])
        self.assertEqual(([("sms", "sms")], []), (self.lanes("sms"), self.lanes("push")))
        self.assertEqual([("http", ""), ("push", "")], self.lanes())
        self.storage.merge_pools([])
        self.clock.now += LEASE
        self.assertEqual([("http", ""), ("push", ""), ("sms", "")], self.lanes())
