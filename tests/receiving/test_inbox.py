"""What becomes of mails that come in, with a storage that knows of a delivery."""

from __future__ import annotations

import re
import threading
import time
from typing import Any
from unittest import mock

from tests.receiving.case import DeliveryCase
from tests.receiving.mails import DELAYED, DELIVERED, NO_SUCH_USER, letter, recipient, report
from zaqar_notify.errors import StorageUnavailable
from zaqar_notify.feedback import Tokens, Use
from zaqar_notify.metrics import ReceiveMetrics
from zaqar_notify.model import LogEntry, OutcomeKind, ReceiptKind, State, delivery_id
from zaqar_notify.receiving import inbox
from zaqar_notify.receiving.inbox import DONE, LATER, Inbox
from zaqar_notify.storage.base import Closing, Settlement

BOUNCES = "bounces@notify.example.org"


class Metrics(ReceiveMetrics):
    def __init__(self) -> None:
        self.results: list[str] = []

    def received(self, result: str) -> None:
        self.results.append(result)


class InboxCase(DeliveryCase):
    def setUp(self) -> None:
        super().setUp()
        self.tokens = Tokens("key")
        self.metrics = Metrics()
        self.inbox = Inbox(self.storage, self.tokens, self.wake, self.metrics)
        self.envelope = self.tokens.make_short(Use.ENVELOPE, self.delivery_id)
        self.leave = self.tokens.make_short(Use.UNSUBSCRIBE, self.delivery_id)

    def take(self, mail: bytes, *recipients: str, sender: str = "") -> list[str]:
        return self.inbox.take(sender, recipients or (BOUNCES,), mail)

    def subscribed(self) -> bool:
        return self.storage.get_subscription("p", "q", self.subscription.id) is not None

    def expect(self, answer: str, result: str, mail: bytes, *recipients: str, sender: str = "") -> None:
        self.metrics.results.clear()
        self.assertEqual([answer], self.take(mail, *recipients, sender=sender))
        self.assertEqual([result], self.metrics.results)


