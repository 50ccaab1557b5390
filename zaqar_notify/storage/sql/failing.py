"""What becomes of subscriptions whose deliveries fail, in the tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from zaqar_notify.model import Alert
from zaqar_notify.storage import failing
from zaqar_notify.storage.failing import Standing
from zaqar_notify.storage.sql import statements
from zaqar_notify.storage.sql.statements import json_list


class Verdicts(failing.Verdicts):
    def store(self, run: Callable[..., Any]) -> list[tuple[int, Alert]]:
        """Returns the alerts, with the messages that they come from."""
        if self.recovered:
            # These were before any failure.
            run(statements.RECOVER, json_list(self.recovered))
        if not self.judged:
            return []
        found = run(statements.STANDINGS, json_list(self.judged)).all()
        standings = [(subscription, Standing(*columns)) for subscription, *columns in found]
        alerts = self.judge(standings)
        if standings:
            run(statements.JUDGE, [(*dataclasses.astuple(standing), subscription) for subscription, standing in standings])
        return alerts
