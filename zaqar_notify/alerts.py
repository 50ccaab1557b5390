"""What owners are told when something of theirs goes wrong: alerts, and dead letters. Both are messages in ordinary queues; an
alert goes to the owner's callback URL as well."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from zaqar_notify.addresses import callback_url
from zaqar_notify.masking import masked
from zaqar_notify.model import Alert, Draft, Message, MessageKind, State, Subscription

SAMPLE = 1024
"""Characters of a message's body that an alert shows."""
MOST_HOPS = 5
"""So often at most is a message moved from one dead-letter queue to the next: they may form a circle."""
HOPS = "dead_letter_hops"
OWNERS = frozenset({"delivery.dead", "subscription.disabled"})
"""The events that the owner of a subscription is told of at its ``callback`` URL."""


@dataclasses.dataclass(frozen=True, slots=True)
class Alerts:
    queue: str | None
    """Of the project concerned; None: nobody is told but at the ``callback`` URL of a subscription."""
    every: float = 3600.0
    ttl: int = 345600

    def dead(self, message: Message, subscription: Subscription, state: State, detail: str, at: float) -> list[Alert]:
        event = {"state": state.value, "message_id": message.public_id, "error": detail, "at": at}
        return self._about("delivery.dead", message, subscription, event)

    def disabled(self, message: Message, subscription: Subscription, reason: str, detail: str, at: float) -> list[Alert]:
        event = {"reason": reason, "message_id": message.public_id, "error": detail, "at": at}
        return self._about("subscription.disabled", message, subscription, event)

    def credential(self, message: Message, subscription: Subscription, credential: str, detail: str, at: float) -> list[Alert]:
        event = {"credential": credential, "error": detail, "at": at}
        return self._about("credential.paused", message, subscription, event, of=credential)

    def _about(
        self, name: str, message: Message, subscription: Subscription, event: dict[str, Any], of: str | None = None
    ) -> list[Alert]:
        """For the alert queue, and for the owner's callback URL. Neither about the alert queue itself nor about what told an
        owner of something: an alert that cannot be delivered would raise the next one."""
        if message.kind is MessageKind.CALLBACK:
            return []
        queue = None if message.queue == self.queue else self.queue
        owner = subscription.id if name in OWNERS and callback_url(subscription) is not None else None
        if queue is None and owner is None:
            return []
        document = {
            "event": name,
            "queue": message.queue,
            "subscription_id": subscription.id,
            "subscriber": masked(subscription.subscriber),
            **event,
            "sample": _sample(message),
        }
        cause, draft = f"{name}:{of or subscription.id}", Draft(_json(document), self.ttl)
        return [
            *([Alert(cause, queue, draft, self.every)] if queue is not None else ()),
            *([Alert(f"{cause}:callback", message.queue, draft, self.every, owner)] if owner is not None else ()),
        ]


def dead_letter(
    message: Message, subscription: Subscription, state: State, detail: str, attempts: int
) -> list[tuple[str, Draft]]:
    """The message for the subscription's ``dead_letter_queue``, if it has one: as it was, and why it died as attributes.

    Only what clients posted: a request to confirm is for the eyes of the subscriber alone.
    """
    if message.kind is not MessageKind.NOTIFICATION:
        return []
    queue = subscription.options.get("dead_letter_queue")
    hops = message.attributes.get(HOPS, 0)
    # The body cannot be opened, or was dropped before what had been delivered was reported as failed.
    if not isinstance(queue, str) or not isinstance(hops, int) or hops >= MOST_HOPS or not message.body_json:
        return []
    attributes = {
        **message.attributes,
        "dead_letter_state": state.value,
        "dead_letter_error": detail,
        "dead_letter_attempts": attempts,
        "dead_letter_source": message.queue,
        "dead_letter_message_id": message.public_id,
        "dead_letter_subscription_id": subscription.id,
        HOPS: hops + 1,
    }
    draft = Draft(
        message.body_json,
        message.ttl,
        attributes,
        parent_id=message.id,
        collapse_key=message.collapse_key,
        priority=message.priority,
        language=message.language,
    )
    return [(queue, draft)]


def _sample(message: Message) -> str:
    if message.kind is MessageKind.CONFIRMATION:
        return ""  # whoever reads it could confirm in the subscriber's place
    text = message.body_json.decode("utf-8", "replace")
    return text if len(text) <= SAMPLE else text[: SAMPLE - 3] + "..."


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
