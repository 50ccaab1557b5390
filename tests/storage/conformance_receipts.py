"""What is heard of a delivery after a provider has accepted it."""

from __future__ import annotations

import math
from typing import Any

from tests.storage.conformance_again import AgainCase
from tests.storage.contract import LANE, MALFORMED, NOW, RETENTION, UNKNOWN
from zaqar_notify.errors import Conflict
from zaqar_notify.model import Draft, OutcomeKind, Receipt, ReceiptKind, State
from zaqar_notify.storage.base import Closing, Row, Settlement

DEVICE = Receipt(ReceiptKind.DEVICE, NOW + 5.25, "250 ok")
ACKNOWLEDGED = Receipt(ReceiptKind.ACKNOWLEDGED, NOW + 3)
FAILED = Receipt(ReceiptKind.FAILED, NOW + 9, "5.1.1 no such user", gone=True)
FULL = Receipt(ReceiptKind.FAILED, NOW + 9, "5.2.2 mailbox full")


class ReceiptsCase(AgainCase):
    def receive(self, message_id: str, receipt: Receipt) -> bool:
        return self.storage.receive(message_id, self.mine.id, receipt)

    def received(self, message_id: str) -> tuple[Receipt, ...]:
        found: tuple[Receipt, ...] = self.delivery(message_id, self.mine.id).receipts
        return found

    def sent(self, **fields: Any) -> str:
        """A message that was delivered, by the first attempt."""
        fields = {"ttl": 300, "log": self.delivered(), **fields}
        return self.entry_into_row(self.mine.id, **fields)[0]

    def report_row(self, message_id: str, receipt: Receipt = FAILED, **fields: Any) -> Row:
        return Row(message_id, self.mine.id, **{"attempts": 1, "lines": 1, "report": receipt, **fields})


