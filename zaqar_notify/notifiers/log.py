"""``log:`` subscribers, for development: each notification becomes a line in the log."""

from __future__ import annotations

from typing import ClassVar

from oslo_config import cfg

from zaqar_notify.model import Delivery, Outcome, OutcomeKind, Subscription
from zaqar_notify.notifiers.base import SingleNotifier


class LogNotifier(SingleNotifier):
    section: ClassVar[str] = "log"
    options: ClassVar[list[cfg.Opt]] = [
        cfg.IntOpt("body_bytes", default=200, min=0, help="How much of a message's body is logged, in bytes."),
    ]

    def send(self, delivery: Delivery) -> Outcome:
        message = delivery.message
        body = message.body_json[: self.conf.body_bytes].decode("utf-8", "replace")
        self.log.info(
            "notification queue=%s message=%s subscription=%s attempt=%d body=%s%s",
            message.queue,
            message.public_id,
            delivery.subscription.id,
            delivery.attempt,
            "".join(one if one.isprintable() else " " for one in body),
            "..." if len(message.body_json) > self.conf.body_bytes else "",
        )
        return Outcome(OutcomeKind.DELIVERED, "logged")

    def lane(self, subscription: Subscription) -> str:
        return "log:"
