"""What several workers do at once, on MongoDB: its transactions have to make up for the one lock that SQLite has."""

from __future__ import annotations

import collections
import dataclasses
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import Any

from tests.servers import mongodb
from tests.storage import conformance_cluster, conformance_moved
from tests.storage.case import SqlCase
from tests.storage.contract import LANE, LEASE, NOW, Clock
from tests.storage.test_mongodb import MongoCase
from zaqar_notify.model import Alert, Draft, LaneKey, Priority, Receipt, ReceiptKind, State
from zaqar_notify.storage import ids
from zaqar_notify.storage.base import RANGE, Breaker, Closing, Failure, Settlement, Storage, Taken, Window
from zaqar_notify.storage.mongodb import depth, taking
from zaqar_notify.storage.mongodb.collections import (
    DELIVERIES,
    DELIVERY_LOG,
    LANES,
    OUTBOX,
    delivery_key,
    of_line_key,
)
from zaqar_notify.storage.mongodb.driver import MongoStorage
from zaqar_notify.storage.mongodb.ledger import Settling
from zaqar_notify.storage.mongodb.scope import Bound, Scope
from zaqar_notify.storage.sql.driver import SqlStorage


def run_threads(*works: Callable[[], None]) -> list[BaseException]:
    """At once; returns what they raised."""
    failures: list[BaseException] = []
    together = threading.Barrier(len(works))

    def run(work: Callable[[], None]) -> None:
        try:
            together.wait(30)
            work()
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


class Late(Scope):
    """A scope in which something happens before the first update of one collection."""

    def __init__(self, database: Any, name: str, meanwhile: Callable[[], object]) -> None:
        super().__init__(database)
        self._name = name
        self._meanwhile: Callable[[], object] | None = meanwhile

    def __getitem__(self, name: str) -> Any:
        found = super().__getitem__(name)
        return LateBound(self, found) if name == self._name else found

    def happen(self) -> None:
        meanwhile, self._meanwhile = self._meanwhile, None
        if meanwhile is not None:
            meanwhile()


class LateBound:
    def __init__(self, scope: Late, bound: Bound) -> None:
        self._scope = scope
        self._bound = bound

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bound, name)

    def update_many(self, *arguments: Any, **options: Any) -> int:
        self._scope.happen()
        return self._bound.update_many(*arguments, **options)


