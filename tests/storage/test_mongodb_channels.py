"""Windows, receipts and pools on MongoDB: what meets, and what it costs however much there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tests.storage.contract import LEASE, NOW
from tests.storage.test_mongodb_worker import FenceCase, PlanCase, run_threads
from zaqar_notify.model import LaneKey, Receipt, ReceiptKind, State
from zaqar_notify.storage.base import Breaker, Closing, Settlement, Storage, Window
from zaqar_notify.storage.mongodb import looking
from zaqar_notify.storage.mongodb.collections import DELIVERIES, MESSAGES, RECEIPTS, WINDOWS
from zaqar_notify.storage.mongodb.scope import Scope

FAILED = Receipt(ReceiptKind.FAILED, NOW, "no such user")
WAITS, GONE = State.PARKED, State.SUPERSEDED


class WindowsTest(FenceCase):
    """Two settle at once what waits for a window."""

    def setUp(self) -> None:
        super().setUp()
        self.given = self.publish(4)
        self.token = self.take(self.worker, entries=2).token
        self.token_there = self.take(self.other, entries=2).token

    def waits(self, number: int, key: str = "k") -> Settlement:
        token = self.token if number < 2 else self.token_there
        return Settlement(self.given[number], self.mine.id, token, from_row=False, window=Window("s", 60.0, key))

    def hold_there(self, number: int, key: str = "k") -> Callable[[], object]:
        return lambda: self.assertEqual(0, self.there.settle([self.waits(number, key)]))

    def states(self) -> list[State | None]:
        return [self.state(message, self.mine.id) for message in self.given]

    def test_they_open_one(self) -> None:
        self.assertEqual(0, self.settle_late(self.hold_there(2, "other"), [self.waits(0)]))
        self.assertEqual(1, self.database[WINDOWS].count_documents({}))
        rows = list(self.database[DELIVERIES].find({}))
        self.assertEqual(
            (2, 1, {NOW + 60.002}), (len(rows), len({row["window_id"] for row in rows}), {row["due_at"] for row in rows})
        )

    def test_one_of_both_is_superseded(self) -> None:
        self.assertEqual(0, self.settle_late(self.hold_there(2), [self.waits(0)]))
        self.assertEqual([GONE, State.IN_FLIGHT, WAITS, State.IN_FLIGHT], self.states())

    def test_also_where_the_window_is_open_already(self) -> None:
        self.hold_there(3, "other")()
        self.assertEqual(0, self.settle_late(self.hold_there(2), [self.waits(1), self.waits(0)]))
        self.assertEqual([GONE, GONE, WAITS, WAITS], self.states())

    def test_what_is_taken_meanwhile_is_not_superseded(self) -> None:
        self.storage.settle([self.waits(0)])

        def take() -> None:
            # By a clock that is ahead.
            self.clock.now += 60
            self.assertEqual(1, len(self.there.take(self.other, LEASE, entries=0, rows=5).rows))
            self.clock.now -= 60

        self.assertEqual(0, self.settle_late(take, [self.waits(1)]))
        self.assertEqual([State.IN_FLIGHT, WAITS], self.states()[:2])

    def test_many_at_once_leave_one(self) -> None:
        given = [*self.given, *self.publish(36)]
        tokens = {message: self.token if message in self.given[:2] else self.token_there for message in self.given}
        taken = self.take(self.worker, entries=100)
        tokens |= {entry.message_id: taken.token for entry in taken.entries}
        storages = [self.storage, self.there, self.another()]

        def hold(storage: Storage, mine: Sequence[str]) -> None:
            for message in mine:
                window = Window("s", 60.0, "k")
                waits = Settlement(message, self.mine.id, tokens[message], from_row=False, window=window)
                self.assertEqual(0, storage.settle([waits], [Closing(message, tokens[message])]))

        works = [lambda pair=pair: hold(pair[1], given[pair[0] :: 3]) for pair in enumerate(storages)]
        self.assertEqual([], run_threads(*works))
        states = [self.state(message, self.mine.id) for message in given]
        self.assertEqual([GONE] * 39 + [WAITS], states)
        self.assertEqual(1, self.database[WINDOWS].count_documents({}))


class ReceiptsTest(FenceCase):
    """What is heard of a delivery while something else happens to it."""

    def setUp(self) -> None:
        super().setUp()
        self.deliver()

    def deliver(self) -> None:
        [self.message] = self.publish(ttl=60)
        token = self.take(self.worker).token
        done = Settlement(self.message, self.mine.id, token, from_row=False, log=self.delivered())
        self.assertEqual(0, self.storage.settle([done], [Closing(self.message, token)]))

    def receive_late(self, meanwhile: Callable[[], object], receipt: Receipt = FAILED) -> bool:
        tries = []

        def work(scope: Scope) -> bool:
            scope[MESSAGES].find_one({})
            tries.append(1)
            if len(tries) == 1:
                meanwhile()
            [stored] = self.storage._receive(scope, [(self.message, self.mine.id, receipt)])
            return stored

        stored = self.storage._database.write(work)
        self.assertEqual(2, len(tries), "the first one was in the way of what happened meanwhile")
        return stored

    def left(self) -> tuple[int, int]:
        return self.database[RECEIPTS].count_documents({}), self.database[DELIVERIES].count_documents({})

    def test_the_same_at_once_is_stored_once(self) -> None:
        got: list[bool] = []
        storages = [self.storage, self.there, self.another(), self.another()]
        works = [lambda one=one: got.append(one.receive(self.message, self.mine.id, FAILED)) for one in storages]
        self.assertEqual([], run_threads(*works))
        self.assertEqual([False, False, False, True], sorted(got))
        self.assertEqual((1, 1), self.left())

    def test_the_log_is_removed_meanwhile(self) -> None:
        for receipt in (FAILED, Receipt(ReceiptKind.DEVICE, NOW)):
            self.clock.now += 5000
            self.assertFalse(self.receive_late(self.prune_all, receipt))
            self.assertEqual((0, 0), self.left())
            self.deliver()

    def test_it_is_delivered_again_meanwhile(self) -> None:
        redeliver = lambda: self.there.redeliver("p", "q", self.message, self.mine.id, 60)  # noqa: E731
        self.assertTrue(self.receive_late(redeliver))
        self.assertEqual((1, 1), self.left())
        self.assertEqual([None], [row.report for row in self.take(self.worker).rows])

    def test_what_is_to_be_settled_keeps_its_message(self) -> None:
        """Housekeeping has looked at it before."""
        self.clock.now += 5000
        retention = self.storage._means.retention
        looks = self.storage._database.read(lambda scope: looking.look_at_messages(scope, self.clock.now, retention, 10))
        self.assertEqual([0.0], [look.prune_at for look in looks])
        self.assertTrue(self.storage.receive(self.message, self.mine.id, FAILED))
        self.storage._database.write(lambda scope: looking.store_looks(scope, looks, self.clock.now))
        self.prune_all()
        self.assertEqual((1, 1), self.left())
        self.assertIn(self.message, self.storage.load([self.message], []).messages)


class ChannelsPlanTest(PlanCase):
    """What the commands read: no more than they return, however much there is."""

    MANY = 1000

    def setUp(self) -> None:
        super().setUp()
        self.mine = self.subscribe().id
        self.worker = self.storage.join()
        self.given = self.publish(self.MANY)
        self.token = self.take(self.worker, entries=self.MANY).token

    def settlements(self, given: Sequence[str], **fields: Any) -> list[Settlement]:
        return [Settlement(message, self.mine, self.token, from_row=False, **fields) for message in given]

    def waits(self, keys: Sequence[str], given: Sequence[str]) -> list[Settlement]:
        return [self.settlements([message], window=Window("s", 60.0, key))[0] for key, message in zip(keys, given, strict=True)]

    def test_beside_many_that_wait(self) -> None:
        waiting, fresh = self.given[:-4], self.given[-4:]
        self.storage.settle(self.waits(waiting, waiting))
        for keys in ((waiting[0], waiting[-1], "new", "newer"), ("more", "and", "new", "newer")):
            settled = self.waits(keys, fresh)
            self.assert_reads(8, lambda settled=settled: self.assertEqual(0, self.storage.settle(settled)))
        found = self.storage.subscription_deliveries("p", "q", self.mine, None, self.MANY)
        states = [record.state for record in found or ()]
        self.assertEqual((self.MANY - 2, 2), (states.count(WAITS), states.count(GONE)))
        self.assert_reads(5, lambda: self.take(self.worker, entries=0))
        self.assert_reads(5, lambda: self.storage.prune(20))

    def test_beside_many_that_were_heard_of(self) -> None:
        self.storage.settle(self.settlements(self.given, log=self.delivered()))
        for message in self.given[:200]:
            self.assertTrue(self.storage.receive(message, self.mine, FAILED))
        for expected in (True, False):
            heard = lambda expected=expected: self.assertEqual(  # noqa: E731
                expected, self.storage.receive(self.given[-1], self.mine, FAILED)
            )
            self.assert_reads(2, heard)
        self.assert_reads(85, lambda: self.storage.subscription_deliveries("p", "q", self.mine, None, 20))

    def test_beside_many_lanes_of_another_pool(self) -> None:
        others = [LaneKey(f"p{number % 7}", f"sms:{number}", "sms") for number in range(self.MANY)]
        self.storage.settle([], [], [Breaker(lane, 1, NOW) for lane in (LaneKey("p", "http"), *others)])
        self.assert_reads(5, lambda: self.assertEqual(1, len(self.take(self.worker, entries=0, lanes=9).lanes)))
        self.assert_reads(45, lambda: self.assertEqual(9, len(self.take(self.worker, entries=0, lanes=9, pool="sms").lanes)))
        self.assert_reads(5, lambda: self.storage.merge_pools(["sms"]))
        self.storage.merge_pools([])
        self.assertEqual({""}, set(self.database["lanes"].distinct("pool")))
