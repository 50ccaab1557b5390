"""Housekeeping in bounded steps: what is due for a look is read, and what came of it is written where nothing has happened to
it since. Where two documents have to agree there is a transaction.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from pymongo import DeleteOne, UpdateOne

from zaqar_notify.model import LogEntry, State
from zaqar_notify.storage.mongodb import floors, ledger, looking
from zaqar_notify.storage.mongodb.collections import (
    ALERTS,
    CLAIMS,
    DELIVERIES,
    DELIVERY_LOG,
    JOBS,
    LANES,
    LIVE,
    MESSAGES,
    PROJECTS,
    QUEUES,
    SUBSCRIPTIONS,
    WINDOWS,
    Document,
    changes,
    of_delivery_key,
)
from zaqar_notify.storage.mongodb.loading import cancelled_with_queue, is_deleted
from zaqar_notify.storage.mongodb.scope import Scope
from zaqar_notify.storage.mongodb.session import Database
from zaqar_notify.storage.mongodb.taking import Pipeline, gathered
from zaqar_notify.storage.retention import Retention

_IDLE = 3600.0
"""Seconds after which a breaker is forgotten that nothing waits for: nobody has probed its endpoint since."""
_MESSAGES_OF_A_CLAIM = 20
"""As many as a claim has at most, unless the operator allows more."""


def prune(database: Database, now: float, retention: Retention, limit: int) -> int:
    """Each step looks first, and costs a look where there is nothing to do."""
    looks = database.read(lambda scope: looking.look_at_messages(scope, now, retention, limit))
    changed = database.write(lambda scope: looking.store_looks(scope, looks, now)) if looks else 0
    for step in _STEPS:
        work = functools.partial(step, now=now, retention=retention, limit=max(1, limit - changed))
        changed += database.alone(work)
    if database.alone(lambda scope: bool(_expired(scope, now, 1))):
        work = functools.partial(_end_expired, now=now, retention=retention, limit=max(1, limit - changed))
        changed += database.write(work)
    return changed


def _used(scope: Scope, collection: str, field: str, numbers: Collection[int], **conditions: Any) -> set[int]:
    """Those that some document has in this field."""
    parts: list[Pipeline] = [
        [{"$match": {field: number, **conditions}}, {"$limit": 1}, {"$project": {field: 1}}] for number in numbers
    ]
    return {int(document[field]) for document in gathered(scope[collection], collection, parts)}


# -- queues and subscriptions --------------------------------------------------------------------------------------------------


def _prune_queues(scope: Scope, *, now: float, retention: Retention, limit: int) -> int:
    found = _due(scope, QUEUES, now, limit, ["prune_at", "project_id"])
    used = _used(scope, MESSAGES, "queue_id", [queue["_id"] for queue in found])
    _remove_or_wait(scope, QUEUES, found, used, now + retention.look_again)
    _remove_projects(scope, {queue["project_id"] for queue in found if queue["_id"] not in used})
    return len(found)


def _due(scope: Scope, collection: str, now: float, limit: int, fields: Sequence[str]) -> list[Document]:
    its: dict[str, Any] = {"sort": [("prune_at", 1)], "limit": limit, "hint": f"ix_{collection}_prune"}
    return scope[collection].find({"prune_at": {"$lte": now}}, fields, **its)


def _remove_or_wait(scope: Scope, collection: str, found: Iterable[Document], used: Collection[int], until: float) -> None:
    requests: list[Any] = []
    for one in found:
        as_read = {"_id": one["_id"], "prune_at": one["prune_at"]}
        later = UpdateOne(as_read, {"$set": {"prune_at": until}})
        requests.append(later if one["_id"] in used else DeleteOne(as_read))
    scope[collection].bulk_write(requests)


def _remove_projects(scope: Scope, numbers: Collection[int]) -> None:
    """Those without queues and lanes. Whoever makes one counts up the ``uses`` of its project."""
    if not numbers:
        return
    found = scope[PROJECTS].find({"_id": {"$in": list(numbers)}}, ["uses"])
    used = _used(scope, QUEUES, "project_id", numbers) | _used(scope, LANES, "project_id", numbers)
    as_read = [{"_id": one["_id"], "uses": one.get("uses")} for one in found if one["_id"] not in used]
    scope[PROJECTS].bulk_write([DeleteOne(one) for one in as_read])


def _prune_subscriptions(scope: Scope, *, now: float, retention: Retention, limit: int) -> int:
    found = _due(scope, SUBSCRIPTIONS, now, limit, ["prune_at", "deleted_at", "expires_at"])
    expired = [one for one in found if one["deleted_at"] == LIVE]
    scope[SUBSCRIPTIONS].bulk_write([_expire(one, retention) for one in expired])
    deleted = [one for one in found if one["deleted_at"] != LIVE]
    numbers = [one["_id"] for one in deleted]
    used = _used(scope, DELIVERY_LOG, "subscription_id", numbers) | _used(scope, DELIVERIES, "subscription_id", numbers)
    if deleted:
        floors.keep(scope, {SUBSCRIPTIONS: max(numbers)})
    _remove_or_wait(scope, SUBSCRIPTIONS, deleted, used, now + retention.look_again)
    return len(found)


def _expire(subscription: Document, retention: Retention) -> UpdateOne:
    expires_at = subscription["expires_at"]
    as_read = {"_id": subscription["_id"], "deleted_at": LIVE, "expires_at": expires_at}
    return UpdateOne(as_read, {"$set": {"deleted_at": expires_at, "prune_at": expires_at + retention.log}})


# -- rows of expired messages --------------------------------------------------------------------------------------------------


def _expired(scope: Scope, now: float, limit: int) -> list[Document]:
    """Rows that nobody has leased, of messages that are over: those that the workers have not been given, and those that they
    have not ended in time. Some messages may live longer than the row says."""
    fields = ["subscription_id", "lines", "ends_at", "expires_at", "again"]
    found: list[Document] = []
    for due in ({"ends_at": None, "expires_at": {"$lte": now}}, {"ends_at": {"$gt": 0.0, "$lte": now}}):
        if len(found) < limit:
            its: dict[str, Any] = {"limit": limit - len(found), "hint": "ix_deliveries_expires"}
            found += scope[DELIVERIES].find({**due, "lease": None}, fields, **its)
    return found


def _end_expired(scope: Scope, *, now: float, retention: Retention, limit: int) -> int:
    """They are handed to the workers, which tell whom it concerns.

    Those of what was deleted end here, in the log; so do those that no worker has ended in time.
    """
    found = _expired(scope, now, limit)
    origins = _Origins(scope, found)
    requests: list[Any] = []
    lines: list[Document] = []
    for row in found:
        key = {"_id": row["_id"]}
        expires_at = origins.expires_at(row)
        deleted = origins.deleted(row)
        if expires_at > now:
            requests.append(UpdateOne(key, changes({"expires_at": expires_at, "ends_at": None})))
        elif not deleted and "ends_at" not in row:
            # At once, and in no lane: once.
            handed = {"due_at": 0.0, "lane_id": None, "ends_at": now + retention.look_again}
            requests.append(UpdateOne(key, changes(handed)))
        else:
            requests.append(DeleteOne(key))
            end = LogEntry(row["lines"] + 1, now, State.CANCELLED if deleted else State.EXPIRED)
            lines.append(ledger.line(*of_delivery_key(row["_id"]), end))
    scope[DELIVERIES].bulk_write(requests)
    scope[DELIVERY_LOG].insert_many(lines)
    return len(found)


class _Origins:
    """Messages, queues and subscriptions of rows."""

    def __init__(self, scope: Scope, rows: Sequence[Document]) -> None:
        messages = {"_id": {"$in": list({of_delivery_key(row["_id"])[0] for row in rows})}}
        found = scope[MESSAGES].find(messages, ["queue_id", "expires_at", "kind"])
        self._messages = {message["_id"]: message for message in found}
        queues = {"_id": {"$in": list({message["queue_id"] for message in found})}}
        self._queues = {queue["_id"]: queue for queue in scope[QUEUES].find(queues, ["deleted_at"])}
        subscriptions = {"_id": {"$in": list({row["subscription_id"] for row in rows})}}
        of_rows = scope[SUBSCRIPTIONS].find(subscriptions, ["deleted_at", "expires_at"])
        self._subscriptions = {subscription["_id"]: subscription for subscription in of_rows}

    def expires_at(self, row: Document) -> float:
        """Redeliveries have one of their own."""
        of = row if row["again"] > 0 else self._messages[of_delivery_key(row["_id"])[0]]
        return float(of["expires_at"])

    def deleted(self, row: Document) -> bool:
        message = self._messages[of_delivery_key(row["_id"])[0]]
        subscription = self._subscriptions.get(row["subscription_id"])
        if cancelled_with_queue(message, self._queues[message["queue_id"]]):
            return True
        return subscription is None or is_deleted(subscription)


# -- claims and delays ---------------------------------------------------------------------------------------------------------


def _end_delays(scope: Scope, *, now: float, retention: Retention, limit: int) -> int:
    """Messages whose delay has ended are like any other."""
    over = {"claim_id": None, "free_at": {"$gt": 0.0, "$lte": now}, "deleted_at": LIVE}
    found = scope[MESSAGES].find(over, ["_id"], limit=limit, hint="ix_messages_claim")
    if not found:
        return 0
    return scope[MESSAGES].update_many({**over, "_id": _in(found)}, {"$set": {"free_at": 0.0}})


def _end_claims(scope: Scope, *, now: float, retention: Retention, limit: int) -> int:
    """So are those whose claim has ended; the claims are removed. An ended claim cannot be renewed."""
    in_order: dict[str, Any] = {"sort": [("expires_at", 1)], "limit": max(1, limit // _MESSAGES_OF_A_CLAIM)}
    ended = scope[CLAIMS].find({"expires_at": {"$lte": now}}, ["_id"], **in_order)
    if not ended:
        return 0
    theirs = {"claim_id": _in(ended), "free_at": {"$gt": 0.0}, "deleted_at": LIVE}
    found = scope[MESSAGES].find(theirs, ["_id"], limit=limit, hint="ix_messages_claim")
    if found:
        scope[MESSAGES].update_many({**theirs, "_id": _in(found)}, changes({"free_at": 0.0, "claim_id": None}))
    if len(found) == limit:
        return limit
    floors.keep(scope, {CLAIMS: max(claim["_id"] for claim in ended)})
    return len(found) + scope[CLAIMS].delete_many({"_id": _in(ended)})


def _in(found: Iterable[Document]) -> Document:
    return {"$in": [document["_id"] for document in found]}


# -- alerts, lanes, windows, jobs ----------------------------------------------------------------------------------------------


def _forget_alerts(scope: Scope, *, now: float, retention: Retention, limit: int) -> int:
    found = _due(scope, ALERTS, now, limit, ["_id"])
    return scope[ALERTS].delete_many({"_id": _in(found), "prune_at": {"$lte": now}}) if found else 0


def _remove_idle_lanes(scope: Scope, *, now: float, retention: Retention, limit: int) -> int:
    idle = {"trips": {"$gt": 0}, "probe_at": {"$lte": now - _IDLE}}
    found = scope[LANES].find(idle, ["touches"], limit=limit, hint="ix_lanes_open")
    used = _used(scope, DELIVERIES, "lane_id", [lane["_id"] for lane in found], due_at=None)
    # Whoever parks something in one counts up its ``touches``.
    as_read = [{**idle, "_id": lane["_id"], "touches": lane.get("touches")} for lane in found if lane["_id"] not in used]
    scope[LANES].bulk_write([DeleteOne(one) for one in as_read])
    return len(as_read)


def _remove_windows(scope: Scope, *, now: float, retention: Retention, limit: int) -> int:
    """Those that have ended, and in whose place none was opened."""
    over = {"ends_at": {"$lte": now}}
    found = scope[WINDOWS].find(over, ["_id"], limit=limit, hint="ix_windows_ends")
    return scope[WINDOWS].delete_many({**over, "_id": _in(found)}) if found else 0


def _remove_failed_jobs(scope: Scope, *, now: float, retention: Retention, limit: int) -> int:
    failed = {"failed_at": {"$lte": now - retention.log}}
    found = scope[JOBS].find(failed, ["_id"], sort=[("failed_at", 1)], limit=limit, hint="ix_jobs_failed")
    return scope[JOBS].delete_many({**failed, "_id": _in(found)}) if found else 0


def _remove_messages(scope: Scope, *, now: float, retention: Retention, limit: int) -> int:
    return looking.remove_messages(scope, limit)


_STEPS = (
    _prune_queues,
    _prune_subscriptions,
    _end_delays,
    _end_claims,
    _forget_alerts,
    _remove_idle_lanes,
    _remove_windows,
    _remove_failed_jobs,
    _remove_messages,
)