class TakingTest(MongoCase):
    def take_all(self, storage: Storage, mine: list[Any], **bounds: int) -> None:
        worker = storage.join()
        while (taken := self.take_from(storage, worker, **bounds)) and (taken.entries or taken.rows or taken.lanes):
            mine += [entry.message_id for entry in taken.entries]
            mine += [(row.message_id, row.subscription_id) for row in taken.rows]
            mine += taken.lanes

    def take_from(
        self, storage: Storage, worker: int, *, entries: int = 0, rows: int = 0, lanes: int = 0, **others: Any
    ) -> Taken:
        return storage.take(worker, LEASE, entries=entries, rows=rows, lanes=lanes, **others)

    def assert_shared_out(self, expected: set[Any], bounds: dict[str, int]) -> None:
        storages = [self.storage, self.another(), self.another()]
        got: list[list[Any]] = [[] for _ in storages]
        pairs = zip(storages, got, strict=True)
        works = [lambda storage=storage, mine=mine: self.take_all(storage, mine, **bounds) for storage, mine in pairs]
        self.assertEqual([], run_threads(*works))
        counted = collections.Counter(one for mine in got for one in mine)
        self.assertEqual(expected, set(counted))
        self.assertEqual([], [one for one, times in counted.items() if times > 1])

    def test_no_entry_goes_to_two_workers(self) -> None:
        given = [one for queue in ("q", "r") for one in self.publish(150, queue=queue)]
        given += self.publish(100, project="other")
        self.assert_shared_out(set(given), {"entries": 7})

    def test_no_row_goes_to_two_workers(self) -> None:
        mine = [self.subscribe(f"http://{number}/").id for number in range(3)]
        given = self.publish(100)
        token = self.take(self.storage.join()).token
        pairs = [(message, one) for message in given for one in mine]
        left = [Settlement(*pair, token, from_row=False, due_at=NOW) for pair in pairs]
        self.assertEqual(0, self.storage.settle(left, [Closing(one, token) for one in given]))
        self.assert_shared_out(set(pairs), {"rows": 11})

    def test_no_lane_goes_to_two_workers(self) -> None:
        lanes = [LaneKey("p", f"http://{number}:80") for number in range(60)]
        self.storage.settle([], [], [Breaker(lane, 1, NOW) for lane in lanes])
        self.assert_shared_out(set(lanes), {"lanes": 4})

    def test_no_range_has_two_holders_nor_two_pages(self) -> None:
        self.subscribe()
        [message] = self.publish()
        jobs = {self.storage.add_job("p", RANGE, {"message_id": message}) for _ in range(12)}
        held: list[str] = []
        pages: list[str | None] = []

        def work(storage: Storage) -> None:
            worker = storage.join()
            while (job := storage.hold_job(worker, LEASE)) is not None:
                held.append(job.id)
                found = storage.take(worker, LEASE, entries=0, rows=0, ranges=jobs)
                pages.extend(entry.job_id for entry in found.entries)

        storages = [self.storage, self.another()]
        self.assertEqual([], run_threads(*(lambda storage=storage: work(storage) for storage in storages)))
        self.assertEqual((jobs, jobs), (set(held), set(pages)))
        self.assertEqual((12, 12), (len(held), len(pages)))

    def take_late(self, collection: str, meanwhile: Callable[[], object], **bounds: Any) -> Taken:
        """Something happens between finding and leasing."""
        worker = self.storage.join()
        lease = taking.Lease(worker, taking.token_of(worker, 99), NOW, NOW + LEASE)
        wanted: dict[str, Any] = {"entries": 0, "rows": 0, "lanes": 0, "parked": {}, **bounds}
        database = self.storage._database
        return taking.take(Late(database.collections, collection, meanwhile), lease, {}, **wanted)

    def test_what_is_leased_meanwhile_is_passed_over(self) -> None:
        given = self.publish(5)
        there, worker = self.another(), self.storage.join()
        late = self.take_late(OUTBOX, lambda: there.take(worker, LEASE, entries=2, rows=0), entries=4)
        self.assertEqual(given[2:4], [entry.message_id for entry in late.entries])

    def test_nor_does_a_row_go_from_its_lane_to_two(self) -> None:
        """Whose lane has gone to another worker may have looked into it before."""
        mine = self.subscribe()
        worker = self.storage.join()
        given = self.publish(5)
        self.park(worker, given, mine.id)
        there, other = self.another(), self.storage.join()
        # The lease of the lane is that of the worker which looks into it late.
        late = self.storage.join() + 1
        self.database[LANES].update_one({}, {"$set": {"lease": taking.token_of(late, 1), "due_at": NOW + LEASE}})

        def pull() -> None:
            self.database[LANES].update_one({}, {"$set": {"lease": taking.token_of(other, 1)}})
            self.assertEqual(2, len(there.take(other, LEASE, entries=0, rows=0, parked={LANE: 2}).rows))

        taken = self.take_late(DELIVERIES, pull, parked={LANE: 4})
        self.assertEqual(given[2:4], [row.message_id for row in taken.rows])

    def test_a_take_that_is_tried_again_returns_what_it_has_leased(self) -> None:
        """As after a reply that was lost with its connection."""
        given = self.publish(3)
        worker = self.storage.join()
        lease = taking.Lease(worker, taking.token_of(worker, 99), NOW, NOW + LEASE)
        bounds: dict[str, Any] = {"entries": 10, "rows": 10, "lanes": 10, "parked": {}}
        for _ in range(2):
            taken = self.storage._database.alone(lambda scope: taking.take(scope, lease, {}, **bounds))
            self.assertEqual([(one, 1) for one in given], [(entry.message_id, entry.takes) for entry in taken.entries])


