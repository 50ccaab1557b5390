"""Alerts: not more often than each of them says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zaqar_notify.model import Alert
from zaqar_notify.storage.sql import statements

_KEPT = 86_400.0
"""Seconds that is remembered, at least, when there was the last one for a cause."""


def is_due(run: Callable[..., Any], project: str, alert: Alert, now: float) -> bool:
    """Whether it may be published now; it then is the last one."""
    told = {"project": project, "cause": alert.cause, "now": now, "every": alert.every}
    return bool(run(statements.PUT_ALERT, {**told, "prune_at": now + max(alert.every, _KEPT)}).rowcount)
