"""What notifiers hear later, on its way into the storage."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

from tests.receiving.case import DeliveryCase
from zaqar_notify.errors import StorageUnavailable
from zaqar_notify.model import Receipt, ReceiptKind
from zaqar_notify.receipts import Receipts

WAIT = 30.0
DEVICE, FAILED = Receipt(ReceiptKind.DEVICE, 1.0, "there"), Receipt(ReceiptKind.FAILED, 2.0, "not there", gone=True)


def wait_for(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("gave up waiting")
        time.sleep(0.01)


class ReceiptsTest(DeliveryCase):
    def setUp(self) -> None:
        super().setUp()
        self.heard = Receipts(self.storage, self.wake)
        self.addCleanup(self.heard.close)

    def put(self, *receipts: Receipt) -> None:
        for one in receipts:
            self.heard.put(self.message_id, self.subscription.id, one)

    def count(self) -> int:
        """Those that are in memory."""
        with self.heard._changed:
            return self.heard._taken + len(self.heard._waiting)

    def test_they_are_stored_and_workers_hear_of_failures(self) -> None:
        self.settle()
        with self.assertLogs("zaqar_notify.receipts", "INFO") as logged:
            self.put(DEVICE)
            wait_for(lambda: self.receipts() == [DEVICE])
            self.assertEqual(0, self.woken)
            self.put(FAILED, FAILED)
            wait_for(lambda: self.woken)
            self.heard.close()
        self.assertEqual([DEVICE, FAILED], self.receipts())
        self.assertEqual(FAILED, self.rows()[0].report)
        self.assertIn(f"delivery={self.delivery_id} failed: not there", logged.output[1])
        self.assertEqual((1, 2), (self.woken, len(logged.output)))

    def test_one_that_is_early_waits_and_holds_up_no_other(self) -> None:
        self.put(FAILED)
        self.heard.put("0000000000000001", self.subscription.id, FAILED)  # nobody knows of it
        wait_for(lambda: self.count() == 1)
        self.assertEqual([], self.receipts())
        self.settle()
        wait_for(lambda: self.receipts() == [FAILED])
        self.assertEqual(1, len(self.rows()))

    def test_but_not_for_ever(self) -> None:
        self.heard.PATIENCE = 0.0
        with mock.patch.object(self.storage, "receive", wraps=self.storage.receive) as receive:
            self.put(DEVICE)
            wait_for(lambda: receive.call_count and not self.count())
        self.settle()
        self.heard.close()
        self.assertEqual([], self.receipts())

    def test_while_the_storage_is_away_they_wait_and_it_is_said_once(self) -> None:
        self.settle()
        with (
            self.assertLogs("zaqar_notify.receipts", "WARNING") as logged,
            mock.patch.object(self.storage, "receive", side_effect=StorageUnavailable("locked")) as receive,
        ):
            self.put(DEVICE, FAILED)
            wait_for(lambda: receive.call_count >= 3)
        wait_for(lambda: self.receipts() == [DEVICE, FAILED])
        self.assertEqual(1, len(logged.output))

    def test_a_bug_in_one_stops_no_other(self) -> None:
        self.settle()
        bad: Any = None
        with self.assertLogs("zaqar_notify.receipts", "ERROR"):
            self.put(bad, DEVICE)
            wait_for(lambda: self.receipts() == [DEVICE])

    def test_there_are_not_too_many_in_memory(self) -> None:
        self.heard.MOST = 3
        with (
            self.assertLogs("zaqar_notify.receipts", "WARNING") as logged,
            mock.patch.object(self.storage, "receive", side_effect=StorageUnavailable("locked")),
        ):
            self.settle()
            for _ in range(100):
                self.put(DEVICE)
                self.assertLessEqual(self.count(), 3)
            self.heard.close()
        self.assertIn("lost", "".join(logged.output))
        self.assertIn("were not stored", logged.output[-1])

    def test_no_thread_before_there_is_something(self) -> None:
        self.assertIsNone(self.heard._thread)
        self.heard.close()
        self.assertNotIn("receipts", [thread.name for thread in threading.enumerate()])

    def test_what_is_here_is_stored_before_the_end(self) -> None:
        self.settle()
        self.put(DEVICE, FAILED)
        self.heard.close()
        self.assertEqual([DEVICE, FAILED], self.receipts())
        with self.assertLogs("zaqar_notify.receipts", "WARNING"):
            self.put(DEVICE)