class FenceCase(MongoCase):
    """Something happens between the moment that a transaction sees and its first write."""

    def settle_late(
        self,
        meanwhile: Callable[[], object],
        settlements: Sequence[Settlement],
        closings: Sequence[Closing] = (),
        breakers: Sequence[Breaker] = (),
    ) -> int:
        settling = Settling(settlements, closings, breakers, now=self.clock.now, means=self.storage._means)
        tries = []

        def work(scope: Scope) -> int:
            scope[OUTBOX].find_one({})
            tries.append(1)
            if len(tries) == 1:
                meanwhile()
            return settling.run(scope)

        lost = self.storage._database.write(work)
        self.assertEqual(2, len(tries), "the first one was in the way of what happened meanwhile")
        return lost

    def setUp(self) -> None:
        super().setUp()
        self.mine = self.subscribe()
        self.worker, self.other = self.storage.join(), self.storage.join()
        self.there = self.another()

    def lines(self, message_id: str) -> int:
        number = ids.parse(message_id)
        return sum(of_line_key(line["_id"])[0] == number for line in self.database[DELIVERY_LOG].find({}))

    def taken_over(self, **bounds: Any) -> None:
        self.clock.now += LEASE
        taken = self.there.take(self.other, LEASE, **{"entries": 10, "rows": 10, **bounds})
        self.assertEqual(1, len(taken.entries) + len(taken.rows))


