"""The workers of the cluster. A server cannot see whether a process lives: a member says so, again and again.

No transactions: whoever finds a dead member removes it first, and only one does; leases that then are not ended by that one,
because it dies too, end by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zaqar_notify.model import Member
from zaqar_notify.storage.mongodb.collections import DELIVERIES, JOBS, LANES, OUTBOX, WORKERS
from zaqar_notify.storage.mongodb.scope import Scope
from zaqar_notify.storage.mongodb.taking import WORKER_SHIFT, tokens_of

_FREE: Mapping[str, Any] = {"$set": {"due_at": 0.0}, "$unset": {"lease": ""}}


def join(scope: Scope, host: str, pid: int, version: str, now: float) -> int:
    number = scope.number(WORKERS)
    scope[WORKERS].insert_one({"_id": number, "joined_at": now, "host": host, "pid": pid, "version": version, "seen_at": now})
    return number


def beat(scope: Scope, worker_id: int, now: float) -> bool:
    return scope[WORKERS].update_one({"_id": worker_id}, {"$set": {"seen_at": now}}) > 0


def leave(scope: Scope, worker_id: int) -> None:
    release(scope, worker_id)
    scope[WORKERS].delete_one({"_id": worker_id})


def recover(scope: Scope, seen_before: float) -> int:
    """Members that have said nothing since then are dead; returns how many this call has found."""
    found = 0
    for member in scope[WORKERS].find({"seen_at": {"$lt": seen_before}}, ["seen_at"]):
        # Unless it has said meanwhile that it lives.
        if scope[WORKERS].delete_one(member):
            release(scope, member["_id"])
            found += 1
    return found


def release(scope: Scope, worker_id: int) -> None:
    """End every lease of a worker. What it had taken from a lane comes due at once."""
    for collection in (OUTBOX, DELIVERIES, LANES, JOBS):
        scope[collection].update_many({"lease": tokens_of(worker_id)}, _FREE)
    scope[JOBS].update_many({"worker_id": worker_id, "held_until": {"$gt": 0.0}}, {"$set": {"held_until": 0.0}})


def members(scope: Scope, now: float) -> list[Member]:
    found = scope[WORKERS].find({}, sort=[("_id", 1)])
    held = {collection: _leases(scope, collection) for collection in (OUTBOX, DELIVERIES, LANES)}
    jobs = _jobs(scope, now)
    return [
        Member(
            worker["_id"],
            worker["host"],
            worker["pid"],
            worker["version"],
            worker["joined_at"],
            worker["seen_at"],
            entries=held[OUTBOX].get(worker["_id"], 0),
            rows=held[DELIVERIES].get(worker["_id"], 0),
            lanes=held[LANES].get(worker["_id"], 0),
            jobs=jobs.get(worker["_id"], 0),
        )
        for worker in found
    ]


def _leases(scope: Scope, collection: str) -> dict[int, int]:
    """How many each worker has, counted by the index alone."""
    pipeline: list[Mapping[str, Any]] = [
        {"$match": {"lease": {"$gte": 0}}},
        {"$group": {"_id": {"$floor": {"$divide": ["$lease", 1 << WORKER_SHIFT]}}, "count": {"$sum": 1}}},
    ]
    counted = scope[collection].aggregate(pipeline, hint=f"ix_{collection}_lease")
    return {int(one["_id"]): one["count"] for one in counted}


def _jobs(scope: Scope, now: float) -> dict[int, int]:
    held = {"held_until": {"$gt": now}, "failed_at": None}
    pipeline: list[Mapping[str, Any]] = [{"$match": held}, {"$group": {"_id": "$worker_id", "count": {"$sum": 1}}}]
    return {one["_id"]: one["count"] for one in scope[JOBS].aggregate(pipeline)}
