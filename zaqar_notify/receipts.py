"""What is heard of a delivery after the provider has accepted it, on its way into the storage."""

from __future__ import annotations

import enum
import time

from zaqar_notify.model import Receipt, ReceiptKind, State
from zaqar_notify.storage.base import Storage

_AGAIN = 0.2
"""Seconds between two looks whether a delivery is settled."""


class Stored(enum.Enum):
    NEW = "new"
    KNOWN = "known"  # it had one of this kind, or nothing is known of such a delivery (any more)
    EARLY = "early"  # its outcome is not stored yet, so that this has nothing to belong to


def store(storage: Storage, message_id: str, subscription_id: str, receipt: Receipt, patience: float = 0.0) -> Stored:
    """A report may be quicker than the outcome of the attempt that it is about, which is stored with others: it is waited for,
    for ``patience`` seconds. Raises `StorageUnavailable`."""
    end = time.monotonic() + patience
    while True:
        # A failure is to find a delivery that counts as delivered, or nobody would hear of it.
        if receipt.kind is not ReceiptKind.FAILED or not _is_early(storage, message_id, subscription_id):
            if storage.receive(message_id, subscription_id, receipt):
                return Stored.NEW
            if not _is_early(storage, message_id, subscription_id):
                return Stored.KNOWN
        if time.monotonic() >= end:
            return Stored.EARLY
        time.sleep(_AGAIN)


def _is_early(storage: Storage, message_id: str, subscription_id: str) -> bool:
    message = storage.load((message_id,), ()).messages.get(message_id)
    if message is None:
        return False
    record = storage.get_delivery(message.project, message.queue, message.public_id, subscription_id)
    return record is not None and (record.state is State.IN_FLIGHT or not (record.log or record.state.ended))