class FenceTest(FenceCase):
    def test_an_entry_that_is_taken_over_is_not_settled(self) -> None:
        [message] = self.publish()
        token = self.take(self.worker).token
        done = [Settlement(message, self.mine.id, token, from_row=False, log=self.delivered())]
        self.assertEqual(1, self.settle_late(self.taken_over, done))
        self.assertEqual(0, self.lines(message))

    def test_nor_is_it_closed(self) -> None:
        [message] = self.publish()
        token = self.take(self.worker).token
        done = [Settlement(message, self.mine.id, token, from_row=False, log=self.delivered())]
        self.assertEqual(1, self.settle_late(self.taken_over, done, [Closing(message, token)]))
        self.assertEqual((0, 1), (self.lines(message), self.storage.depths().outbox))

    def test_nor_a_row(self) -> None:
        message, worker = self.entry_into_row(self.mine.id, due_at=NOW)
        token = self.take(worker).token
        done = [Settlement(message, self.mine.id, token, from_row=True, log=self.delivered())]
        self.assertEqual(1, self.settle_late(self.taken_over, done))
        self.assertEqual((0, 1), (self.lines(message), self.storage.depths().in_flight))

    def test_nor_a_page_of_a_range(self) -> None:
        [message] = self.publish()
        self.close_entries()
        job_id = self.storage.add_job("p", RANGE, {"message_id": message})
        self.storage.hold_job(self.worker, LEASE, job_id)
        token = self.storage.take(self.worker, LEASE, entries=0, rows=0, ranges=[job_id]).token
        done = [Settlement(message, self.mine.id, token, from_row=False, log=self.delivered(), job_id=job_id)]

        def take_over() -> None:
            self.clock.now += LEASE
            self.assertIsNotNone(self.there.hold_job(self.other, LEASE, job_id))

        self.assertEqual(1, self.settle_late(take_over, done))
        self.assertEqual(0, self.lines(message))

    def test_what_is_cancelled_meanwhile_is_not_settled(self) -> None:
        [message] = self.publish()
        token = self.take(self.worker).token
        done = [Settlement(message, self.mine.id, token, from_row=False, log=self.delivered())]
        cancel = lambda: self.there.cancel("p", "q", message, self.mine.id)  # noqa: E731
        self.assertEqual(1, self.settle_late(cancel, done, [Closing(message, token)]))
        self.assertEqual(State.CANCELLED, self.state(message, self.mine.id))
        self.assertEqual(1, self.lines(message))

    def test_an_empty_lane_that_goes_meanwhile_is_made_anew(self) -> None:
        """What is parked in a lane that nobody finds would never be sent."""
        first, second = self.publish(2)
        token = self.take(self.worker, entries=1).token
        parked = [Settlement(first, self.mine.id, token, from_row=False, park=LANE)]
        self.storage.settle(parked, [Closing(first, token)])
        self.assertEqual([LANE], list(self.there.take(self.other, LEASE, entries=0, rows=0, lanes=1).lanes))
        pulled = self.there.take(self.other, LEASE, entries=0, rows=0, parked={LANE: 10})
        self.there.settle([Settlement(first, self.mine.id, pulled.token, from_row=True, log=self.delivered())])
        token = self.take(self.worker).token

        def empty() -> None:
            taken = self.there.take(self.other, LEASE, entries=0, rows=0, parked={LANE: 10})
            self.assertEqual([LANE], list(taken.emptied))

        parked = [Settlement(second, self.mine.id, token, from_row=False, park=LANE)]
        self.assertEqual(0, self.settle_late(empty, parked, [Closing(second, token)]))
        self.assertEqual([LANE], list(self.there.take(self.other, LEASE, entries=0, rows=0, lanes=1).lanes))
        [row] = self.there.take(self.other, LEASE, entries=0, rows=0, parked={LANE: 10}).rows
        self.assertEqual(second, row.message_id)

    def test_a_lane_that_something_is_parked_in_meanwhile_stays(self) -> None:
        """The other way round: who looks into it finds nothing, and then something is there."""
        [message] = self.publish()
        token = self.take(self.worker).token
        self.database[LANES].insert_one(
            {"_id": 7, "project": "p", "name": LANE.name, "pool": "", "due_at": 0.0, "project_id": 1, "trips": 0}
        )
        self.assertEqual([LANE], list(self.there.take(self.other, LEASE, entries=0, rows=0, lanes=1).lanes))
        seen = self.database[LANES].find_one({"_id": 7})
        self.storage.settle([Settlement(message, self.mine.id, token, from_row=False, park=LANE)], [Closing(message, token)])
        self.assertFalse(self.there._database.alone(lambda scope: taking._let_go(scope, seen)))
        self.assertEqual(1, len(self.there.take(self.other, LEASE, entries=0, rows=0, parked={LANE: 10}).rows))

    def test_settling_twice_is_settling_once(self) -> None:
        """As after a commit of which nobody could say what became of it."""
        [message] = self.publish()
        waiting, parked = self.subscribe("http://b/"), self.subscribe("http://c/")
        token = self.take(self.worker).token
        copies = (("out", Draft(b"1", 60)),)
        failure = Failure(NOW, True, 2, 1e9, "strikes", "longest")
        done = Settlement(message, self.mine.id, token, from_row=False, log=self.delivered(), publish=copies)
        failed = {"log": self.failed(), "due_at": NOW, "attempts": 1, "lines": 1, "failure": failure}
        settled = [
            done,
            Settlement(message, waiting.id, token, from_row=False, **failed),
            Settlement(message, parked.id, token, from_row=False, park=LANE),
        ]
        self.assertEqual(0, self.storage.settle(settled))
        again = self.there.take(self.other, LEASE, entries=0, rows=10)
        self.assertEqual([waiting.id], [row.subscription_id for row in again.rows])
        self.assertEqual(0, self.storage.settle(settled))
        self.assertEqual(0, self.storage.settle(settled, [Closing(message, token)]))
        self.assertEqual(3, self.storage.settle(settled, [Closing(message, token)]), "it is closed")
        self.assertEqual(2, self.lines(message))
        self.assertEqual(1, self.storage.stats("p", "out").free)
        self.assertEqual(1, self.storage.get_subscription("p", "q", waiting.id).strikes)
        states = [self.state(message, one.id) for one in (self.mine, waiting, parked)]
        self.assertEqual([State.DELIVERED, State.IN_FLIGHT, State.PARKED], states, "who has taken it meanwhile keeps it")
        ended = Settlement(message, waiting.id, again.token, from_row=True, log=self.delivered(2))
        self.assertEqual(0, self.there.settle([ended]))

    def test_leases_that_end_all_the_time_settle_nothing_twice(self) -> None:
        given = self.publish(60)
        stored: list[int] = []

        def work(storage: MongoStorage) -> None:
            worker = storage.join()
            for _ in range(500):
                # It has ended already when it is handed out: everybody takes from everybody.
                taken = storage.take(worker, 0.0, entries=20, rows=0)
                if not taken.entries:
                    return
                done = [
                    Settlement(entry.message_id, self.mine.id, taken.token, from_row=False, log=self.delivered())
                    for entry in taken.entries
                ]
                lost = storage.settle(done, [Closing(entry.message_id, taken.token) for entry in taken.entries])
                stored.append(len(done) - lost)

        storages = [self.storage, self.there, self.another()]
        self.assertEqual([], run_threads(*(lambda storage=storage: work(storage) for storage in storages)))
        self.assertEqual(60, sum(stored))
        self.assertEqual([1] * 60, [self.lines(message) for message in given])
        self.assertEqual(0, self.storage.depths().outbox)

    def test_parking_and_emptying_at_once_leaves_nothing_behind(self) -> None:
        given = self.publish(120)
        sent: list[str] = []
        parking = [self.storage, self.there]
        done = threading.Event()

        def park(storage: Storage) -> None:
            worker = storage.join()
            while (taken := storage.take(worker, LEASE, entries=3, rows=0)).entries:
                parked = [
                    Settlement(entry.message_id, self.mine.id, taken.token, from_row=False, park=LANE)
                    for entry in taken.entries
                ]
                self.assertEqual(0, storage.settle(parked, [Closing(entry.message_id, taken.token) for entry in taken.entries]))
            parking.remove(storage)
            if not parking:
                done.set()

        def empty(storage: Storage) -> None:
            worker = storage.join()
            held: set[LaneKey] = set()
            for _ in range(2000):
                over = done.is_set()
                taken = storage.take(worker, LEASE, entries=0, rows=0, lanes=5, parked=dict.fromkeys(held, 10))
                held = (held | set(taken.lanes)) - set(taken.emptied)
                settled = [
                    Settlement(row.message_id, self.mine.id, taken.token, from_row=True, log=self.delivered())
                    for row in taken.rows
                ]
                self.assertEqual(0, storage.settle(settled))
                sent.extend(one.message_id for one in settled)
                if over and not held:
                    return

        works = [lambda storage=storage: park(storage) for storage in list(parking)]
        third = self.another()
        self.assertEqual([], run_threads(*works, lambda: empty(third)))
        self.assertEqual(sorted(given), sorted(sent))
        self.assertEqual((0, 0), (self.database[DELIVERIES].count_documents({}), self.database[LANES].count_documents({})))

    def test_an_alert_is_published_once_by_many_at_once(self) -> None:
        given = self.publish(8)
        alert = Alert("dead", "alerts", Draft(b"1", 300))
        taken = self.take(self.worker)

        def work(storage: Storage, message: str) -> None:
            done = Settlement(message, self.mine.id, taken.token, from_row=False, log=self.delivered(), alerts=(alert,))
            self.assertEqual(0, storage.settle([done], [Closing(message, taken.token)]))

        storages = [self.storage, self.there] * 4
        works = [lambda pair=pair: work(*pair) for pair in zip(storages, given, strict=True)]
        self.assertEqual([], run_threads(*works))
        self.assertEqual(1, self.storage.stats("p", "alerts").free)


