"""Subscriptions whose deliveries fail: the strikes against them, and being disabled."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from zaqar_notify.model import Alert, Disabled
from zaqar_notify.storage.base import Failure, Settlement


@dataclasses.dataclass(slots=True)
class Standing:
    """What is stored of a subscription's failures."""

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

    @property
    def recovered(self) -> list[int]:
        """Subscriptions that have recovered, before anything else was said about them."""
        return list(self._recovered)

    @property
    def judged(self) -> list[int]:
        """Subscriptions whose standing is needed for `judge`."""
        return list(self._judged)

    @property
    def messages(self) -> set[int]:
        """Those that alerts may come from."""
        return {message for judged in self._judged.values() for message, _ in judged}

    def judge(self, standings: Iterable[tuple[int, Standing]]) -> list[tuple[int, Alert]]:
        """Changes the standings. Returns the alerts, with the messages that they come from."""
        return [
            (message, alert)
            for subscription, standing in standings
            for message, settlement in self._judged[subscription]
            for alert in _judge(standing, settlement)
        ]


def _judge(standing: Standing, settlement: Settlement) -> list[Alert]:
    if settlement.disable is not None:
        standing.disable(settlement.disable)
    if settlement.recovered:
        standing.recover()
    failure = settlement.failure
    return list(failure.alerts) if failure is not None and standing.fail(failure) else []
