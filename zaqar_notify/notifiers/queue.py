"""``queue:`` subscribers: each message is copied into another queue of the same project."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import ClassVar

from oslo_config import cfg

from zaqar_notify.errors import InvalidQueue, InvalidRequest
from zaqar_notify.model import Delivery, Draft, Message, Outcome, OutcomeKind, Subscription
from zaqar_notify.notifiers.base import BatchNotifier, Report
from zaqar_notify.validation import check_queue_name

HOPS = "copy_hops"
"""The attribute of a copy that says how many copies led to it."""


class QueueNotifier(BatchNotifier):
    """The copy is stored in the transaction that settles the delivery: it is there once, or the delivery has not happened."""

    section: ClassVar[str] = "queue"
    options: ClassVar[list[cfg.Opt]] = [
        cfg.IntOpt(
            "max_hops",
            default=5,
            min=1,
            max=100,
            help="So often at most is a message copied from one queue to the next: they may form a circle.",
        ),
    ]

    def check(self, subscription: Subscription) -> None:
        _target(subscription)

    def lane(self, subscription: Subscription) -> str:
        return subscription.subscriber

    def send_many(self, deliveries: Sequence[Delivery], report: Report) -> None:
        for delivery in deliveries:
            try:
                outcome = self._copy(delivery)
            except Exception as error:
                self.log.exception("Delivery %s could not be copied", delivery.id)
                outcome = Outcome(OutcomeKind.OURS, f"no copy could be made: {type(error).__name__}")
            report(delivery, outcome)

    def _copy(self, delivery: Delivery) -> Outcome:
        message = delivery.message
        hops = _hops(message)
        if hops >= self.conf.max_hops:
            detail = f"copied {hops} times before, and [queue] max_hops allows no more: do these queues form a circle?"
            return Outcome(OutcomeKind.REJECTED, detail)
        try:
            queue = _target(delivery.subscription)
        except InvalidRequest as error:
            return Outcome(OutcomeKind.REJECTED, str(error), target=True)
        return Outcome(OutcomeKind.DELIVERED, "copied", publish=((queue, _draft(message, hops + 1, time.time())),))


def _target(subscription: Subscription) -> str:
    """The name of the queue. Raises `InvalidRequest`."""
    scheme, _, name = subscription.subscriber.partition(":")
    if scheme.lower() != "queue":
        raise InvalidRequest("The subscriber has to be queue: and the name of a queue of this project.")
    try:
        check_queue_name(name)
    except InvalidQueue as error:
        raise InvalidRequest(f"The subscriber has to be queue: and the name of a queue of this project. {error}") from None
    if name == subscription.queue:
        raise InvalidRequest("The subscriber is the queue that is subscribed to: each message would be copied for ever.")
    return name


def _hops(message: Message) -> int:
    hops = message.attributes.get(HOPS)  # clients may have set it to anything
    return hops if type(hops) is int and hops > 0 else 0


def _draft(message: Message, hops: int, now: float) -> Draft:
    left = message.expires_at - now  # nothing, when one that has expired is delivered again
    return Draft(
        message.body_json,
        max(int(left), 1) if left > 0 else message.ttl,
        {**message.attributes, "copy_source": message.queue, "copy_message_id": message.public_id, HOPS: hops},
        parent_id=message.id,
        collapse_key=message.collapse_key,
        priority=message.priority,
        language=message.language,
    )