class MembersTest(MongoCase):
    def test_who_says_nothing_for_a_lease_is_dead(self) -> None:
        self.storage = self.open(member_timeout=30.0)
        mine = self.subscribe()
        self.publish(2)
        dead, alive = self.storage.join(), self.storage.join()
        job = self.storage.add_job("p", "some", {})
        self.storage.hold_job(dead, 1000, job)
        long = {"entries": 1, "rows": 0}
        old = self.storage.take(dead, 1000, **long)
        self.storage.take(alive, 1000, **long)
        self.clock.now += 20
        self.assertTrue(self.storage.beat(alive))
        self.assertEqual(0, self.storage.recover())
        self.clock.now += 11
        self.assertEqual((1, 0), (self.storage.recover(), self.another().recover()))
        self.assertEqual([alive], [member.id for member in self.storage.members()])
        self.assertFalse(self.storage.beat(dead))
        [entry] = self.take(alive).entries
        self.assertEqual(old.entries[0].message_id, entry.message_id)
        done = Settlement(entry.message_id, mine.id, old.token, from_row=False, log=self.delivered())
        self.assertEqual(1, self.storage.settle([done]))
        self.assertIsNotNone(self.storage.hold_job(alive, LEASE, job))

    def test_many_who_look_find_a_dead_one_once(self) -> None:
        for _ in range(5):
            self.storage.join()
        self.clock.now += 100
        found: list[int] = []
        storages = [self.storage, self.another(), self.another()]
        works = [lambda storage=storage: found.append(storage.recover()) for storage in storages]
        self.assertEqual([], run_threads(*works))
        self.assertEqual((5, []), (sum(found), self.storage.members()))


