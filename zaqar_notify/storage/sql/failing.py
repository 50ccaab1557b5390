"""Subscriptions whose deliveries fail: the strikes against them, and being disabled."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from zaqar_notify.model import Alert, Disabled
from zaqar_notify.storage.base import Failure, Settlement
from zaqar_notify.storage.sql import statements
from zaqar_notify.storage.sql.statements import json_list


@dataclasses.dataclass(slots=True)
class _Standing:
    strikes: int
    failing_since: float | None
    disabled_at: float | None
    reason: str | None
    enable_by: str | None

    def disable(self, why: Disabled) -> bool:
        """False when it is disabled already."""
        if self.disabled_at is not None:
            return False
        self.disabled_at, self.reason, self.enable_by = why.at, why.reason, why.enable_by
        return True

    def recover(self) -> None:
        self.strikes, self.failing_since = 0, None

    def fail(self, failure: Failure) -> bool:
        """Whether it is disabled by this one."""
        self.strikes = self.strikes + 1 if failure.strike else 0
        if self.failing_since is None:
            self.failing_since = failure.at
        if self.strikes >= failure.most_strikes:
            return self.disable(Disabled(failure.reason_strikes, failure.at))
        if failure.at - self.failing_since >= failure.longest:
            return self.disable(Disabled(failure.reason_longest, failure.at))
        return False


class Verdicts:
    """What settlements say about their subscriptions, in order."""

    def __init__(self) -> None:
        self._recovered: dict[int, None] = {}
        self._judged: dict[int, list[tuple[int, Settlement]]] = {}

    def add(self, settlement: Settlement, message: int, subscription: int) -> None:
        judged = settlement.disable is not None or settlement.failure is not None
        if judged or (settlement.recovered and subscription in self._judged):
            self._judged.setdefault(subscription, []).append((message, settlement))
        elif settlement.recovered:
            self._recovered[subscription] = None

    def store(self, run: Callable[..., Any]) -> list[tuple[int, Alert]]:
        """Returns the alerts, with the messages that they come from."""
        if self._recovered:
            # These were before any failure.
            run(statements.RECOVER, json_list(self._recovered))
        if not self._judged:
            return []
        alerts: list[tuple[int, Alert]] = []
        stored = []
        for subscription, *columns in run(statements.STANDINGS, json_list(self._judged)).all():
            standing = _Standing(*columns)
            for message, settlement in self._judged[subscription]:
                alerts += ((message, alert) for alert in _judge(standing, settlement))
            stored.append((*dataclasses.astuple(standing), subscription))
        if stored:
            run(statements.JUDGE, stored)
        return alerts


def _judge(standing: _Standing, settlement: Settlement) -> list[Alert]:
    if settlement.disable is not None:
        standing.disable(settlement.disable)
    if settlement.recovered:
        standing.recover()
    failure = settlement.failure
    if failure is not None and standing.fail(failure) and failure.alert is not None:
        return [failure.alert]
    return []
