"""Alerts: not more often than each of them says."""

from __future__ import annotations

from zaqar_notify.model import Alert
from zaqar_notify.storage.mongodb.collections import ALERTS, alert_key
from zaqar_notify.storage.mongodb.scope import Scope

_KEPT = 86_400.0
"""Seconds that is remembered, at least, when there was the last one for a cause."""


def is_due(scope: Scope, project: str, alert: Alert, now: float) -> bool:
    """Whether it may be published now; it then is the last one."""
    key = {"_id": alert_key(project, alert.cause)}
    found = scope[ALERTS].find_one(key)
    # One of the future is from before the clock was set back.
    if found is not None and found["at"] <= now < found["at"] + alert.every:
        return False
    scope[ALERTS].update_one(key, {"$set": {"at": now, "prune_at": now + max(alert.every, _KEPT)}}, upsert=True)
    return True