class DepthTest(MongoCase):
    def test_of_very_many_the_estimate_is_enough(self) -> None:
        mine = [self.subscribe(f"http://{number}/").id for number in range(4)]
        given = self.publish(3)
        worker = self.storage.join()
        token = self.take(worker).token
        left = [Settlement(message, mine[0], token, from_row=False, due_at=NOW + 9) for message in given]
        left += [Settlement(message, one, token, from_row=False, park=LANE) for message in given for one in mine[1:3]]
        left += [Settlement(message, mine[3], token, from_row=False, due_at=NOW + 9, hold=True) for message in given[:2]]
        self.storage.settle(left)
        counted = self.storage.depths()
        self.assertEqual((3, 3, 6, 2), (counted.outbox, counted.pending, counted.parked, counted.in_flight))
        for most in range(1, 9):
            self.assertEqual(counted, self.storage._database.alone(lambda scope, most=most: depth.measure(scope, NOW, most)))


class PlanCase(MongoCase):
    def examined(self, work: Callable[[], object]) -> list[tuple[str, str, str, int, int]]:
        """Of each command: collection, name, plan, keys and documents read."""
        self.database.command("profile", 2)
        try:
            work()
        finally:
            self.database.command("profile", 0)
        found = list(self.database["system.profile"].find({"ns": {"$not": {"$regex": "system"}}}))
        self.database["system.profile"].drop()
        return [
            (
                one["ns"].partition(".")[2],
                one["op"],
                one.get("planSummary", ""),
                one.get("keysExamined", 0),
                one.get("docsExamined", 0),
            )
            for one in found
        ]

    def assert_reads(self, most: int, work: Callable[[], object]) -> None:
        commands = self.examined(work)
        self.assertNotEqual([], commands)
        for one in commands:
            collection, _, plan, keys, documents = one
            if collection not in ("queues", "projects", "workers", "counters", "schema", "jobs"):
                self.assertNotIn("COLLSCAN", plan, one)
            self.assertLessEqual(max(keys, documents), most, one)


class PlanTest(PlanCase):
    """What the hot commands read: no more than they return, however much there is."""

    MANY = 1500

    def setUp(self) -> None:
        super().setUp()
        self.mine = self.subscribe().id
        number = ids.parse(self.publish()[0])
        queue = self.database["queues"].find_one({})["_id"]
        project = self.database["projects"].find_one({})["_id"]
        message = self.database["messages"].find_one({"_id": number})
        messages, entries, rows = [], [], []
        for one in range(number + 1, number + 1 + self.MANY):
            messages.append({**message, "_id": one})
            entries.append({"_id": one, "queue_id": queue, "due_at": 0.0, "takes": 0, "project_id": project, "cancelled": 0})
            row = {"subscription_id": 8, "attempts": 0, "lines": 0, "expires_at": NOW + 300, "project_id": project, "again": 0}
            rows.append({"_id": delivery_key(one, 8), "due_at": NOW - 1 + one % 3, **row})
            rows.append({"_id": delivery_key(one, 9), "lane_id": 77, **row})
        for name, documents in (("messages", messages), (OUTBOX, entries), (DELIVERIES, rows)):
            self.database[name].insert_many(documents)
        lane = {"_id": 77, "project": "p", "name": LANE.name, "due_at": 0.0, "project_id": project, "trips": 0}
        self.database[LANES].insert_one({**lane, "pool": ""})
        self.worker = self.storage.join()

    def test_taking(self) -> None:
        for bounds in ({"entries": 20, "rows": 0}, {"entries": 0, "rows": 20}, {"entries": 0, "rows": 0, "lanes": 5}):
            taken: list[Taken] = []
            self.assert_reads(
                45, lambda bounds=bounds, taken=taken: taken.append(self.storage.take(self.worker, LEASE, **bounds))
            )
            self.assertTrue(taken[0].entries or taken[0].rows or taken[0].lanes)
        self.assert_reads(45, lambda: self.storage.take(self.worker, LEASE, entries=0, rows=0, parked={LANE: 20}))

    def test_settling_and_what_a_worker_asks(self) -> None:
        taken = self.take(self.worker, entries=20, rows=20)
        done = [
            Settlement(entry.message_id, self.mine, taken.token, from_row=False, log=self.delivered(), recovered=True)
            for entry in taken.entries
        ]
        done += [
            Settlement(row.message_id, row.subscription_id, taken.token, from_row=True, log=self.failed(), park=LANE)
            for row in taken.rows
        ]
        messages = [entry.message_id for entry in taken.entries]
        self.assert_reads(45, lambda: self.storage.load(messages, [self.mine]))
        self.assert_reads(45, lambda: self.storage.known(messages[0], None))
        self.assert_reads(85, lambda: self.storage.settle(done, [Closing(message, taken.token) for message in messages]))
        self.assert_reads(45, self.storage.breakers)
        self.assert_reads(45, lambda: self.storage.give_back(taken.token, messages))
        self.assert_reads(45, lambda: self.storage.message_deliveries("p", "q", messages[0], None, 20))
        self.assert_reads(45, lambda: self.storage.subscription_deliveries("p", "q", self.mine, None, 20))

    def test_housekeeping(self) -> None:
        self.assert_reads(5, lambda: self.storage.prune(20))
        self.clock.now += 5000
        self.assert_reads(45, lambda: self.storage.prune(20))