class ReceiptsConformance(ReceiptsCase):
    def test_they_are_in_the_record(self) -> None:
        self.begin()
        message_id = self.sent()
        self.assertEqual((), self.received(message_id))
        self.assertTrue(self.receive(message_id, DEVICE))
        self.assertEqual((DEVICE,), self.received(message_id))
        self.assertTrue(self.receive(message_id, ACKNOWLEDGED))
        self.assertEqual((ACKNOWLEDGED, DEVICE), self.received(message_id), "the oldest first")
        self.assertEqual(State.DELIVERED, self.state(message_id, self.mine.id))
        self.assertEqual([], list(self.take(self.worker).rows))
        record = self.storage.get_delivery("p", "q", message_id, self.mine.id)
        assert record
        self.assertEqual((ACKNOWLEDGED, DEVICE), record.receipts)

    def test_the_first_of_each_kind_is_kept(self) -> None:
        self.begin()
        message_id = self.sent()
        for receipt in (DEVICE, ACKNOWLEDGED, FAILED):
            self.assertTrue(self.receive(message_id, receipt))
            self.assertFalse(self.receive(message_id, receipt))
            self.assertFalse(self.receive(message_id, Receipt(receipt.kind, NOW, "another")))
        self.assertEqual((ACKNOWLEDGED, DEVICE, FAILED), self.received(message_id))
        self.assertEqual([self.report_row(message_id)], self.rows(self.take(self.worker)), "and settled once")

    def test_each_delivery_has_its_own(self) -> None:
        self.begin()
        message_id = self.publish()[0]
        token = self.take(self.worker).token
        both = [Settlement(message_id, one.id, token, False, self.delivered()) for one in (self.mine, self.other)]
        self.assertEqual(0, self.storage.settle(both, [Closing(message_id, token)]))
        second = self.sent()
        self.assertTrue(self.receive(message_id, DEVICE))
        self.assertTrue(self.storage.receive(message_id, self.other.id, ACKNOWLEDGED))
        self.assertTrue(self.receive(second, FAILED))
        self.assertEqual((DEVICE,), self.received(message_id))
        self.assertEqual((ACKNOWLEDGED,), self.delivery(message_id, self.other.id).receipts)
        self.assertEqual((FAILED,), self.received(second))

    def test_of_what_is_not_known(self) -> None:
        self.begin()
        message_id = self.sent()
        for bad in (*MALFORMED, UNKNOWN):
            self.assertFalse(self.storage.receive(bad, self.mine.id, DEVICE))
            self.assertFalse(self.storage.receive(message_id, bad, DEVICE))
        self.assertFalse(self.storage.receive(message_id, self.other.id, DEVICE))
        unmatched = self.publish()[0]
        self.assertFalse(self.receive(unmatched, DEVICE))
        token = self.take(self.worker).token
        waits = Settlement(unmatched, self.mine.id, token, from_row=False, due_at=NOW + 900)
        self.assertEqual(0, self.storage.settle([waits], [Closing(unmatched, token)]))
        self.assertFalse(self.receive(unmatched, DEVICE), "nothing was sent yet")
        self.assertEqual((), self.received(unmatched))

    def test_by_the_id_within(self) -> None:
        self.begin()
        (held,) = self.storage.hold("p", "q", [Draft(b"1", 300)], None, 30)
        self.storage.release("p", "q", [held], ["theirs"])
        token = self.take(self.worker).token
        done = Settlement(held, self.mine.id, token, from_row=False, log=self.delivered())
        self.assertEqual(0, self.storage.settle([done], [Closing(held, token)]))
        self.assertFalse(self.receive("theirs", DEVICE))
        self.assertTrue(self.receive(held, DEVICE))
        self.assertEqual((DEVICE,), self.received("theirs"))

    def test_others_see_them(self) -> None:
        self.begin()
        message_id = self.sent()
        self.receive(message_id, DEVICE)
        self.storage = self.another()
        self.assertEqual((DEVICE,), self.received(message_id))
        self.assertFalse(self.receive(message_id, DEVICE))

    def test_they_go_with_the_log(self) -> None:
        self.begin()
        message_id = self.sent(ttl=60)
        self.receive(message_id, DEVICE)
        self.clock.now += 100
        self.prune_all()
        self.assertEqual((DEVICE,), self.received(message_id))
        self.assertTrue(self.receive(message_id, ACKNOWLEDGED), "as long as there is a log")
        self.clock.now += RETENTION
        self.prune_all()
        self.assertFalse(self.receive(message_id, FAILED))
        self.assertIsNone(self.delivery(message_id, self.mine.id))

    def test_they_go_with_what_was_delivered(self) -> None:
        self.storage = self.open(retention_delivered=100.0)
        self.begin()
        message_id = self.sent(ttl=3600)
        self.receive(message_id, DEVICE)
        self.clock.now += 101
        self.prune_all()
        self.assertFalse(self.receive(message_id, ACKNOWLEDGED))
        self.assertIsNone(self.delivery(message_id, self.mine.id))
        self.assertEqual([message_id], self.listed(), "the message is there yet")

    def test_they_stay_when_it_is_delivered_again(self) -> None:
        self.begin()
        message_id = self.sent()
        self.receive(message_id, ACKNOWLEDGED)
        self.redeliver(message_id)
        self.assertEqual((ACKNOWLEDGED,), self.received(message_id))
        self.settle_row(message_id, self.take(self.worker), self.delivered(2))
        self.assertTrue(self.receive(message_id, FAILED))
        self.assertEqual([self.report_row(message_id, attempts=2, lines=2)], self.rows(self.take(self.worker)))


