"""What the ways to the devices of people need, when a service moves to another database."""

from __future__ import annotations

import dataclasses

from tests.storage.conformance_cluster import CopyCase
from tests.storage.conformance_receipts import ACKNOWLEDGED, DEVICE, FAILED
from tests.storage.conformance_windows import LONG, WindowsCase, window
from tests.storage.contract import NOW
from zaqar_notify.model import Draft, LaneKey, Priority, State
from zaqar_notify.storage.base import Settlement

SMS = LaneKey("p", "sms", "sms")


class MovedChannelsConformance(WindowsCase, CopyCase):
    def move(self) -> None:
        target = self.make_empty()
        self.copy(self.storage, target)
        self.assertEqual(self.storage.copy_counts(), target.copy_counts())
        self.storage = target
        self.worker = target.join()

    def test_what_waits_goes_on_waiting(self) -> None:
        self.begin()
        first, second = self.hold(window("a")), self.hold(window("b"))
        (retried,), token = self.matched()
        kept = {"window_id": "7", "target": 2, "attempts": 1, "lines": 1}
        line = dataclasses.replace(self.failed(), target=2)
        window_id = "0" * 15 + "7"
        kept["window_id"] = window_id
        self.settle(Settlement(retried, self.mine.id, token, False, line, due_at=self.clock.now + 2 * LONG, **kept))
        ends_at = self.released_at(first)
        self.move()
        self.assertEqual([State.PARKED, State.PARKED, State.PENDING], self.states([first, second, retried]))
        self.clock.now += 5
        later, other = self.hold(window("a")), self.hold(window("c"))
        self.assertEqual([State.SUPERSEDED, State.PARKED], self.states([first, later]))
        self.assertEqual([ends_at] * 3, [self.released_at(one) for one in (second, later, other)], "the same window")
        self.assertEqual([second, later, other], self.released())
        self.assertEqual([2], [line.target for line in self.delivery(retried, self.mine.id).log])
        (row,) = self.release().rows
        self.assertEqual((retried, window_id, 2), (row.message_id, row.window_id, row.target))
        fresh = self.hold()
        self.assertEqual(State.PARKED, self.state(fresh, self.mine.id))
        self.assertNotIn(self.release().rows[-1].window_id, (None, window_id))

    def test_receipts_and_what_they_report(self) -> None:
        self.begin()
        message_id = self.end()
        self.storage.receive(message_id, self.mine.id, ACKNOWLEDGED)
        failed, _ = self.entry_into_row(self.mine.id, log=self.delivered())
        self.storage.receive(failed, self.mine.id, FAILED)
        self.move()
        self.assertFalse(self.storage.receive(message_id, self.mine.id, ACKNOWLEDGED))
        self.assertTrue(self.storage.receive(message_id, self.mine.id, DEVICE))
        self.assertEqual((ACKNOWLEDGED, DEVICE), self.delivery(message_id, self.mine.id).receipts)
        (row,) = self.take(self.worker).rows
        self.assertEqual((failed, FAILED, 1), (row.message_id, row.report, row.attempts))

    def test_hints_and_pools(self) -> None:
        self.begin()
        draft = Draft(b"1", 300, collapse_key="c", priority=Priority.LOW, language="sv")
        (message_id,) = self.storage.publish("p", "q", [draft, Draft(b"2", 300)])[:1]
        self.park(self.worker, self.publish(), self.mine.id, SMS)
        self.move()
        message = self.storage.load([message_id], []).messages[message_id]
        self.assertEqual(("c", Priority.LOW, "sv"), (message.collapse_key, message.priority, message.language))
        self.assertEqual([], list(self.take(self.worker, lanes=5).lanes))
        self.assertEqual(["sms"], [lane.pool for lane in self.take(self.worker, lanes=5, pool="sms").lanes])
        self.clock.now = NOW