class MovingTest(MongoCase, conformance_cluster.CopyConformance, conformance_moved.MovedChannelsConformance):
    """From SQLite to MongoDB and from there to SQLite: all that the conformance tests ask."""

    def make_storage(self, clock: Callable[[], float], **options: Any) -> Storage:
        return self.make_sql(clock, **options)

    def make_sql(self, clock: Callable[[], float], **options: Any) -> SqlStorage:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        storage = SqlCase.storage_at(os.path.join(folder.name, "notify.db"), clock=clock, **options)
        storage.upgrade()
        return storage

    def make_empty(self) -> Storage:
        server = mongodb.shared()
        url = server.new_database()
        self.addCleanup(server.drop, url)
        storage = self.storage_at(url, clock=self.clock)
        self.addCleanup(storage.close)
        storage.upgrade()
        return storage

    def fill_channels(self) -> None:
        """All that comes with windows, receipts, hints and pools."""
        mine = self.subscribe("http://c/")
        hinted = Draft(b"1", 300, collapse_key="c", priority=Priority.LOW, language="sv")
        given = self.storage.publish("p", "q", [hinted] * 6)
        worker = self.storage.join()
        token = self.take(worker).token
        line = dataclasses.replace(self.delivered(), target=1)
        ends: list[dict[str, Any]] = [
            {"log": line},
            {"log": line},
            {"window": Window("s", 600.0, "é")},
            {"window": Window("s", 600.0, "é")},
            {"park": LaneKey("p", "sms", "sms"), "target": 2},
        ]
        settled = [Settlement(one, mine.id, token, False, **end) for one, end in zip(given[:5], ends, strict=True)]
        self.assertEqual(0, self.storage.settle(settled, [Closing(one, token) for one in given]))
        for receipt in (Receipt(ReceiptKind.DEVICE, NOW + 0.1), Receipt(ReceiptKind.FAILED, NOW + 0.2, "é", gone=True)):
            self.assertTrue(self.storage.receive(given[0], mine.id, receipt))
        self.assertEqual(State.SUPERSEDED, self.state(given[2], mine.id))

    def test_there_and_back_every_record_is_the_same(self) -> None:
        self.fill()
        self.fill_channels()
        self.clock.now += 100_000
        self.storage.prune(100)
        there, back = self.make_empty(), self.make_sql(Clock())
        self.addCleanup(back.close)
        self.copy(self.storage, there)
        self.copy(there, back)
        self.assertEqual(self.storage.copy_counts(), there.copy_counts())
        self.assertEqual(there.copy_counts(), back.copy_counts())
        for kind in self.storage.copy_counts():
            records = [storage.copy_from(kind, None, 1000)[0] for storage in (self.storage, there, back)]
            self.assertEqual(records[0], records[2], kind)
            self.assertEqual(records[0], records[1], kind)
