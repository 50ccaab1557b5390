"""Asking a subscriber whether it wants to be subscribed."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable
from typing import Any

from zaqar_notify import validation
from zaqar_notify.model import Draft, Message, Subscription
from zaqar_notify.signing import UrlSigner

_ADDRESS = "subscriber_sha256"
"""Attribute of a request to confirm: whom it asks."""
_SUBSCRIBING = "Somebody wants this address to be notified of the messages of the queue {}. It is asked to agree first."
_UNSUBSCRIBING = "This address is no longer notified of the messages of the queue {}. It can agree to it again."


@dataclasses.dataclass(frozen=True, slots=True)
class Confirmations:
    """Makes the requests to confirm. Whoever sends the signed headers of one back, with PUT, to its path decides."""

    required: bool
    ttl: int
    """Seconds that a request can be answered."""
    public_url: str | None
    """Where subscribers reach this API; None: they know."""
    signer: UrlSigner
    clock: Callable[[], float] = time.time

    def of(self, subscription: Subscription) -> Draft:
        """Asks the subscriber to agree. Raises `InvalidRequest` where the project cannot have signed URLs."""
        return self._draft(subscription, "SubscriptionConfirmation", _SUBSCRIBING)

    def of_end(self, subscription: Subscription) -> Draft:
        """Tells the subscriber that it has left, and how to come back."""
        return self._draft(subscription, "UnsubscribeConfirmation", _UNSUBSCRIBING)

    def _draft(self, subscription: Subscription, kind: str, text: str) -> Draft:
        path = confirm_path(subscription)
        expires_at = min(self.clock() + self.ttl, validation.END_OF_TIME)
        signed = self.signer.sign([path], ["PUT"], subscription.project, expires_at)
        document: dict[str, Any] = {
            "Message_Type": kind,
            "Message": text.format(subscription.queue),
            "queue_name": subscription.queue,
            "URL-Signature": signed.signature,
            "URL-Methods": signed.methods[0],
            "URL-Paths": signed.paths[0],
            "URL-Expires": signed.expires,
            "X-Project-ID": signed.project,
            "SubscribeBody": {"confirmed": True},
            "UnsubscribeBody": {"confirmed": False},
        }
        if self.public_url:
            document["WSGISubscribeURL"] = self.public_url.rstrip("/") + path
        return Draft(validation.compact_json(document), self.ttl, {_ADDRESS: _digest(subscription)})


def is_for(request: Message, subscription: Subscription) -> bool:
    """This request to confirm asks the address that the subscription has now."""
    return request.attributes.get(_ADDRESS) == _digest(subscription)


def _digest(subscription: Subscription) -> str:
    return hashlib.sha256(subscription.subscriber.encode()).hexdigest()


def confirm_path(subscription: Subscription) -> str:
    return f"/v2/queues/{subscription.queue}/subscriptions/{subscription.id}/confirm"
