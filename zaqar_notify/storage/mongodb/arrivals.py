"""Did it arrive? Pages of deliveries, merged from the log, the rows, the open outbox entries and the jobs of huge fan-outs.

Each part is read by an index from where the page begins, and not much further than the page is long.
"""

from __future__ import annotations

import dataclasses
import functools
import heapq
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from zaqar_notify.model import DeliveryRecord, LogEntry
from zaqar_notify.storage import ids, standing
from zaqar_notify.storage.base import MOST_LINES
from zaqar_notify.storage.bodies import Bodies
from zaqar_notify.storage.codes import OUTCOMES, STATES
from zaqar_notify.storage.mongodb import publishing, receipts
from zaqar_notify.storage.mongodb.collections import (
    DELIVERIES,
    DELIVERY_LOG,
    JOBS,
    LIVE,
    MESSAGES,
    OUTBOX,
    QUEUES,
    SUBSCRIPTIONS,
    Document,
    deliveries_of,
    delivery_key,
    line_key,
    lines_of_delivery,
    of_delivery_key,
    of_line_key,
)
from zaqar_notify.storage.mongodb.jobs import covering
from zaqar_notify.storage.mongodb.loading import cancelled_with_queue, is_deleted
from zaqar_notify.storage.mongodb.scope import Scope
from zaqar_notify.storage.mongodb.taking import Pipeline, gathered
from zaqar_notify.storage.standing import Open

_REMOVED = (True, False)
_LAST_LINE = 2**32 - 1
_GREATEST = 2**63 - 1


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """What of them is handed out, and at what moment."""

    limit: int
    now: float
    exchanges: Bodies | None
    """What opens what went over the wire; None: it is left out."""


def find_message(scope: Scope, project: str, queue: str, public_id: str) -> int | None:
    """By its foreign id where it has one, whatever became of it. The newest, where another service used an id twice."""
    found = scope[MESSAGES].find({"foreign_id": public_id, "prune_at": {"$gt": 0.0}}, ["queue_id"])
    number = ids.parse(public_id)
    if number is not None:
        found += scope[MESSAGES].find({"_id": number, "foreign_id": None, "prune_at": {"$gt": 0.0}}, ["queue_id"])
    asked = {"_id": {"$in": list({message["queue_id"] for message in found})}, "project": project, "name": queue}
    queues = {document["_id"] for document in scope[QUEUES].find(asked, ["_id"])} if found else set()
    return max((int(message["_id"]) for message in found if message["queue_id"] in queues), default=None)


def find_marker(scope: Scope, project: str, queue: str, marker: str | None) -> int | None:
    """The id within of the message id ``marker``. Raises `InvalidRequest` for what cannot be one."""
    found = None if marker is None else find_message(scope, project, queue, marker)
    return ids.parse_marker(marker) if found is None else found


# -- of a message --------------------------------------------------------------------------------------------------------------


def of_message(scope: Scope, project: str, queue: str, message_id: int, *, behind: int, wanted: Wanted) -> list[DeliveryRecord]:
    """``message_id`` is one that `find_message` has found."""
    limit = wanted.limit
    matching = functools.partial(_matching, scope, project, queue, now=wanted.now)
    rows = scope[DELIVERIES].find({"_id": deliveries_of(message_id, behind)}, ["_id"], sort=[("_id", 1)], limit=limit)
    parts = [
        _in_log(functools.partial(_lines_of_message, scope, message_id, limit), behind, limit),
        [of_delivery_key(row["_id"])[1] for row in rows],
        _in_ranges(_ranges_behind(scope, message_id, behind), limit, matching),
    ]
    entry = scope[OUTBOX].find_one({"_id": message_id}, ["after_id"])
    if entry is not None:
        parts.append(matching(max(behind, entry.get("after_id", 0)), limit=limit))
    return _records(scope, [(message_id, subscription) for subscription in _merge(parts, limit)], wanted)


def _lines_of_message(scope: Scope, message: int, limit: int, behind: int) -> list[int]:
    """The subscriptions of the next lines."""
    following = {"$gt": line_key(message, behind, _LAST_LINE), "$lte": line_key(message, _GREATEST, _LAST_LINE)}
    found = scope[DELIVERY_LOG].find({"_id": following}, ["_id"], sort=[("_id", 1)], limit=limit)
    return [of_line_key(line["_id"])[1] for line in found]


def _in_log(following: Callable[[int], list[int]], start: int, limit: int) -> list[int]:
    """Each that is found in the lines once. What has very many lines is passed over with one look into the index."""
    found: dict[int, None] = {}
    behind = start
    while len(found) < limit and (lines := following(behind)):
        found.update(dict.fromkeys(lines))
        behind = lines[-1]
        if len(lines) < limit:
            break
    return list(found)[:limit]


def _matching(
    scope: Scope, project: str, queue: str, behind: int, last: int = _GREATEST, *, now: float, limit: int
) -> list[int]:
    """Subscriptions that an open entry of the queue is still to be matched with."""
    live = {"project": project, "queue": queue, "deleted_at": LIVE, "_id": {"$gt": behind, "$lte": last}}
    unexpired = {"$or": [{"expires_at": None}, {"expires_at": {"$gt": now}}]}
    in_order: dict[str, Any] = {"sort": [("_id", 1)], "hint": "ix_subscriptions_queue", "limit": limit}
    return [found["_id"] for found in scope[SUBSCRIPTIONS].find({**live, **unexpired}, ["_id"], **in_order)]


