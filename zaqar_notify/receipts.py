"""What is heard of a delivery after the provider has accepted it, on its way into the storage."""

from __future__ import annotations

import collections
import enum
import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from zaqar_notify.errors import StorageUnavailable
from zaqar_notify.model import DeliveryRecord, Receipt, ReceiptKind, State, delivery_id
from zaqar_notify.storage.base import Storage

LOG = logging.getLogger(__name__)

_AGAIN = 0.2
"""Seconds between two looks whether a delivery is settled, or the storage is back."""


class Stored(enum.Enum):
    NEW = "new"
    KNOWN = "known"  # it had one of this kind, or nothing is known of such a delivery (any more)
    EARLY = "early"  # its outcome is not stored yet, so that this has nothing to belong to


def store(
    storage: Storage,
    message_id: str,
    subscription_id: str,
    receipt: Receipt,
    *,
    target: int | None = None,
    patience: float = 0.0,
) -> Stored:
    """A report may be quicker than the outcome of the attempt that it is about, which is stored with others: it is waited for,
    for ``patience`` seconds. A failure at another address (``target``) than the last that was tried changes nothing any more.
    Raises `StorageUnavailable`."""
    end = time.monotonic() + patience
    while True:
        # A failure is to find a delivery that counts as delivered, or nobody would hear of it.
        record = record_of(storage, message_id, subscription_id) if receipt.kind is ReceiptKind.FAILED else None
        if target is not None and _is_over(record, target):
            return Stored.KNOWN
        if not _is_early(record):
            if storage.receive(message_id, subscription_id, receipt):
                return Stored.NEW
            if not _is_unsettled(record_of(storage, message_id, subscription_id)):
                return Stored.KNOWN
        if time.monotonic() >= end:
            return Stored.EARLY
        time.sleep(_AGAIN)


def record_of(storage: Storage, message_id: str, subscription_id: str) -> DeliveryRecord | None:
    """By the ids that tokens have."""
    message = storage.load((message_id,), ()).messages.get(message_id)
    if message is None:
        return None
    return storage.get_delivery(message.project, message.queue, message.public_id, subscription_id)


def _is_early(record: DeliveryRecord | None) -> bool:
    return record is not None and (record.state is State.IN_FLIGHT or _is_unsettled(record))


def _is_unsettled(record: DeliveryRecord | None) -> bool:
    return record is not None and not (record.log or record.state.ended)


def _is_over(record: DeliveryRecord | None, target: int) -> bool:
    attempted = [line.target for line in record.log if line.outcome is not None] if record else []
    return bool(attempted) and attempted[-1] != target


class _Heard(NamedTuple):
    message_id: str
    subscription_id: str
    receipt: Receipt
    until: float
    """``time.monotonic()`` seconds: then it is not waited any longer for the outcome of the attempt."""


class Receipts:
    """What notifiers hear over connections of their own, and a thread that stores it. While the storage is away `MOST` of them
    wait in memory; what is not stored when the process ends is lost."""

    MOST = 10_000
    PATIENCE = 30.0

    def __init__(self, storage: Storage, wake: Callable[[], None]) -> None:
        """``wake`` tells the workers that there is work."""
        self._storage = storage
        self._wake = wake
        self._waiting: collections.deque[_Heard] = collections.deque()
        self._taken = 0
        """Those that are being stored."""
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._lost = 0
        self._away = False

    def put(self, message_id: str, subscription_id: str, receipt: Receipt) -> None:
        """Quick. Safe to call from any thread."""
        heard = _Heard(message_id, subscription_id, receipt, time.monotonic() + self.PATIENCE)
        with self._changed:
            if self._closing or self._taken + len(self._waiting) >= self.MOST:
                if not self._lost:
                    LOG.warning("reports of deliveries are lost: %d wait for the storage", self.MOST)
                self._lost += 1
                return
            self._waiting.append(heard)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="receipts", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self, wait: float = 5.0) -> None:
        """What is here is stored, where the storage takes it within ``wait`` seconds."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(wait)
        lost = self._lost + self._taken + len(self._waiting)
        if lost:
            LOG.warning("%d reports of deliveries were not stored", lost)

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            left = self._store_all(batch)
            with self._changed:
                self._waiting.extendleft(reversed(left))
                self._taken = 0
                if self._closing:
                    return
                if left:
                    self._changed.wait_for(lambda: self._closing, _AGAIN)

    def _next(self) -> list[_Heard] | None:
        """None: there will be nothing more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._waiting)
            batch = list(self._waiting)
            self._waiting.clear()
            self._taken = len(batch)
            return batch or None

    def _store_all(self, batch: Iterable[_Heard]) -> list[_Heard]:
        """Returns what is left for another time."""
        waiting = collections.deque(batch)
        left: list[_Heard] = []
        while waiting:
            heard = waiting.popleft()
            try:
                if not self._store(heard):
                    left.append(heard)
                self._away = False
            except StorageUnavailable as error:
                if not self._away:
                    LOG.warning("reports of deliveries wait for the storage: %s", error)
                self._away = True
                return [*left, heard, *waiting]
            except Exception:  # what one of them does must not stop the others
                LOG.exception("a report of a delivery could not be stored")
        return left

    def _store(self, heard: _Heard) -> bool:
        stored = store(self._storage, heard.message_id, heard.subscription_id, heard.receipt)
        if stored is Stored.EARLY and time.monotonic() < heard.until:
            return False
        if stored is Stored.NEW:
            its_id = delivery_id(heard.message_id, heard.subscription_id)
            LOG.info("delivery=%s %s: %s", its_id, heard.receipt.kind.value, heard.receipt.detail)
            if heard.receipt.kind is ReceiptKind.FAILED:
                self._wake()
        return True
