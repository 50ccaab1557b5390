"""Long work: jobs and who holds them, and the huge fan-outs that are cut into ranges of subscribers.

Each update says all that has to be true of the job, so that none depends on what was read before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from zaqar_notify.model import Job
from zaqar_notify.storage import ids
from zaqar_notify.storage.base import CUT, RANGE
from zaqar_notify.storage.mongodb.collections import (
    JOBS,
    LIVE,
    MESSAGES,
    QUEUES,
    SUBSCRIPTIONS,
    Document,
    Filter,
    changes,
    without_nulls,
)
from zaqar_notify.storage.mongodb.scope import Scope

_PARTS = {"message_id": "message_id", "after": "after_id", "last": "last_id"}
"""The details of a part of a fan-out, and their fields."""


# -- jobs ----------------------------------------------------------------------------------------------------------------------


def add(scope: Scope, project: str, kind: str, details: Mapping[str, Any], now: float) -> str:
    part: Document = {}
    if kind in (CUT, RANGE):
        part = {field: None if details.get(name) is None else ids.parse(details[name]) for name, field in _PARTS.items()}
        message = scope[MESSAGES].find_one({"_id": part["message_id"]}, ["queue_id"])
        part["queue_id"] = None if message is None else message["queue_id"]
        details = {name: value for name, value in details.items() if name not in _PARTS}
    return _insert(scope, project, kind, now, part, details=json.dumps(dict(details)))


def _insert(scope: Scope, project: str, kind: str, now: float, part: Mapping[str, Any], *, details: str = "{}") -> str:
    number = scope.rising_id(JOBS, now)
    job = {"_id": number, "project": project, "kind": kind, "details": details, "created_at": now}
    fresh = {"held_until": 0.0, "takes": 0, "cancelled": 0, "due_at": 0.0}
    scope[JOBS].insert_one({**job, **fresh, **without_nulls(part)})
    return ids.show(number)


def page(scope: Scope, behind: int, limit: int, failed: bool | None) -> list[Job]:
    wanted: dict[str, Any] = {"_id": {"$gt": behind}}
    if failed is not None:
        wanted["failed_at"] = {"$exists": failed}
    return [_job(found) for found in scope[JOBS].find(wanted, sort=[("_id", 1)], limit=limit)]


def get(scope: Scope, number: int) -> Job | None:
    found = scope[JOBS].find_one({"_id": number})
    return None if found is None else _job(found)


def hold(scope: Scope, worker_id: int, number: int | None, now: float, until: float) -> Job | None:
    """``number`` None: the oldest that nobody holds."""
    wanted: dict[str, Any] = {"failed_at": None, "held_until": {"$lte": now}}
    if number is not None:
        wanted = {"_id": number, "failed_at": None, "$or": [{"held_until": {"$lte": now}}, {"worker_id": worker_id}]}
    # Who goes on holding it keeps the page that is under way; of another holder, the page is free.
    mine = {"$eq": ["$worker_id", worker_id]}
    goes_on = {"$and": [mine, {"$gt": ["$held_until", 0]}]}
    held = {
        "lease": {"$cond": [mine, "$lease", "$$REMOVE"]},
        "due_at": {"$cond": [mine, "$due_at", 0.0]},
        "takes": {"$add": ["$takes", {"$cond": [goes_on, 0, 1]}]},
        "worker_id": worker_id,
        "held_until": until,
    }
    found = scope[JOBS].find_one_and_update(wanted, [{"$set": held}], sort=[("_id", 1)])
    return None if found is None else _job(found)


def _held(worker_id: int, number: int, now: float) -> Filter:
    return {"_id": number, "worker_id": worker_id, "held_until": {"$gt": now}}


def let_go(scope: Scope, worker_id: int, number: int) -> None:
    scope[JOBS].update_one({"_id": number, "worker_id": worker_id}, {"$set": {"held_until": 0.0}})


def finish(scope: Scope, worker_id: int, number: int, now: float) -> bool:
    return scope[JOBS].delete_one(_held(worker_id, number, now)) > 0


def advance(scope: Scope, worker_id: int, number: int, now: float, details: Mapping[str, Any]) -> bool:
    return scope[JOBS].update_one(_held(worker_id, number, now), {"$set": {"details": json.dumps(dict(details))}}) > 0


def fail(scope: Scope, worker_id: int, number: int, now: float, error: str) -> bool:
    failed = {"held_until": 0.0, "error": error, "failed_at": now}
    return scope[JOBS].update_one(_held(worker_id, number, now), {"$set": failed}) > 0


def retry(scope: Scope, number: int) -> bool:
    failed = {"_id": number, "failed_at": {"$exists": True}}
    return scope[JOBS].update_one(failed, changes({"error": None, "failed_at": None})) > 0


def _job(found: Document) -> Job:
    details: dict[str, Any] = json.loads(found["details"])
    if found["kind"] in (CUT, RANGE):
        details |= {name: None if found.get(field) is None else ids.show(found[field]) for name, field in _PARTS.items()}
    return Job(
        ids.show(found["_id"]),
        found["project"],
        found["kind"],
        details,
        found["created_at"],
        found["takes"],
        found.get("worker_id"),
        found["held_until"],
        found.get("error"),
    )


# -- fan-outs ------------------------------------------------------------------------------------------------------------------


def add_cut(scope: Scope, entry: Document, after: int, now: float) -> None:
    """It takes the place of an outbox entry."""
    queue = scope[QUEUES].find_one({"_id": entry["queue_id"]}, ["project"]) or {}
    part = {
        "message_id": entry["_id"],
        "queue_id": entry["queue_id"],
        "after_id": after,
        "cancelled": entry["cancelled"],
    }
    _insert(scope, queue["project"], CUT, now, part)


def cut(scope: Scope, worker_id: int, number: int, size: int, now: float) -> bool:
    """One step; see `Storage.cut`."""
    job = scope[JOBS].find_one({**_held(worker_id, number, now), "kind": CUT})
    if job is None:
        return False
    queue = scope[QUEUES].find_one({"_id": job.get("queue_id"), "deleted_at": LIVE}, ["project", "name"])
    last = None
    if queue is not None:
        after = job.get("after_id", 0)
        last = _end_of_range(scope, queue, after, size - 1)
        if last is not None or _end_of_range(scope, queue, after, 0) is not None:
            part = {name: job.get(name) for name in ("message_id", "queue_id", "after_id", "cancelled")}
            _insert(scope, job["project"], RANGE, now, {**part, "last_id": last})
    if last is None:
        scope[JOBS].delete_one({"_id": number})
        return False
    scope[JOBS].update_one({"_id": number}, {"$set": {"after_id": last}})
    return True


def _end_of_range(scope: Scope, queue: Document, after: int, offset: int) -> int | None:
    """Walks the index alone."""
    behind = {"project": queue["project"], "queue": queue["name"], "deleted_at": LIVE, "_id": {"$gt": after}}
    found = scope[SUBSCRIPTIONS].aggregate(
        [{"$match": behind}, {"$sort": {"_id": 1}}, {"$skip": offset}, {"$limit": 1}, {"$project": {"_id": 1}}],
        hint="ix_subscriptions_queue",
    )
    return found[0]["_id"] if found else None


def covering(subscription: int) -> Filter:
    """Of jobs: those in whose range this subscription is."""
    return {
        "$and": [
            {"$or": [{"after_id": None}, {"after_id": {"$lt": subscription}}]},
            {"$or": [{"last_id": None}, {"last_id": {"$gte": subscription}}]},
        ]
    }