def _ranges_behind(scope: Scope, message: int, behind: int) -> list[tuple[int, int]]:
    """Of each job of the message, in order: the part of its range behind this subscription. Ranges do not overlap."""
    open_jobs = scope[JOBS].find({"message_id": message}, ["after_id", "last_id"], hint="ix_jobs_message")
    ranges = sorted((job.get("after_id", 0), job.get("last_id", _GREATEST)) for job in open_jobs)
    return [(max(behind, begins), last) for begins, last in ranges if last > behind]


def _in_ranges(ranges: Iterable[tuple[int, int]], limit: int, matching: Callable[..., list[int]]) -> list[int]:
    """Subscriptions that jobs of a message are still to be matched with."""
    found: list[int] = []
    for behind, last in ranges:
        if len(found) < limit:
            found += matching(behind, last, limit=limit - len(found))
    return found


# -- of a subscription ---------------------------------------------------------------------------------------------------------


def of_subscription(
    scope: Scope, project: str, queue: str, subscription_id: int, *, before: int | None, wanted: Wanted
) -> list[DeliveryRecord] | None:
    its = {"_id": subscription_id, "project": project, "queue": queue}
    subscription = scope[SUBSCRIPTIONS].find_one(its, ["deleted_at", "expires_at"])
    if subscription is None:
        return None
    limit, end = wanted.limit, _GREATEST if before is None else before
    rows = scope[DELIVERIES].find(
        {"subscription_id": subscription_id, "_id": {"$lt": delivery_key(end, 0)}},
        ["_id"],
        sort=[("_id", -1)],
        limit=limit,
        hint="ix_deliveries_subscription",
    )
    parts = [
        _in_log(functools.partial(_lines_of_subscription, scope, subscription_id, limit), end, limit),
        [of_delivery_key(row["_id"])[0] for row in rows],
    ]
    expires_at = subscription.get("expires_at")
    if subscription["deleted_at"] == LIVE and (expires_at is None or expires_at > wanted.now):
        found = publishing.find_queue(scope, project, queue)
        if found is not None:
            parts += _open_messages(scope, found["_id"], subscription_id, end, limit)
    page = _merge(parts, limit, newest_first=True)
    return _records(scope, [(message_id, subscription_id) for message_id in page], wanted)


def _lines_of_subscription(scope: Scope, subscription: int, limit: int, end: int) -> list[int]:
    """The messages of the lines before, the newest first."""
    before = {"subscription_id": subscription, "_id": {"$lt": line_key(end, 0, 0)}}
    in_order: dict[str, Any] = {"sort": [("_id", -1)], "hint": "ix_delivery_log_subscription", "limit": limit}
    return [of_line_key(line["_id"])[0] for line in scope[DELIVERY_LOG].find(before, ["_id"], **in_order)]


def _open_messages(scope: Scope, queue_id: int, subscription: int, end: int, limit: int) -> list[list[int]]:
    """Messages that are still to be matched with it: those of the outbox, and those of jobs."""
    uncovered = {"$or": [{"after_id": None}, {"after_id": {"$lt": subscription}}]}
    entries = scope[OUTBOX].find(
        {"queue_id": queue_id, "_id": {"$lt": end}, **uncovered},
        ["_id"],
        sort=[("_id", -1)],
        limit=limit,
        hint="ix_outbox_queue",
    )
    parts = scope[JOBS].find(
        {"queue_id": queue_id, "message_id": {"$lt": end}, **covering(subscription)},
        ["message_id"],
        sort=[("message_id", -1)],
        limit=limit,
        hint="ix_jobs_queue",
    )
    return [[entry["_id"] for entry in entries], [part["message_id"] for part in parts]]


# -- records -------------------------------------------------------------------------------------------------------------------


def _merge(found: Iterable[Sequence[int]], limit: int, *, newest_first: bool = False) -> list[int]:
    merged = (number for number, _ in itertools.groupby(heapq.merge(*found, reverse=newest_first)))
    return list(itertools.islice(merged, limit))


def _records(scope: Scope, pairs: Sequence[tuple[int, int]], wanted: Wanted) -> list[DeliveryRecord]:
    """One for each pair of message and subscription; of one message, or of one subscription."""
    message_ids, subscription_ids = {pair[0] for pair in pairs}, {pair[1] for pair in pairs}
    now = wanted.now
    log = _log(scope, pairs, wanted.exchanges)
    heard = receipts.of(scope, pairs)
    rows = _rows(scope, pairs, now)
    entries = _entries(scope, message_ids)
    ranges = _ranges(scope, message_ids)
    of_messages = _of_messages(scope, message_ids, now)
    of_subscriptions = _of_subscriptions(scope, subscription_ids, now)
    records = []
    for message, subscription in pairs:
        public_id, cancelled, expired = of_messages.get(message, (ids.show(message), *_REMOVED))
        its_cancelled, its_expired = of_subscriptions.get(subscription, _REMOVED)
        row = rows.get((message, subscription))
        records.append(
            standing.record(
                public_id,
                ids.show(subscription),
                log.get((message, subscription), ()),
                row or entries.get(message) or _in_range(ranges.get(message, ()), subscription),
                cancelled=cancelled or its_cancelled,
                expired=its_expired or (expired if row is None or row.expires_at is None else row.expires_at <= now),
                now=now,
                receipts=heard.get((message, subscription), ()),
            )
        )
    return records


