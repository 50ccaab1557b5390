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
        recovered, judged = set(self.recovered), set(self.judged)
        if not judged:
            if recovered:
                run(statements.RECOVER, json_list(recovered))
            return []
        # All at once: whoever holds several takes hold of them in one order.
        asked = [(subscription, int(subscription in judged)) for subscription in recovered | judged]
        found = run(statements.STANDINGS, json_list(asked)).all()
        standings = [(subscription, Standing(*columns)) for subscription, *columns in found]
        for subscription, standing in standings:
            if subscription in recovered:
                # That was before any failure.
                standing.recover()
        alerts = self.judge((subscription, standing) for subscription, standing in standings if subscription in judged)
        if standings:
            run(statements.JUDGE, [(*dataclasses.astuple(standing), subscription) for subscription, standing in standings])
        return alerts
