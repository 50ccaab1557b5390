"""How much waits: counted by indexes alone, and not all of what is very much."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zaqar_notify.storage.base import Depths
from zaqar_notify.storage.mongodb.collections import DELIVERIES, JOBS, LANES, MESSAGES, OUTBOX
from zaqar_notify.storage.mongodb.scope import Bound, Scope

MOST_COUNTED = 20_000
_Condition = tuple[Mapping[str, Any], str]
"""With the index to count by."""

_LEASED = {"lease": {"$gte": 0}}
_DUE: _Condition = ({"project_id": {"$gte": 0}, "due_at": {"$gte": 0.0}}, "ix_deliveries_due")
_PARKED: _Condition = ({"lane_id": {"$gte": 0}, "due_at": None}, "ix_deliveries_lane")


def measure(scope: Scope, now: float, most: int = MOST_COUNTED) -> Depths:
    """Of a part that has more than ``most`` the server's estimate is enough."""
    pending, parked, in_flight = _deliveries(scope[DELIVERIES], most)
    failed = scope[JOBS].count({"failed_at": {"$gte": 0.0}}, hint="ix_jobs_failed")
    return Depths(
        outbox=_outbox(scope[OUTBOX], most),
        oldest_at=_oldest_entry(scope, now),
        pending=pending,
        parked=parked,
        in_flight=in_flight,
        breakers=scope[LANES].count({"trips": {"$gt": 0}}, hint="ix_lanes_open"),
        jobs=scope[JOBS].count({"failed_at": None}),
        failed_jobs=failed,
    )


def _outbox(entries: Bound, most: int) -> int:
    counted = entries.count({"project_id": {"$gte": 0}}, hint="ix_outbox_due", limit=most)
    return counted if counted < most else max(counted, entries.estimate())


def _deliveries(rows: Bound, most: int) -> tuple[int, int, int]:
    """Pending, parked, in flight. Those in flight have a due time, the end of their lease; those that are parked have none. Of
    very many one part is what is left by the others."""
    in_flight = rows.count(_LEASED, hint="ix_deliveries_lease")
    due, parked = (rows.count(condition, hint=index, limit=most) for condition, index in (_DUE, _PARKED))
    if max(due, parked) < most:
        return max(0, due - in_flight), parked, in_flight
    total = rows.estimate()
    if due == parked:
        due = rows.count(_DUE[0], hint=_DUE[1])
    elif parked < most:
        due = max(due, total - parked)
    if parked == most:
        parked = max(parked, total - due)
    return max(0, due - in_flight), parked, in_flight


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
