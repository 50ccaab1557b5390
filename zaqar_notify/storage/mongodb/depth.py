"""How much waits: counted by indexes alone."""

from __future__ import annotations

from typing import Any

from zaqar_notify.storage.base import Depths
from zaqar_notify.storage.mongodb.collections import DELIVERIES, JOBS, LANES, MESSAGES, OUTBOX
from zaqar_notify.storage.mongodb.session import Scope

_LEASED = {"lease": {"$gte": 0}}


def measure(scope: Scope, now: float) -> Depths:
    rows = scope[DELIVERIES]
    due = rows.count({"project_id": {"$gte": 0}, "due_at": {"$gte": 0.0}}, hint="ix_deliveries_due")
    leased = rows.count(_LEASED, hint="ix_deliveries_lease")
    failed = scope[JOBS].count({"failed_at": {"$gte": 0.0}}, hint="ix_jobs_failed")
    return Depths(
        outbox=scope[OUTBOX].count({"project_id": {"$gte": 0}}, hint="ix_outbox_due"),
        oldest_at=_oldest_entry(scope, now),
        pending=due - leased,
        # Those that are under a lease have a due time: its end.
        parked=rows.count({"lane_id": {"$gte": 0}, "due_at": None}, hint="ix_deliveries_lane"),
        in_flight=leased,
        breakers=scope[LANES].count({"trips": {"$gt": 0}}, hint="ix_lanes_open"),
        jobs=scope[JOBS].count({"failed_at": None}),
        failed_jobs=failed,
    )


def _oldest_entry(scope: Scope, now: float) -> float | None:
    """When it was posted, or its delay ended. Of each project the oldest that is due at once, and the one that has been due for
    longest, are candidates; and all that are leased."""
    found = {one["first"] for due_at in (0.0, {"$gt": 0.0, "$lte": now}) for one in _first_of_projects(scope, due_at)}
    found |= {entry["_id"] for entry in scope[OUTBOX].find(_LEASED, ["_id"], hint="ix_outbox_lease")}
    if not found:
        return None
    # What is delayed has its expiry a ttl after the end of the delay.
    messages = scope[MESSAGES].find({"_id": {"$in": list(found)}}, ["created_at", "expires_at", "ttl"])
    return min((max(one["created_at"], one["expires_at"] - one["ttl"]) for one in messages), default=None)


def _first_of_projects(scope: Scope, due_at: Any) -> list[dict[str, Any]]:
    return scope[OUTBOX].aggregate(
        [
            {"$match": {"project_id": {"$gte": 0}, "due_at": due_at}},
            {"$sort": {"project_id": 1, "due_at": 1, "_id": 1}},
            {"$group": {"_id": "$project_id", "first": {"$first": "$_id"}}},
        ],
        hint="ix_outbox_due",
    )
