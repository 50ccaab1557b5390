"""Projects, which share the work that is taken, have numbers."""

from __future__ import annotations

from zaqar_notify.storage.mongodb.collections import PROJECTS
from zaqar_notify.storage.mongodb.scope import Scope


def number_of(scope: Scope, name: str) -> int:
    """For a new queue or lane of the project; gives it a number when it has none.

    It is written to, so that housekeeping, which removes projects without queues and lanes, does not miss the new one.
    """
    found = scope[PROJECTS].find_one_and_update({"name": name}, {"$inc": {"uses": 1}}, {"_id": 1})
    if found is None:
        number = scope.number(PROJECTS)
        scope[PROJECTS].insert_one({"_id": number, "name": name, "uses": 1})
        return number
    return int(found["_id"])