class ReportTest(InboxCase):
    def setUp(self) -> None:
        super().setUp()
        self.settle()

    def test_a_bounce_is_in_the_record_and_a_worker_settles_it(self) -> None:
        with self.assertLogs("zaqar_notify.receiving", "INFO") as logged:
            self.expect(DONE, "failed", report(self.envelope))
        (found,) = self.receipts()
        self.assertEqual((ReceiptKind.FAILED, True), (found.kind, found.gone))
        self.assertIn("5.1.1", found.detail)
        self.assertLess(abs(found.at - time.time()), 60)
        (row,) = self.rows()
        self.assertEqual(found, row.report)
        self.assertEqual(1, self.woken)
        (line,) = logged.output
        self.assertIn(f"delivery={self.delivery_id} failed", line)
        self.assertNotIn("@", line)
        self.assertNotIn(self.envelope, line)

    def test_it_is_known_by_the_address_that_it_was_sent_to(self) -> None:
        to = (f"bounces+{self.envelope}@notify.example.org", f"a+b+{self.envelope.upper()}@X")
        self.expect(DONE, "failed", report("lost on the way"), to[0])
        self.expect(DONE, "delivered_to_device", report("lost on the way", (DELIVERED,)), to[1])

    def test_it_has_arrived(self) -> None:
        self.expect(DONE, "delivered_to_device", report(self.envelope, (DELIVERED,)))
        self.assertEqual([ReceiptKind.DEVICE], [one.kind for one in self.receipts()])
        self.assertEqual(0, self.woken, "there is nothing to settle")

    def test_it_is_delayed_or_has_left_for_where_nobody_reports(self) -> None:
        for one in (DELAYED, recipient("relayed", "2.0.0")):
            self.expect(DONE, "nothing", report(self.envelope, (one,)))
        self.assertEqual([], self.receipts())

    def test_a_report_that_comes_twice_counts_once(self) -> None:
        self.expect(DONE, "failed", report(self.envelope))
        self.expect(DONE, "known", report(self.envelope))
        self.assertEqual((1, 1), (len(self.receipts()), self.woken))

    def test_of_a_delivery_that_nobody_knows_any_more(self) -> None:
        other = delivery_id("18bcfe56800ddd6a", "18bcfe56802e8621")
        self.expect(DONE, "known", report(self.tokens.make_short(Use.ENVELOPE, other)))
        self.assertEqual([], self.receipts())

    def test_forged_ones_change_nothing(self) -> None:
        forged = [
            self.delivery_id,
            f"e{self.delivery_id}",
            Tokens("other").make_short(Use.ENVELOPE, self.delivery_id),
            self.tokens.make_short(Use.RECEIPT, self.delivery_id),
            self.tokens.make(Use.ENVELOPE, self.delivery_id),
            self.envelope[:-1] + ("a" if self.envelope[-1] != "a" else "b"),
            self.leave,
            "",
        ]
        for token in forged:
            with self.subTest(token):
                self.expect(DONE, "dropped", report(token), f"bounces+{token}@notify.example.org")
        self.expect(DONE, "dropped", report("", status=f"Original-Envelope-Id: {self.delivery_id}\nAction: failed"))
        self.assertEqual(([], True), (self.receipts(), self.subscribed()))

    def test_what_is_no_report_is_dropped(self) -> None:
        for mail in (letter("Out of office", "I am away"), b"", b"\xff\x00" * 1000):
            self.expect(DONE, "dropped", mail, f"bounces+{self.envelope}@notify.example.org")
        self.assertEqual([], self.receipts())

    def test_each_recipient_by_itself(self) -> None:
        to = [f"bounces+{self.envelope}@notify.example.org", "other@notify.example.org"]
        self.assertEqual([DONE, DONE], self.take(report("lost", (DELIVERED,)), *to))
        self.assertEqual(["delivered_to_device", "dropped"], self.metrics.results)

    def test_while_the_storage_is_away_it_has_to_come_again(self) -> None:
        to = [f"bounces+{self.envelope}@notify.example.org", f"bounces+{self.leave}@notify.example.org", BOUNCES]
        with (
            mock.patch.object(self.storage, "receive", side_effect=StorageUnavailable("locked")) as receive,
            self.assertLogs("zaqar_notify.receiving", "WARNING"),
        ):
            self.assertEqual([LATER, LATER, LATER], self.take(report("lost", (DELIVERED,)), *to))
        self.assertEqual(1, receive.call_count, "the others need not wait as well")
        self.assertEqual(["later"] * 3, self.metrics.results)
        with (
            mock.patch.object(self.storage, "delete_subscription", side_effect=StorageUnavailable("locked")),
            self.assertLogs("zaqar_notify.receiving", "WARNING"),
        ):
            self.expect(LATER, "later", letter(), to[1], sender="ann@example.org")
        self.expect(DONE, "delivered_to_device", report(self.envelope, (DELIVERED,)))

    def test_a_mail_that_breaks_the_reader_does_not_come_again(self) -> None:
        with (
            mock.patch.object(inbox.reports, "read", side_effect=RecursionError),
            self.assertLogs("zaqar_notify.receiving", "ERROR"),
        ):
            self.expect(DONE, "dropped", report(self.envelope))

    def test_every_answer_is_one_of_lmtp(self) -> None:
        for answer in (DONE, LATER):
            self.assertTrue(re.fullmatch(r"(250|451) [24]\.\d\.\d [a-z ]+", answer), answer)


