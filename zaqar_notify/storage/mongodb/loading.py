"""What a worker needs to know of what it has taken."""

from __future__ import annotations

from collections.abc import Callable, Collection

from zaqar_notify.model import MessageKind, Subscription
from zaqar_notify.storage import ids
from zaqar_notify.storage.base import Loaded
from zaqar_notify.storage.bodies import Bodies
from zaqar_notify.storage.codes import KIND_CODES
from zaqar_notify.storage.mongodb.collections import (
    DELIVERIES,
    DELIVERY_LOG,
    LIVE,
    MESSAGE_FIELDS,
    MESSAGES,
    QUEUES,
    SUBSCRIPTIONS,
    Document,
    deliveries_of,
    lines_of,
    of_delivery_key,
    of_line_key,
    values,
)
from zaqar_notify.storage.mongodb.scope import Scope


def load(
    scope: Scope,
    message_ids: Collection[int],
    subscription_ids: Collection[int],
    *,
    now: float,
    bodies: Bodies,
    make_subscription: Callable[[Document], Subscription],
) -> Loaded:
    messages = {}
    if message_ids:
        found = scope[MESSAGES].find({"_id": {"$in": list(message_ids)}}, [*MESSAGE_FIELDS, "queue_id"])
        queues = _queues(scope, {message["queue_id"] for message in found})
        for document in found:
            queue = queues.get(document["queue_id"])
            if queue is not None and not cancelled_with_queue(document, queue):
                message = bodies.message(queue["project"], queue["name"], values(document, MESSAGE_FIELDS), now)
                messages[message.id] = message
    subscriptions = {}
    if subscription_ids:
        for document in scope[SUBSCRIPTIONS].find({"_id": {"$in": list(subscription_ids)}}):
            if not is_deleted(document):
                subscription = make_subscription(document)
                subscriptions[subscription.id] = subscription
    return Loaded(messages, subscriptions)


def _queues(scope: Scope, numbers: Collection[int]) -> dict[int, Document]:
    found = scope[QUEUES].find({"_id": {"$in": list(numbers)}}, ["project", "name", "deleted_at"]) if numbers else []
    return {queue["_id"]: queue for queue in found}


def cancelled_with_queue(message: Document, queue: Document) -> bool:
    """Requests to confirm belong to their subscriptions, which outlive the queue."""
    return bool(queue["deleted_at"] != LIVE and message["kind"] == KIND_CODES[MessageKind.NOTIFICATION])


def is_deleted(subscription: Document) -> bool:
    """One that was only found expired was not deleted: its deliveries end as expired."""
    return bool(subscription["deleted_at"] != LIVE and subscription["deleted_at"] != subscription.get("expires_at"))


def known(scope: Scope, message: int, behind: int, last: int | None) -> set[str]:
    """Subscriptions of which the log or a row knows the message. Reads the keys alone."""
    of_lines = scope[DELIVERY_LOG].find({"_id": lines_of(message, behind, last)}, ["_id"])
    of_rows = scope[DELIVERIES].find({"_id": deliveries_of(message, behind, last)}, ["_id"])
    found = {of_line_key(line["_id"])[1] for line in of_lines}
    found |= {of_delivery_key(row["_id"])[1] for row in of_rows}
    return set(map(ids.show, found))
