"""The greatest ids that pruning has removed. In here each queue knows by itself which ids it has given out; another storage
that everything is copied to has to give out ids above these.
"""

from __future__ import annotations

from collections.abc import Mapping

from zaqar_notify.storage.mongodb.collections import CLAIMS, COUNTERS, FLOORS, MESSAGES, QUEUES, SUBSCRIPTIONS
from zaqar_notify.storage.mongodb.scope import Scope

FLOORED = (CLAIMS, MESSAGES, SUBSCRIPTIONS)
_OF_LATER = "last"


def keep(scope: Scope, removed: Mapping[str, int]) -> None:
    """By the name of the collection. To be called before it is removed."""
    scope[COUNTERS].update_one({"_id": FLOORS}, {"$max": removed}, upsert=True)


def kept(scope: Scope) -> dict[str, int]:
    found = scope[COUNTERS].find_one({"_id": FLOORS}, FLOORED) or {}
    return {name: found[name] for name in FLOORED if name in found}


def raise_all(scope: Scope, last: int) -> None:
    """Ids of queues that have given out none yet, and of those that are made later, are above this one."""
    keep(scope, {_OF_LATER: last})
    scope[QUEUES].update_many({"last_id": 0}, {"$set": {"last_id": last}})


def of_new_queue(scope: Scope) -> int:
    found = scope[COUNTERS].find_one({"_id": FLOORS}, [_OF_LATER]) or {}
    return int(found.get(_OF_LATER, 0))
