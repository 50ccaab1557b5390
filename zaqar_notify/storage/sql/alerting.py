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
    last = run(statements.LAST_ALERT, (project, alert.cause)).scalar()
    # One of the future is from before the clock was set back.
    if last is not None and last <= now < last + alert.every:
        return False
    run(statements.PUT_ALERT, (project, alert.cause, now, now + max(alert.every, _KEPT)))
    return True