class EarlyTest(InboxCase):
    """The report is here before the outcome of the attempt is stored."""

    def test_the_outcome_is_waited_for(self) -> None:
        for one in (NO_SUCH_USER, DELIVERED):
            with self.subTest(one):
                self.setUp()
                timer = threading.Timer(0.3, self.settle)
                timer.start()
                with mock.patch.object(inbox, "PATIENCE", 30.0):
                    self.assertEqual([DONE], self.take(report(self.envelope, (one,))))
                timer.join()
                self.assertEqual(1, len(self.receipts()))
        self.assertEqual(0, self.woken)

    def test_a_failure_that_was_early_is_settled(self) -> None:
        timer = threading.Timer(0.3, self.settle)
        timer.start()
        self.take(report(self.envelope))
        timer.join()
        (row,) = self.rows()
        self.assertIsNotNone(row.report)

    def test_but_not_for_ever(self) -> None:
        for one in (NO_SUCH_USER, DELIVERED):
            with mock.patch.object(inbox, "PATIENCE", 0.0):
                self.expect(LATER, "later", report(self.envelope, (one,)))
        self.settle()
        self.expect(DONE, "failed", report(self.envelope))

    def test_a_later_attempt_that_is_under_way_is_waited_for_by_a_failure(self) -> None:
        """It would find no delivery that counts as delivered, and nobody would hear of it."""
        line = LogEntry(1, time.time(), State.PENDING, OutcomeKind.RETRY)
        left = Settlement(
            self.message_id, self.subscription.id, self.taken.token, False, line, due_at=time.time() - 1, attempts=1, lines=1
        )
        self.assertEqual(0, self.storage.settle([left], [Closing(self.message_id, self.taken.token)]))
        taken = self.storage.take(self.storage.join(), 60.0, entries=0, rows=10)
        with mock.patch.object(inbox, "PATIENCE", 0.0):
            self.expect(LATER, "later", report(self.envelope))
        line = LogEntry(2, time.time(), State.DELIVERED, OutcomeKind.DELIVERED)
        done = Settlement(self.message_id, self.subscription.id, taken.token, True, line, attempts=2, lines=2)
        self.assertEqual(0, self.storage.settle([done]))
        self.expect(DONE, "failed", report(self.envelope))
        self.assertEqual(1, len(self.rows()))


class FallbackTest(InboxCase):
    """``options.fallback`` has moved on to the second address."""

    def test_a_failure_at_an_address_before_is_over(self) -> None:
        self.settle(target=1)
        self.expect(DONE, "known", report(self.envelope))
        self.assertEqual([], self.receipts())

    def test_a_failure_at_the_last_one_counts(self) -> None:
        self.settle(target=1)
        self.expect(DONE, "failed", report(self.tokens.make_short(Use.ENVELOPE, self.delivery_id, 1)))
        self.assertEqual(1, self.rows()[0].target)


class UnsubscribeTest(InboxCase):
    def setUp(self) -> None:
        super().setUp()
        self.settle()

    def test_a_mail_to_the_address_in_the_header_is_enough(self) -> None:
        to = f"bounces+{self.leave.upper()}@notify.example.org"
        self.assertTrue(self.subscribed())
        for _ in range(2):
            self.expect(DONE, "unsubscribed", letter("whatever", "it says"), to, sender="ann@example.org")
            self.assertFalse(self.subscribed())

    def test_tokens_of_other_uses_do_not(self) -> None:
        other = Tokens("other").make_short(Use.UNSUBSCRIBE, self.delivery_id)
        for token in (self.envelope, other, self.subscription.id, self.tokens.make(Use.UNSUBSCRIBE, self.delivery_id)):
            with self.subTest(token):
                to = f"bounces+{token}@notify.example.org"
                self.expect(DONE, "dropped", letter(), to, sender="ann@example.org")
        self.assertTrue(self.subscribed())

    def test_nor_who_was_a_fallback_address(self) -> None:
        to = f"bounces+{self.tokens.make_short(Use.UNSUBSCRIBE, self.delivery_id, 1)}@notify.example.org"
        self.expect(DONE, "unsubscribed", letter(), to, sender="ann@example.org")
        self.assertTrue(self.subscribed())

    def test_what_no_person_sent_does_not(self) -> None:
        to = f"bounces+{self.leave}@notify.example.org"
        self.expect(DONE, "dropped", letter(), to)
        arguments: Any = (DONE, "failed", report(self.envelope), to)
        self.expect(*arguments)
        self.assertTrue(self.subscribed())
