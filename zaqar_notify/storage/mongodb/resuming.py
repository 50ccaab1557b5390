"""One delivery again, or not at all, because somebody says so."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from zaqar_notify.errors import Conflict, NotFound
from zaqar_notify.model import LogEntry, State
from zaqar_notify.storage.codes import STATES
from zaqar_notify.storage.mongodb import arrivals, ledger, looking
from zaqar_notify.storage.mongodb.collections import (
    DELIVERIES,
    DELIVERY_LOG,
    JOBS,
    LIVE,
    MESSAGES,
    OUTBOX,
    QUEUES,
    Document,
    delivery_key,
    lines_of_delivery,
    of_line_key,
)
from zaqar_notify.storage.mongodb.jobs import covering
from zaqar_notify.storage.mongodb.reading import Place

_UNKNOWN = "There is no such delivery (any more)."
# Whoever takes it next has to ask what is known of it.
_CANCEL_OF_ENTRY: Mapping[str, Any] = {"$inc": {"takes": 1, "cancelled": 1}}
_CANCEL_OF_JOB: Mapping[str, Any] = {"$inc": {"cancelled": 1}}


@dataclasses.dataclass(frozen=True, slots=True)
class _Delivery:
    """The message, also one that is over, and what is open of this one delivery."""

    message: Document
    project_id: int
    covered: bool
    """By an outbox entry or a job, which is not matched with it yet or does not know what became of it."""
    row: Document | None
    last_line: tuple[int, State] | None
    """So many are in its log, and where the last one put it."""

    @property
    def ended(self) -> bool:
        if self.row is not None:
            return False
        return not self.covered or (self.last_line is not None and self.last_line[1].ended)


def redeliver(place: Place, message_id: str, subscription: int, ttl: float) -> None:
    """``message_id`` is the public one."""
    found = _find(place, message_id, subscription)
    message, now, expires_at = found.message, place.now, place.now + ttl
    if not found.ended:
        raise Conflict("The delivery has not ended: cancel it first, or wait.")
    if not message["body"]:
        raise Conflict("The body of the message is not kept any more.")
    lines = found.last_line[0] if found.last_line is not None else 0
    place.scope[DELIVERIES].insert_one(
        {
            "_id": delivery_key(message["_id"], subscription),
            "subscription_id": subscription,
            "due_at": 0.0,
            "attempts": 0,
            "lines": lines,
            "expires_at": expires_at,
            "project_id": found.project_id,
            "again": lines,
        }
    )
    looking.look_again(place.scope, message, now, min(expires_at, now + place.means.retention.look_again))


def cancel(place: Place, message_id: str, subscription: int) -> None:
    """``message_id`` is the public one."""
    found = _find(place, message_id, subscription)
    if found.ended:
        raise Conflict("The delivery has ended.")
    message = found.message["_id"]
    number = found.last_line[0] if found.last_line is not None else 0
    if found.row is None:
        place.scope[OUTBOX].update_one({"_id": message}, _CANCEL_OF_ENTRY)
        place.scope[JOBS].update_many({"message_id": message, **covering(subscription)}, _CANCEL_OF_JOB)
    else:
        place.scope[DELIVERIES].delete_one({"_id": found.row["_id"]})
        number = max(number, found.row["lines"])
    entry = LogEntry(number + 1, place.now, State.CANCELLED)
    place.scope[DELIVERY_LOG].insert_one(ledger.line(message, subscription, entry))


def _find(place: Place, message_id: str, subscription: int) -> _Delivery:
    scope = place.scope
    number = arrivals.find_message(scope, place.project, place.queue, message_id)
    message = None if number is None else scope[MESSAGES].find_one({"_id": number})
    queue = None if message is None else scope[QUEUES].find_one({"_id": message["queue_id"], "deleted_at": LIVE})
    if message is None or queue is None:
        raise NotFound(_UNKNOWN)
    its_lines = {"_id": lines_of_delivery(message["_id"], subscription)}
    last = scope[DELIVERY_LOG].find_one(its_lines, ["state"], sort=[("_id", -1)])
    found = _Delivery(
        message,
        queue["project_id"],
        _is_covered(place, message["_id"], subscription),
        scope[DELIVERIES].find_one({"_id": delivery_key(message["_id"], subscription)}),
        None if last is None else (of_line_key(last["_id"])[2], STATES[last["state"]]),
    )
    if found.row is None and found.last_line is None and not found.covered:
        raise NotFound(_UNKNOWN)
    return found


def _is_covered(place: Place, message: int, subscription: int) -> bool:
    entry = place.scope[OUTBOX].find_one({"_id": message}, ["after_id"])
    if entry is not None and entry.get("after_id", 0) < subscription:
        return True
    return place.scope[JOBS].find_one({"message_id": message, **covering(subscription)}, ["_id"]) is not None
