"""What the tests of a storage start from: a storage with a settable clock, and short ways to fill it."""

from __future__ import annotations

import base64
import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import testtools

from zaqar_notify.encryption import Keyring
from zaqar_notify.model import Draft, LaneKey, LogEntry, OutcomeKind, State, Subscription
from zaqar_notify.storage.base import Closing, Row, Settlement, Storage, Taken

NOW = 1_700_000_000.0
RETENTION = 1000.0
LEASE = 30.0
UNKNOWN = "0" * 15 + "1"
MALFORMED = ("", "x", "1", "-" * 16, "F" * 16, "f" * 16, "0" * 17, "\u0660" * 16, "0x" + "0" * 14)
ELSEWHERE = (("o", "q"), ("p", "r"), ("p", "none"))
"""Projects and queues to which nothing in the queue ``q`` of the project ``p`` belongs."""
SECRET = "whsec_" + base64.b64encode(b"s" * 32).decode()
OTHER_SECRET = "whsec_" + base64.b64encode(b"t" * 32).decode()
LANE = LaneKey("p", "http://slow:80")


def make_keyring() -> Keyring:
    return Keyring([base64.b64encode(b"k" * 32).decode()])


class Clock:
    """A clock that stands until it is set."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class StorageCase(testtools.TestCase):
    """A storage with a settable clock, and short ways to fill it."""

    def make_storage(self, clock: Callable[[], float], **options: Any) -> Storage:
        raise NotImplementedError

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.storage = self.open()

    def open(self, **options: Any) -> Any:
        storage = self.make_storage(self.clock, **options)
        self.addCleanup(storage.close)
        return storage

    def another(self) -> Storage:
        """What another process sees: a storage of its own on the same data, where there can be one."""
        return self.storage

    def catch_log(self) -> None:
        """What the storage says is expected, and looked at elsewhere: it is not shown, whoever has set up logging before."""
        logger = logging.getLogger("zaqar_notify.storage")
        self.addCleanup(setattr, logger, "propagate", logger.propagate)
        logger.propagate = False
        quiet = logging.NullHandler()
        logger.addHandler(quiet)
        self.addCleanup(logger.removeHandler, quiet)

    # Short ways:

    def subscription(self, subscriber: str = "http://a/", **fields: Any) -> Subscription:
        values: dict[str, Any] = {"project": "p", "queue": "q", "ttl": None, "options": {}, **fields}
        return Subscription(id="", subscriber=subscriber, created_at=0.0, expires_at=None, **values)

    def subscribe(self, subscriber: str = "http://a/", **fields: Any) -> Subscription:
        self.clock.now += 0.002
        return self.storage.subscribe(self.subscription(subscriber, **fields)).subscription

    def publish(
        self, count: int = 1, *, project: str = "p", queue: str = "q", ttl: int = 300, delay: int = 0, **fields: Any
    ) -> list[str]:
        drafts = [Draft(b'{"n": %d}' % number, ttl, delay=delay) for number in range(count)]
        return self.storage.publish(project, queue, drafts, **fields)

    def claim(self, limit: int = 20, *, ttl: int = 60, grace: int = 60, queue: str = "q") -> tuple[str, list[str]]:
        """The ids of the claim and of its messages. Fails when there is nothing to claim."""
        claimed = self.storage.claim("p", queue, limit, ttl, grace)
        self.assertIsNotNone(claimed)
        assert claimed
        return claimed[0].id, [message.id for message in claimed[1]]

    def listed(self, queue: str = "q", **which: bool) -> list[str]:
        return [message.id for message in self.storage.list_messages("p", queue, None, 1000, **which)]

    def popped(self, limit: int = 20, queue: str = "q") -> list[str]:
        return [message.id for message in self.storage.pop_messages("p", queue, limit)]

    def counted(self, queue: str = "q") -> tuple[int, int]:
        """(claimed, free)"""
        stats = self.storage.stats("p", queue)
        self.assertEqual(stats.claimed + stats.free, stats.total)
        return stats.claimed, stats.free

    def close_entries(self) -> list[str]:
        """As a worker with no subscriber does: nothing keeps a message any more but its life."""
        taken = self.take(self.storage.join(), entries=1000)
        closings = [Closing(entry.message_id, taken.token) for entry in taken.entries]
        self.assertEqual(0, self.storage.settle([], closings))
        return [entry.message_id for entry in taken.entries]

    def take(self, worker: int, *, entries: int = 100, rows: int = 100, **others: Any) -> Taken:
        return self.storage.take(worker, LEASE, entries=entries, rows=rows, **others)

    def rows(self, taken: Taken) -> list[Row]:
        """Without their expiry."""
        return [dataclasses.replace(row, expires_at=math.inf) for row in taken.rows]

    def attempt(self, number: int, state: State, outcome: OutcomeKind | None = None, **fields: Any) -> LogEntry:
        return LogEntry(number, self.clock.now, state, outcome, **fields)

    def delivered(self, number: int = 1) -> LogEntry:
        return self.attempt(number, State.DELIVERED, OutcomeKind.DELIVERED, status=200, duration=0.25)

    def failed(self, number: int = 1) -> LogEntry:
        return self.attempt(number, State.PENDING, OutcomeKind.RETRY, status=500, duration=1.5, detail="500 Oops")

    def entry_into_row(self, subscription_id: str, **fields: Any) -> tuple[str, int]:
        """Publish, take the entry, leave a row, close the entry. Returns the message id and the worker."""
        message_id = self.publish(ttl=fields.pop("ttl", 300))[0]
        worker = self.storage.join()
        taken = self.take(worker)
        settlement = Settlement(message_id, subscription_id, taken.token, from_row=False, **fields)
        self.assertEqual(0, self.storage.settle([settlement], [Closing(message_id, taken.token)]))
        return message_id, worker

    def park(self, worker: int, message_ids: Sequence[str], subscription_id: str, lane: LaneKey = LANE) -> None:
        token = self.take(worker).token
        parked = [Settlement(one, subscription_id, token, from_row=False, park=lane) for one in message_ids]
        self.assertEqual(0, self.storage.settle(parked, [Closing(one, token) for one in message_ids]))

    def delivery(self, message_id: str, subscription_id: str) -> Any:
        """As both sides say it, which have to agree."""
        of_message = self.storage.message_deliveries("p", "q", message_id, None, 100)
        of_subscription = self.storage.subscription_deliveries("p", "q", subscription_id, None, 100)
        one = [record for record in of_message or () if record.subscription_id == subscription_id]
        other = [record for record in of_subscription or () if record.message_id == message_id]
        self.assertEqual(one, other)
        return one[0] if one else None

    def state(self, message_id: str, subscription_id: str) -> State | None:
        record = self.delivery(message_id, subscription_id)
        return record and record.state

    def prune_all(self) -> int:
        pruned = 0
        while step := self.storage.prune(100):
            pruned += step
            if pruned > 10_000:
                self.fail("pruning does not come to an end")
        return pruned
