"""What becomes of subscriptions whose deliveries fail, in the collection."""

from __future__ import annotations

from pymongo import UpdateOne

from zaqar_notify.model import Alert
from zaqar_notify.storage import failing
from zaqar_notify.storage.failing import Standing
from zaqar_notify.storage.mongodb.collections import LIVE, SUBSCRIPTIONS, Document, changes
from zaqar_notify.storage.mongodb.scope import Scope

_FIELDS = ("strikes", "failing_since", "disabled_at", "disabled_reason", "disabled_enable_by")


class Verdicts(failing.Verdicts):
    def store(self, scope: Scope) -> list[tuple[int, Alert]]:
        """Returns the alerts, with the messages that they come from."""
        if self.recovered:
            self._recover(scope)
        if not self.judged:
            return []
        found = scope[SUBSCRIPTIONS].find({"_id": {"$in": self.judged}, "deleted_at": LIVE}, _FIELDS)
        standings = [(subscription["_id"], _standing(subscription)) for subscription in found]
        alerts = self.judge(standings)
        scope[SUBSCRIPTIONS].bulk_write(
            [UpdateOne({"_id": subscription}, changes(_stored(standing))) for subscription, standing in standings]
        )
        return alerts

    def _recover(self, scope: Scope) -> None:
        """These were before any failure; nearly always there is nothing to forget."""
        failing_now = {"_id": {"$in": self.recovered}, "failing_since": {"$exists": True}}
        found = scope[SUBSCRIPTIONS].find(failing_now, ["_id"], hint="ix_subscriptions_failing")
        if found:
            recovered = {"_id": {"$in": [subscription["_id"] for subscription in found]}}
            scope[SUBSCRIPTIONS].update_many(recovered, changes({"strikes": 0, "failing_since": None}))


def _standing(subscription: Document) -> Standing:
    strikes, failing_since, disabled_at, reason, enable_by = map(subscription.get, _FIELDS)
    return Standing(strikes or 0, failing_since, disabled_at, reason, enable_by)


def _stored(standing: Standing) -> Document:
    state = (standing.strikes, standing.failing_since, standing.disabled_at, standing.reason, standing.enable_by)
    return dict(zip(_FIELDS, state, strict=True))
