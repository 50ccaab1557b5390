"""What was heard of deliveries after they had been accepted.

A receipt is there as long as the log of its delivery: whoever stores one touches a line of that, and so meets whoever removes
it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from zaqar_notify.model import OutcomeKind, Receipt, ReceiptKind, State
from zaqar_notify.storage.codes import OUTCOME_CODES, RECEIPT_CODES, RECEIPT_KINDS, STATE_CODES
from zaqar_notify.storage.mongodb import looking
from zaqar_notify.storage.mongodb.collections import (
    DELIVERIES,
    DELIVERY_LOG,
    MESSAGES,
    QUEUES,
    RECEIPTS,
    SUBSCRIPTIONS,
    Document,
    delivery_key,
    lines_of_delivery,
    of_line_key,
    of_receipt_key,
    receipt_key,
    without_nulls,
)
from zaqar_notify.storage.mongodb.loading import cancelled_with_queue, is_deleted
from zaqar_notify.storage.mongodb.scope import Scope
from zaqar_notify.storage.retention import Retention

_USE_UP = [OUTCOME_CODES[kind] for kind in (OutcomeKind.DELIVERED, OutcomeKind.RETRY, OutcomeKind.REJECTED, OutcomeKind.GONE)]
"""Outcomes that use up an attempt."""


def receive(scope: Scope, delivery: tuple[int, int], receipt: Receipt, now: float, retention: Retention) -> bool:
    """``delivery``: its message and its subscription."""
    message, subscription = delivery
    key = receipt_key(message, subscription, RECEIPT_CODES[receipt.kind])
    last = scope[DELIVERY_LOG].find_one({"_id": lines_of_delivery(message, subscription)}, ["state"], sort=[("_id", -1)])
    if last is None:
        return False
    found = None
    if receipt.kind is ReceiptKind.FAILED and last["state"] == STATE_CODES[State.DELIVERED]:
        found = _insert_report(scope, message, subscription, receipt, of_line_key(last["_id"])[2])
    if found is not None:
        looking.look_again(scope, found, now, now + retention.look_again)
        scope[RECEIPTS].delete_one({"_id": key})
    elif scope[RECEIPTS].find_one({"_id": key}, ["_id"]) is not None:
        return False
    scope[RECEIPTS].insert_one({"_id": key, **_document(receipt)})
    scope[DELIVERY_LOG].update_one({"_id": last["_id"]}, {"$inc": {"touches": 1}})
    return True


def _insert_report(scope: Scope, message: int, subscription: int, receipt: Receipt, lines: int) -> Document | None:
    """A worker is to settle it, where there is still somebody whom it concerns, and no row. Returns the message then."""
    key = delivery_key(message, subscription)
    kept = {"_id": message, "prune_at": {"$gt": 0.0}}
    found = scope[MESSAGES].find_one(kept, ["queue_id", "kind", "expires_at", "prune_at"])
    queue = None if found is None else scope[QUEUES].find_one({"_id": found["queue_id"]}, ["deleted_at", "project_id"])
    owner = scope[SUBSCRIPTIONS].find_one({"_id": subscription}, ["deleted_at", "expires_at"])
    if found is None or queue is None or cancelled_with_queue(found, queue) or owner is None or is_deleted(owner):
        return None
    if scope[DELIVERIES].find_one({"_id": key}, ["_id"]) is not None:
        return None
    attempts, target = _attempts(scope, message, subscription)
    row = {"_id": key, "subscription_id": subscription, "due_at": 0.0, "lines": lines, "attempts": attempts, "target": target}
    # It has to be settled whenever that is.
    never = {"expires_at": math.inf, "again": 0}
    scope[DELIVERIES].insert_one(without_nulls({**row, **never, "project_id": queue["project_id"], "report": _text(receipt)}))
    return found


def _attempts(scope: Scope, message: int, subscription: int) -> tuple[int, int | None]:
    """How many were used up, and the target of the last one."""
    its = {"_id": lines_of_delivery(message, subscription), "outcome": {"$exists": True}}
    attempts = scope[DELIVERY_LOG].find(its, ["outcome", "target"], sort=[("_id", 1)])
    used_up = sum(line["outcome"] in _USE_UP for line in attempts)
    return max(used_up, 1), attempts[-1].get("target") if attempts else None


# -- what a document stands for ------------------------------------------------------------------------------------------------


def of(scope: Scope, pairs: Sequence[tuple[int, int]]) -> dict[tuple[int, int], list[Receipt]]:
    """By message and subscription, the oldest first."""
    keys = [receipt_key(*pair, kind) for pair in pairs for kind in RECEIPT_KINDS]
    of_pairs: dict[tuple[int, int], list[Receipt]] = {}
    for document in scope[RECEIPTS].find({"_id": {"$in": keys}}) if keys else []:
        message, subscription, kind = of_receipt_key(document["_id"])
        of_pairs.setdefault((message, subscription), []).append(_receipt(RECEIPT_KINDS[kind], document))
    return {pair: sorted(receipts, key=lambda one: one.at) for pair, receipts in of_pairs.items()}


def _text(receipt: Receipt) -> str:
    """Of the report of a row."""
    return json.dumps({"at": receipt.at, "detail": receipt.detail, "gone": receipt.gone})


def _receipt(kind: ReceiptKind, document: Document) -> Receipt:
    return Receipt(kind, document["at"], document.get("detail", ""), document.get("gone", False))


def _document(receipt: Receipt) -> Document:
    return without_nulls({"at": receipt.at, "detail": receipt.detail or None, "gone": receipt.gone or None})