def _of_messages(scope: Scope, message_ids: set[int], now: float) -> dict[int, tuple[str, bool, bool]]:
    """Its id outside, whether it was cancelled with its queue, and whether it is expired."""
    fields = ["foreign_id", "queue_id", "kind", "expires_at"]
    messages = scope[MESSAGES].find({"_id": {"$in": list(message_ids)}}, fields)
    asked = list({message["queue_id"] for message in messages})
    queues = {queue["_id"]: queue for queue in scope[QUEUES].find({"_id": {"$in": asked}}, ["deleted_at"])}
    return {
        message["_id"]: (
            message.get("foreign_id") or ids.show(message["_id"]),
            cancelled_with_queue(message, queues[message["queue_id"]]),
            message["expires_at"] <= now,
        )
        for message in messages
        if message["queue_id"] in queues
    }


def _of_subscriptions(scope: Scope, subscription_ids: set[int], now: float) -> dict[int, tuple[bool, bool]]:
    """Whether it was deleted, and whether it is expired."""
    found = scope[SUBSCRIPTIONS].find({"_id": {"$in": list(subscription_ids)}}, ["deleted_at", "expires_at"])
    return {one["_id"]: (is_deleted(one), "expires_at" in one and one["expires_at"] <= now) for one in found}


def _log(scope: Scope, pairs: Sequence[tuple[int, int]], exchanges: Bodies | None) -> dict[tuple[int, int], list[LogEntry]]:
    """The last lines of each. A range of its own lines: it costs the same however many there are."""
    parts: list[Pipeline] = [
        [
            {"$match": {"_id": lines_of_delivery(*pair)}},
            {"$sort": {"_id": -1}},
            {"$limit": MOST_LINES},
            *([] if exchanges is not None else [{"$project": {"exchange": 0}}]),
        ]
        for pair in pairs
    ]
    lines = sorted(gathered(scope[DELIVERY_LOG], DELIVERY_LOG, parts), key=lambda line: line["_id"])
    found: dict[tuple[int, int], list[LogEntry]] = {}
    for line in lines:
        found.setdefault(of_line_key(line["_id"])[:2], []).append(_entry(line, exchanges))
    return found


def _entry(line: Document, exchanges: Bodies | None) -> LogEntry:
    key, stored = of_line_key(line["_id"]), line.get("exchange")
    outcome, duration = line.get("outcome"), line.get("duration")
    return LogEntry(
        number=key[2],
        at=line["at"] / 1e3,
        state=STATES[line["state"]],
        outcome=None if outcome is None else OUTCOMES[outcome],
        status=line.get("status"),
        duration=None if duration is None else duration / 1e6,
        detail=line.get("detail", ""),
        target=line.get("target", 0),
        exchange=exchanges.exchange(*key, stored) if exchanges is not None and stored is not None else None,
    )


def _rows(scope: Scope, pairs: Sequence[tuple[int, int]], now: float) -> dict[tuple[int, int], Open]:
    asked = {"_id": {"$in": [delivery_key(*pair) for pair in pairs]}}
    fields = ["due_at", "lease", "again", "expires_at", "held", "report"]
    found = scope[DELIVERIES].find(asked, fields) if pairs else []
    return {
        of_delivery_key(row["_id"]): Open(
            row.get("due_at"),
            leased="lease" in row,
            row=True,
            expires_at=row["expires_at"] if row["again"] > 0 or "report" in row else None,
            held="held" in row and "lease" not in row and row["due_at"] > now,
        )
        for row in found
    }


def _entries(scope: Scope, message_ids: set[int]) -> dict[int, Open]:
    found = scope[OUTBOX].find({"_id": {"$in": list(message_ids)}}, ["due_at", "lease"])
    return {entry["_id"]: Open(entry["due_at"], leased="lease" in entry) for entry in found}


def _ranges(scope: Scope, message_ids: set[int]) -> dict[int, list[tuple[int, int]]]:
    """By message: behind which subscription, and up to which, it is still to be matched by jobs."""
    asked = {"message_id": {"$in": list(message_ids)}}
    found: dict[int, list[tuple[int, int]]] = {}
    for job in scope[JOBS].find(asked, ["message_id", "after_id", "last_id"], hint="ix_jobs_message"):
        found.setdefault(job["message_id"], []).append((job.get("after_id", 0), job.get("last_id", _GREATEST)))
    return found


def _in_range(ranges: Iterable[tuple[int, int]], subscription: int) -> Open | None:
    covered = any(after < subscription <= last for after, last in ranges)
    return Open(0.0, leased=False) if covered else None
