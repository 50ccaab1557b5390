"""A storage that knows of a delivery, whose attempt is under way until it is settled."""

from __future__ import annotations

import time
import unittest
from collections.abc import Sequence

from zaqar_notify.encryption import Keyring
from zaqar_notify.model import Draft, LogEntry, OutcomeKind, Receipt, State, Subscription, delivery_id
from zaqar_notify.storage.base import Closing, Row, Settlement
from zaqar_notify.storage.memory import MemoryStorage

KEY = "a2V5" + "A" * 39 + "="


class DeliveryCase(unittest.TestCase):
    def setUp(self) -> None:
        self.storage = MemoryStorage(keyring=Keyring([KEY]), retention=3600.0)
        self.woken = 0
        draft = Subscription("", "p", "q", "mailto:ann@example.org", None, {}, 0.0, None)
        self.subscription = self.storage.subscribe(draft).subscription
        (self.message_id,) = self.storage.publish("p", "q", [Draft(b"1", 300)])
        self.delivery_id = delivery_id(self.message_id, self.subscription.id)
        self.taken = self.storage.take(self.storage.join(), 60.0, entries=10, rows=10)

    def wake(self) -> None:
        self.woken += 1

    def settle(self, state: State = State.DELIVERED, target: int = 0) -> None:
        line = LogEntry(1, time.time(), state, OutcomeKind.DELIVERED, target=target)
        settled = Settlement(self.message_id, self.subscription.id, self.taken.token, from_row=False, log=line)
        self.assertEqual(0, self.storage.settle([settled], [Closing(self.message_id, self.taken.token)]))

    def receipts(self) -> list[Receipt]:
        record = self.storage.get_delivery("p", "q", self.message_id, self.subscription.id)
        assert record is not None
        return list(record.receipts)

    def rows(self) -> Sequence[Row]:
        """What there is for a worker to settle."""
        return self.storage.take(self.storage.join(), 60.0, entries=0, rows=10).rows