class ReportsConformance(ReceiptsCase):
    """What was delivered has failed after all."""

    def test_a_worker_settles_it(self) -> None:
        self.begin()
        for receipt in (FAILED, FULL):
            message_id = self.sent()
            self.assertTrue(self.receive(message_id, receipt))
            self.assertEqual(State.PENDING, self.state(message_id, self.mine.id))
            self.clock.now -= 3600
            taken = self.take(self.worker)
            self.assertEqual([self.report_row(message_id, receipt)], self.rows(taken))
            self.assertEqual(math.inf, taken.rows[0].expires_at)
            self.clock.now += 3600
            self.settle_row(message_id, taken, self.attempt(2, State.DEAD))
            self.assertEqual([(1, State.DELIVERED), (2, State.DEAD)], self.log(message_id))
            self.assertEqual((State.DEAD, (receipt,)), (self.state(message_id, self.mine.id), self.received(message_id)))
            self.assertEqual([], list(self.take(self.worker).rows))

    def test_what_was_used_up_before(self) -> None:
        self.begin()
        message_id, _ = self.leave_row(due_at=NOW)
        for number, outcome in ((2, OutcomeKind.THROTTLED), (3, OutcomeKind.OURS), (4, OutcomeKind.RETRY)):
            line = self.attempt(number, State.PENDING, outcome, target=1)
            self.settle_row(message_id, self.take(self.worker), line, due_at=NOW, lines=number, target=1)
        last = self.attempt(5, State.DELIVERED, OutcomeKind.DELIVERED, target=1)
        self.settle_row(message_id, self.take(self.worker), last)
        self.receive(message_id, FAILED)
        expected = self.report_row(message_id, attempts=3, lines=5, target=1)
        self.assertEqual([expected], self.rows(self.take(self.worker)))

    def test_again_at_the_next_address(self) -> None:
        self.begin()
        message_id = self.sent()
        self.receive(message_id, FAILED)
        line = self.attempt(2, State.PENDING, OutcomeKind.REJECTED)
        self.settle_row(message_id, self.take(self.worker), line, due_at=NOW, lines=2, target=1)
        self.assertFalse(self.receive(message_id, FULL), "it is on its way to that")
        line = self.attempt(3, State.DELIVERED, OutcomeKind.DELIVERED, target=1)
        self.settle_row(message_id, self.take(self.worker), line)
        self.assertTrue(self.receive(message_id, FULL))
        self.assertFalse(self.receive(message_id, FULL))
        self.assertEqual((FULL,), self.received(message_id), "the one that matters now")
        taken = self.take(self.worker)
        self.assertEqual([self.report_row(message_id, FULL, attempts=3, lines=3, target=1)], self.rows(taken))
        self.settle_row(message_id, taken, self.attempt(4, State.DEAD))
        self.assertFalse(self.receive(message_id, FAILED))
        self.assertEqual((State.DEAD, (FULL,)), (self.state(message_id, self.mine.id), self.received(message_id)))

    def test_again_after_it_was_delivered_again(self) -> None:
        self.begin()
        message_id = self.sent()
        self.receive(message_id, FAILED)
        self.settle_row(message_id, self.take(self.worker), self.attempt(2, State.DEAD, OutcomeKind.REJECTED))
        self.redeliver(message_id)
        self.settle_row(message_id, self.take(self.worker), self.delivered(3))
        self.assertTrue(self.receive(message_id, FULL))
        self.assertEqual([self.report_row(message_id, FULL, attempts=3, lines=3)], self.rows(self.take(self.worker)))

    def test_only_of_what_was_delivered(self) -> None:
        self.begin()
        for state in (State.DEAD, State.GONE, State.FILTERED, State.CANCELLED):
            message_id = self.sent(log=self.attempt(1, state))
            self.assertTrue(self.receive(message_id, FAILED))
            self.assertEqual((state, (FAILED,)), (self.state(message_id, self.mine.id), self.received(message_id)))
        waiting, _ = self.leave_row(due_at=NOW + 900)
        self.assertTrue(self.receive(waiting, FAILED))
        self.assertEqual([], list(self.take(self.worker).rows))
        self.clock.now = NOW + 900
        self.assertEqual([None], [row.report for row in self.take(self.worker).rows])

    def test_not_while_it_is_delivered_again(self) -> None:
        self.begin()
        message_id = self.sent()
        self.redeliver(message_id)
        self.assertTrue(self.receive(message_id, FAILED))
        self.assertEqual([None], [row.report for row in self.take(self.worker).rows])

    def test_not_when_nobody_is_there_any_more(self) -> None:
        self.begin()
        message_id = self.sent()
        self.storage.delete_subscription("p", "q", self.mine.id)
        self.assertTrue(self.receive(message_id, FAILED))
        self.assertEqual((State.DELIVERED, (FAILED,)), (self.state(message_id, self.mine.id), self.received(message_id)))
        self.mine = self.other
        message_id = self.sent()
        self.storage.delete_queue("p", "q")
        self.assertTrue(self.receive(message_id, FAILED))
        self.assertEqual((State.DELIVERED, (FAILED,)), (self.state(message_id, self.mine.id), self.received(message_id)))
        self.assertEqual([], list(self.take(self.worker).rows))

    def test_it_stays_until_it_is_settled_with_a_line(self) -> None:
        self.begin()
        message_id = self.sent()
        expires_at = self.storage.load([message_id], []).messages[message_id].expires_at
        self.receive(message_id, FAILED)
        token = self.take(self.worker).token
        parked = Settlement(message_id, self.mine.id, token, from_row=True, park=LANE, attempts=1, lines=1)
        self.assertEqual(0, self.storage.settle([parked]))
        self.take(self.worker, lanes=1)
        taken = self.take(self.worker, parked={LANE: 5})
        self.assertEqual([(FAILED, math.inf)], [(row.report, row.expires_at) for row in taken.rows])
        self.settle_row(message_id, taken, self.attempt(2, State.PENDING), due_at=self.clock.now, attempts=0, lines=2, target=1)
        taken = self.take(self.worker)
        self.assertEqual([Row(message_id, self.mine.id, 0, 2, target=1)], self.rows(taken))
        self.assertEqual(round(expires_at, 2), round(taken.rows[0].expires_at, 2))

    def test_it_does_not_expire(self) -> None:
        self.begin()
        message_id = self.sent(ttl=60)
        self.clock.now += 100
        self.prune_all()
        self.assertTrue(self.receive(message_id, FAILED))
        self.assertEqual(State.PENDING, self.state(message_id, self.mine.id))
        for _ in range(3):
            self.clock.now += RETENTION + 1
            self.prune_all()
        taken = self.take(self.worker)
        self.assertEqual([self.report_row(message_id)], self.rows(taken))
        self.assertIn(message_id, self.storage.load([message_id], []).messages)
        self.settle_row(message_id, taken, self.attempt(2, State.DEAD))
        self.assertEqual(State.DEAD, self.state(message_id, self.mine.id))
        for _ in range(3):
            self.clock.now += RETENTION + 1
            self.prune_all()
        self.assertIsNone(self.delivery(message_id, self.mine.id))

    def test_it_can_be_cancelled_and_delivered_again(self) -> None:
        self.begin()
        message_id = self.sent()
        self.receive(message_id, FAILED)
        self.assertRaises(Conflict, self.redeliver, message_id)
        self.cancel(message_id)
        self.assertEqual([(1, State.DELIVERED), (2, State.CANCELLED)], self.log(message_id))
        self.redeliver(message_id)
        self.assertEqual([Row(message_id, self.mine.id, 0, 2, lines_before=2)], self.rows(self.take(self.worker)))
        self.assertFalse(self.receive(message_id, FAILED))

    def test_it_is_cancelled_with_its_subscription(self) -> None:
        self.begin()
        message_id = self.sent()
        self.receive(message_id, FAILED)
        self.storage.delete_subscription("p", "q", self.mine.id)
        self.assertEqual(State.CANCELLED, self.state(message_id, self.mine.id))

    def test_a_lease_on_it_ends_like_others(self) -> None:
        self.begin()
        message_id = self.sent()
        self.receive(message_id, FAILED)
        token = self.take(self.worker).token
        self.assertEqual(State.IN_FLIGHT, self.state(message_id, self.mine.id))
        self.storage.give_back(token, [], [(message_id, self.mine.id)])
        self.assertEqual([self.report_row(message_id)], self.rows(self.take(self.storage.join())))
